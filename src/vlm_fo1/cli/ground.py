"""`fo1 ground`."""

from vlm_fo1.cli.asking import Question, asking


@asking
def command() -> Question:
    """Describe the image and point at everything mentioned.

    fo1 ground photo.jpg --boxes boxes.json --out found.jpg
    """
    return Question(
        words={"task": "grounded_caption"}, ask=lambda scene, **how: scene.ground(**how)
    )
