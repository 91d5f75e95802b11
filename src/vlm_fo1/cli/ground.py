"""`fo1 ground`."""

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
    """Describe the image and point at everything mentioned.

    fo1 ground photo.jpg --boxes boxes.json --out found.jpg
    """
    run(
        Run(
            image=image,
            question={"task": "grounded_caption", "tokens": max_new_tokens},
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
        lambda scene: scene.ground(max_new_tokens=max_new_tokens),
    )
