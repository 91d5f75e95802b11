"""`fo1 count`."""

from typing import Annotated

import typer

from vlm_fo1.cli.asking import Question, asking


@asking
def command(label: Annotated[str, typer.Argument(help="What to count.")]) -> Question:
    """Count one kind of thing, pointing at each.

    fo1 count photo.jpg orange --boxes boxes.json
    """
    return Question(
        words={"task": "counting", "labels": [label]},
        ask=lambda scene, **how: scene.count(label, **how),
        queries=[label],
    )
