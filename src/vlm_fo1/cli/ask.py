"""`fo1 ask`."""

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
    """Ask anything in your own words; boxes are optional.

    fo1 ask photo.jpg "What is {} lying on?" --boxes boxes.json --about 3
    """
    return Question(
        words={"task": "free", "text": question, "about": about},
        ask=lambda scene, **how: scene.ask(question, about=about or (), **how),
        needs_boxes=False,
        stream=stream,
    )
