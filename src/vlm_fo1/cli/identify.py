"""`fo1 identify`."""

from vlm_fo1.cli.asking import Question, asking


@asking
def command() -> Question:
    """Name every object, with its boxes.

    fo1 identify photo.jpg --boxes boxes.json --out found.jpg
    """
    return Question(words={"task": "identify"}, ask=lambda scene, **how: scene.identify(**how))
