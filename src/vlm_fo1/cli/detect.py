"""`fo1 detect`."""

from typing import Annotated

import typer

from vlm_fo1.cli.asking import Question, asking


@asking
def command(
    labels: Annotated[list[str], typer.Argument(help="What to look for, one or more names.")],
) -> Question:
    """Find everything that one of the labels names.

    fo1 detect photo.jpg orange apple --boxes boxes.json --out found.jpg
    """
    return Question(
        words={"task": "detection", "labels": labels},
        ask=lambda scene, **how: scene.detect(labels, **how),
        queries=labels,
    )
