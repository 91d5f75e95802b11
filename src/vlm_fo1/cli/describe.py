"""`fo1 describe`."""

from enum import StrEnum
from typing import Annotated

import typer

from vlm_fo1.cli import options
from vlm_fo1.cli.asking import Run, run


class Detail(StrEnum):
    """How much is said."""

    BRIEF = "brief"
    DETAILED = "detailed"


def command(
    image: options.Image,
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
    detail: Annotated[
        Detail, typer.Option(help="A few words, or a sentence with place and looks.")
    ] = Detail.BRIEF,
) -> None:
    """Say what stands in each box; one question a box.

    fo1 describe photo.jpg --box 10,20,200,220 --detail detailed
    """
    run(
        Run(
            image=image,
            question={"task": "caption", "detail": detail.value, "tokens": max_new_tokens},
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
        lambda scene: scene.describe(detail=detail.value, max_new_tokens=max_new_tokens),
    )
