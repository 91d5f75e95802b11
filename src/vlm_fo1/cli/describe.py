"""`fo1 describe`."""

from enum import StrEnum
from typing import Annotated

import typer

from vlm_fo1.cli.asking import Question, asking


class Detail(StrEnum):
    """How much is said."""

    BRIEF = "brief"
    DETAILED = "detailed"


@asking
def command(
    detail: Annotated[
        Detail, typer.Option(help="A few words, or a sentence with place and looks.")
    ] = Detail.BRIEF,
) -> Question:
    """Say what stands in each box; one question a box.

    fo1 describe photo.jpg --box 10,20,200,220 --detail detailed
    """
    return Question(
        words={"task": "caption", "detail": detail.value},
        ask=lambda scene, **how: scene.describe(detail=detail.value, **how),
    )
