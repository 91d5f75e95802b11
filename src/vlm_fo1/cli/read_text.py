"""`fo1 read-text`."""

from vlm_fo1.cli import options
from vlm_fo1.cli.asking import Run, run


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
) -> None:
    """Read the writing in each box; one question a box.

    fo1 read-text shop.jpg --box 40,12,300,80
    """
    run(
        Run(
            image=image,
            question={"task": "region_ocr", "tokens": max_new_tokens},
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
        lambda scene: scene.read_text(max_new_tokens=max_new_tokens),
    )
