"""`fo1 match`."""

from typing import Annotated

import typer

from vlm_fo1.cli import options
from vlm_fo1.cli.asking import Run, run


def command(
    image: options.Image,
    region: Annotated[
        int, typer.Argument(min=0, help="Number of the box to take as the example, from 0.")
    ],
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
    """Find more of what stands in one of the boxes.

    fo1 match photo.jpg 0 --boxes boxes.json --out found.jpg
    """
    run(
        Run(
            image=image,
            question={"task": "visual_prompt", "region": region, "tokens": max_new_tokens},
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
        lambda scene: scene.match(region, max_new_tokens=max_new_tokens),
    )
