"""`fo1 match`."""

from typing import Annotated

import typer

from vlm_fo1.cli.asking import Question, asking


@asking
def command(
    region: Annotated[
        int, typer.Argument(min=0, help="Number of the box to take as the example, from 0.")
    ],
) -> Question:
    """Find more of what stands in one of the boxes.

    fo1 match photo.jpg 0 --boxes boxes.json --out found.jpg
    """
    return Question(
        words={"task": "visual_prompt", "region": region},
        ask=lambda scene, **how: scene.match(region, **how),
    )
