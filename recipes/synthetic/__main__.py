"""``python -m recipes.synthetic OUT``: images with exact truth, as COCO and as training records."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from recipes.synthetic import SyntheticConfig, SyntheticSource
from recipes.synthetic.export import write_images
from vlm_fo1.errors import FO1Error


def main(
    out: Annotated[
        Path, typer.Argument(help="Folder to write: images/, coco.json, records.jsonl.")
    ],
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 100,
    seed: Annotated[int, typer.Option(help="Another seed gives other images.")] = 0,
    sprites: Annotated[
        Path | None,
        typer.Option(help="Sprite folder (python -m recipes.synthetic.build); else drawn shapes."),
    ] = None,
    style: Annotated[
        list[str] | None, typer.Option(help="Drawing style; may be repeated. All but held out.")
    ] = None,
    objects: Annotated[
        tuple[int, int], typer.Option(help="Least and greatest number of things.")
    ] = (4, 14),
    kinds: Annotated[int | None, typer.Option(min=2, help="How many kinds appear.")] = None,
    turns: Annotated[int, typer.Option(min=1, help="Questions an image.")] = 6,
) -> None:
    """Render images with exact truth, as a COCO data set and as training records."""  # noqa: DOC501 (help text)
    try:
        config = SyntheticConfig(
            sprites=None if sprites is None else str(sprites),
            styles=tuple(style or ()),
            objects=objects,
            kinds=kinds,
            turns=(turns, turns),
        )
        source = SyntheticSource(config, seed)
        numbers = track(range(count), "rendering", console=Console(stderr=True), transient=True)
        typer.echo(json.dumps(write_images(source, out, numbers)))
    except FO1Error as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
