"""`fo1 count`."""

from typing import Annotated

import typer

from vlm_fo1.cli import options
from vlm_fo1.cli.asking import Run, run


def command(
    image: options.Image,
    label: Annotated[str, typer.Argument(help="What to count.")],
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
    """Count one kind of thing, pointing at each.

    fo1 count photo.jpg orange --boxes boxes.json
    """
    run(
        Run(
            image=image,
            question={"task": "counting", "labels": [label], "tokens": max_new_tokens},
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
        lambda scene: scene.count(label, max_new_tokens=max_new_tokens),
    )
