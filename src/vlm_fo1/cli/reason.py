"""`fo1 reason`."""

from typing import Annotated

import typer

from vlm_fo1.cli import options
from vlm_fo1.cli.asking import Run, run


def command(
    image: options.Image,
    question: Annotated[str, typer.Argument(help="Your question.")],
    box: options.Box = None,
    boxes: options.Boxes = None,
    out: options.Out = None,
    unchosen: options.Unchosen = False,
    as_json: options.AsJson = False,
    save: options.Save = None,
    fresh: options.Fresh = False,
    model: options.Model = "tiny",
    revision: options.Revision = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_new_tokens: options.Tokens = 512,
    about: Annotated[
        list[int] | None,
        typer.Option(help="A region that a {} in the question stands for; may be repeated."),
    ] = None,
    stream: options.Stream = False,
) -> None:
    """Think aloud, then answer, with regions as evidence.

    fo1 reason photo.jpg "Which fruit is ripest, and why?" --boxes boxes.json
    """
    run(
        Run(
            image=image,
            question={
                "task": "reasoning",
                "text": question,
                "about": about,
                "tokens": max_new_tokens,
            },
            box=box,
            boxes=boxes,
            out=out,
            unchosen=unchosen,
            as_json=as_json,
            save=save,
            fresh=fresh,
            model=model,
            revision=revision,
            device=device,
            dtype=dtype,
            stream=stream,
            needs_boxes=False,
        ),
        lambda scene: scene.reason(
            question,
            about=about or (),
            max_new_tokens=max_new_tokens,
            on_text=options.print_text if stream else None,
        ),
    )
