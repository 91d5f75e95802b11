"""`fo1 detect`."""

from typing import Annotated

import typer

from vlm_fo1.cli import options
from vlm_fo1.cli.asking import Run, run


def command(
    image: options.Image,
    labels: Annotated[list[str], typer.Argument(help="What to look for, one or more names.")],
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
    """Find everything that one of the labels names.

    fo1 detect photo.jpg orange apple --boxes boxes.json --out found.jpg
    """
    run(
        Run(
            image=image,
            question={"task": "detection", "labels": labels, "tokens": max_new_tokens},
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
        lambda scene: scene.detect(labels, max_new_tokens=max_new_tokens),
    )
