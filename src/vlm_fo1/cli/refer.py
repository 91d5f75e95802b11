"""`fo1 refer`."""

from typing import Annotated

import typer

from vlm_fo1.cli import options
from vlm_fo1.cli.asking import Run, run


def command(
    image: options.Image,
    phrase: Annotated[str, typer.Argument(help="A description of one thing or several.")],
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
) -> None:
    """Find what a phrase describes.

    fo1 refer photo.jpg "the orange nearest the apple" --boxes boxes.json
    """
    run(
        Run(
            image=image,
            question={"task": "referring", "labels": [phrase], "tokens": max_new_tokens},
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
        ),
        lambda scene: scene.refer(phrase, max_new_tokens=max_new_tokens),
    )
