"""`fo1 data`: look at training records, check files of them, and render scenes."""

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import track

from vlm_fo1.errors import ConfigError, FO1Error

if TYPE_CHECKING:
    from vlm_fo1.data.mixture import Mixture

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Look at training records, check them, render scenes.",
)

_FILE = Annotated[
    Path,
    typer.Argument(
        help="JSON Lines file of records (docs/data.md), or a training configuration (.yaml)."
    ),
]
_STAGE = Annotated[
    str | None,
    typer.Option(help="Whose mixture, of a training configuration.", show_default="the first"),
]


@app.command()
def show(
    file: _FILE,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("records.png"),
    count: Annotated[int, typer.Option(min=1, help="How many records.")] = 12,
    start: Annotated[int, typer.Option(min=0, help="How many records to skip.")] = 0,
    columns: Annotated[int, typer.Option(min=1, help="Records beside each other.")] = 3,
    stage: _STAGE = None,
) -> None:
    """Draw records to one picture: boxes with numbers, questions, and in green what is learnt.

    Look at it before every training run: a box in the wrong place teaches the wrong thing.

    fo1 data show records.jsonl --out records.png
    """
    from vlm_fo1.data.example import read_examples
    from vlm_fo1.data.show import contact_sheet

    try:
        stream = _mixture(file, stage) if _is_config(file) else read_examples(file)
        contact_sheet(islice(stream, start, start + count), columns).save(out)
    except FO1Error as error:
        fail(error)
    typer.echo(f"wrote {out}")


@app.command()
def check(
    file: _FILE,
    most: Annotated[int, typer.Option(min=1, help="How many problems to print.")] = 100,
    count: Annotated[
        int, typer.Option(min=1, help="How many records to draw from a training configuration.")
    ] = 1000,
    stage: _STAGE = None,
) -> None:
    """Check records and list every one that cannot be used, with its reason.

    Exit code 1 if there is one.

    fo1 data check records.jsonl
    """  # noqa: DOC501 (help text)
    from vlm_fo1.data.example import check_file

    if _is_config(file):
        problems = _check_mixture(file, stage, count)
    else:
        problems = [f"{file}:{problem.line}: {problem.reason}" for problem in check_file(file)]
    for problem in problems[:most]:
        typer.echo(problem)
    if len(problems) > most:
        typer.echo(f"... and {len(problems) - most} more")
    if problems:
        typer.echo(f"{len(problems)} problems", err=True)
        raise typer.Exit(1)
    typer.echo(f"{file}: every record can be used")


def _is_config(file: Path) -> bool:
    return file.suffix.lower() in {".yaml", ".yml"}


def _mixture(file: Path, stage: str | None) -> "Mixture":
    """The stream of records of a stage.

    Raises:
        ConfigError: There is no such stage, or the configuration cannot be used.
    """
    from vlm_fo1.data.recipe import make_mixture
    from vlm_fo1.settings import read
    from vlm_fo1.train.config import TrainConfig

    config = read(file, TrainConfig)
    stages = {each.name: each for each in config.stages}
    if stage is not None and stage not in stages:
        raise ConfigError(f"{file} has no stage {stage!r}: it has {', '.join(stages)}")
    chosen = config.stages[0] if stage is None else stages[stage]
    return make_mixture(chosen.mixture, seed=config.seed)


def _check_mixture(file: Path, stage: str | None, count: int) -> list[str]:
    """What cannot be used among the first so many records of a stage."""
    from vlm_fo1.data.example import faults

    found: list[str] = []
    try:
        mixture = _mixture(file, stage)
        drawn = islice(mixture, count)
        for example in track(drawn, "checking", count, console=Console(stderr=True)):
            found += [
                f"{example.source}, record {example.id}: {fault}" for fault in faults(example)
            ]
    except FO1Error as error:
        fail(error)
    return list(dict.fromkeys([*mixture.problems, *found]))


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
    """Render scenes with exact truth, as a COCO data set and as training records.

    They are pictures of the kind that the bundled model was trained on.
    """
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
