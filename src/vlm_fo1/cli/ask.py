"""`fo1 ask`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_fo1.cli import options
from vlm_fo1.cli.asking import Question, asking


@asking
def command(
    question: Annotated[str, typer.Argument(help="Your question.")],
    about: options.About = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            help="A further picture, which stands where <image_1> does in the question, the next "
            "where <image_2> does, or before the question; boxes are of IMAGE alone.",
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="A system message in place of the usual one.", show_default=False),
    ] = None,
    stream: options.Stream = False,
) -> Question:
    """Ask anything in your own words; boxes are optional.

    fo1 ask photo.jpg "What is {} lying on?" --boxes boxes.json --about 3
    """
    more: dict[str, Any] = {"with": [str(path) for path in beside]} if beside else {}
    more |= {"system": system} if system is not None else {}
    return Question(
        words={"task": "free", "text": question, "about": about, **more},
        ask=lambda scene, **how: scene.ask(
            question, about=about or (), images=beside or (), system=system, **how
        ),
        needs_boxes=False,
        stream=stream,
    )
