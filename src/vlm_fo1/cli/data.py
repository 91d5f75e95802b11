"""`fo1 data`: look at training records, check files of them, and render scenes."""

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import track

from vlm_fo1.errors import FO1Error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Look at training records, check them, render scenes.",
)

_FILE = Annotated[Path, typer.Argument(help="JSON Lines file of records: see docs/data.md.")]


@app.command()
def show(
    file: _FILE,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("records.png"),
    count: Annotated[int, typer.Option(min=1, help="How many records.")] = 12,
    start: Annotated[int, typer.Option(min=0, help="How many records to skip.")] = 0,
    columns: Annotated[int, typer.Option(min=1, help="Records beside each other.")] = 3,
) -> None:
    """Draw records to one picture: boxes with numbers, questions, and in green what is learnt."""
    from vlm_fo1.data.example import read_examples
    from vlm_fo1.data.show import contact_sheet

    try:
        records = islice(read_examples(file), start, start + count)
        contact_sheet(records, columns).save(out)
    except FO1Error as error:
        fail(error)
    typer.echo(f"wrote {out}")


@app.command()
def check(
    file: _FILE,
    most: Annotated[int, typer.Option(min=1, help="How many problems to print.")] = 100,
) -> None:
    """Check a file of records and list every line that cannot be used, with its reason."""  # noqa: DOC501 (help text)
    from vlm_fo1.data.example import check_file

    problems = check_file(file)
    for problem in problems[:most]:
        typer.echo(f"{file}:{problem.line}: {problem.reason}")
    if len(problems) > most:
        typer.echo(f"... and {len(problems) - most} more")
    if problems:
        lines = len({problem.line for problem in problems})
        typer.echo(f"{lines} bad lines", err=True)
        raise typer.Exit(1)
    typer.echo(f"{file}: every record can be used")


@app.command()
def scenes(
    out: Annotated[
        Path, typer.Argument(help="Folder to write: images/, coco.json, records.jsonl.")
    ],
    count: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 100,
    seed: Annotated[int, typer.Option(help="Another seed gives other scenes.")] = 0,
    sprites: Annotated[
        Path | None,
        typer.Option(
            help="Sprite folder (python -m vlm_fo1.data.scenes.build); else drawn shapes."
        ),
    ] = None,
    style: Annotated[
        list[str] | None, typer.Option(help="Drawing style; may be repeated. All but held out.")
    ] = None,
    objects: Annotated[
        tuple[int, int], typer.Option(help="Least and greatest number of things.")
    ] = (4, 14),
    kinds: Annotated[int | None, typer.Option(min=2, help="How many kinds appear.")] = None,
    turns: Annotated[int, typer.Option(min=1, help="Questions a scene.")] = 6,
) -> None:
    """Render scenes with exact truth, as a COCO data set and as training records."""
    from vlm_fo1.data.scenes import SceneConfig, ScenesSource
    from vlm_fo1.data.scenes.export import write_scenes

    try:
        config = SceneConfig(
            sprites=None if sprites is None else str(sprites),
            styles=tuple(style or ()),
            objects=objects,
            kinds=kinds,
            turns=(turns, turns),
        )
        source = ScenesSource(config, seed)
        numbers = track(range(count), "rendering", console=Console(stderr=True), transient=True)
        written = write_scenes(source, out, numbers)
    except FO1Error as error:
        fail(error)
    typer.echo(json.dumps(written))


def fail(error: FO1Error) -> NoReturn:
    """Say what is wrong and end with 1.

    Raises:
        Exit: Always.
    """
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(1) from error
