"""`fo1 reason`."""

from typing import Annotated

import typer

from vlm_fo1.cli import options
from vlm_fo1.cli.asking import Question, asking


@asking
def command(
    question: Annotated[str, typer.Argument(help="Your question.")],
    about: options.About = None,
    stream: options.Stream = False,
) -> Question:
    """Think aloud, then answer, with regions as evidence.

    fo1 reason photo.jpg "Which fruit is ripest, and why?" --boxes boxes.json
    """
    return Question(
        words={"task": "reasoning", "text": question, "about": about},
        ask=lambda scene, **how: scene.reason(question, about=about or (), **how),
        needs_boxes=False,
        stream=stream,
    )
