"""`fo1 read-text`."""

from vlm_fo1.cli.asking import Question, asking


@asking
def command() -> Question:
    """Read the writing in each box; one question a box.

    fo1 read-text shop.jpg --box 40,12,300,80
    """
    return Question(words={"task": "region_ocr"}, ask=lambda scene, **how: scene.read_text(**how))
