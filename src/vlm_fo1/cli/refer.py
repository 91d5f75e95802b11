"""`fo1 refer`."""

from typing import Annotated

import typer

from vlm_fo1.cli.asking import Question, asking


@asking
def command(
    phrase: Annotated[str, typer.Argument(help="A description of one thing or several.")],
) -> Question:
    """Find what a phrase describes.

    fo1 refer photo.jpg "the orange nearest the apple" --boxes boxes.json
    """
    return Question(
        words={"task": "referring", "labels": [phrase]},
        ask=lambda scene, **how: scene.refer(phrase, **how),
        queries=[phrase],
    )
