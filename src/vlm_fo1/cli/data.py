"""`fo1 data`: look at training records, and check files of them."""

from dataclasses import dataclass
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from vlm_fo1.cli.images import check_kind
from vlm_fo1.cli.running import shown
from vlm_fo1.errors import ConfigError, counted
from vlm_fo1.jsonl import writing

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Look at training records, check them.",
)

_FILE = Annotated[
    Path,
    typer.Argument(
        help="JSON Lines file of records (docs/data.md), a mixture or a training configuration "
        "(.yaml)."
    ),
]
_STAGE = Annotated[
    str | None,
    typer.Option(help="Whose mixture, of a training configuration.", show_default="all"),
]


@app.command()
def show(
    file: _FILE,
    out: Annotated[Path, typer.Option(help="Image to write.")] = Path("records.png"),
    count: Annotated[int, typer.Option(min=1, help="How many records.")] = 12,
    start: Annotated[int, typer.Option(min=0, help="How many records to skip.")] = 0,
    columns: Annotated[int, typer.Option(min=1, help="Records beside each other.")] = 3,
    stage: Annotated[
        str | None,
        typer.Option(help="Whose mixture, of a training configuration.", show_default="the first"),
    ] = None,
) -> None:
    """Draw records to one image: boxes with numbers, questions, and in green what is learnt.

    Look at it before every training run: a box in the wrong place teaches the wrong thing.

    fo1 data show records.jsonl --out records.png
    """
    from vlm_fo1.data.example import read_examples
    from vlm_fo1.data.recipe import make_mixture
    from vlm_fo1.data.show import contact_sheet

    with shown(Console(stderr=True)):
        check_kind(out)
        if _is_yaml(file):
            plan = _plan(file, stage)
            stream = iter(make_mixture(plan.mixtures[0], seed=plan.seed))
        else:
            stream = read_examples(file)
        sheet = contact_sheet(islice(stream, start, start + count), columns)
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(out)
    typer.echo(f"wrote {out}")


@app.command()
def check(
    file: _FILE,
    most: Annotated[int, typer.Option(min=1, help="How many problems to print.")] = 100,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many records of each source of a mixture to look at.",
            show_default="all of a file, 100 rendered ones",
        ),
    ] = None,
    stage: _STAGE = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Whose limits count: a folder or Hub id.",
            show_default="that of the configuration, else tiny",
        ),
    ] = None,
) -> None:
    """Go once through the records as training does and list those it would leave out, and why.

    Exit code 1 if there is one.

    fo1 data check records.jsonl
    """  # noqa: DOC501 (help text)
    errors = Console(stderr=True)
    with shown(errors):
        problems, notes = _checked(file, stage, count, model, errors)
    for note in notes:
        errors.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    for problem in problems[:most]:
        typer.echo(problem)
    if len(problems) > most:
        typer.echo(f"... and {len(problems) - most} more")
    if problems:
        typer.echo(counted(len(problems), "problem"), err=True)
        raise typer.Exit(1)
    typer.echo(f"{file}: every record can be used")


@dataclass(frozen=True)
class _Plan:
    """What a YAML file says about data."""

    mixtures: list[dict[str, Any]]
    seed: int = 0
    model: str = "tiny"
    max_tokens: int = 4096


def _is_yaml(file: Path) -> bool:
    return file.suffix.lower() in {".yaml", ".yml"}


def _plan(file: Path, stage: str | None) -> _Plan:
    """The mixtures of a file: one by itself, or those of a training configuration.

    Raises:
        ConfigError: There is no such stage, or the file cannot be used.
    """
    from vlm_fo1.config import read, read_mapping
    from vlm_fo1.train.config import TrainConfig

    values = read_mapping(file)
    if set(values) == {"sources"} and stage is None:
        return _Plan([values])
    config = read(file, TrainConfig)
    stages = {each.name: each.mixture for each in config.stages}
    if stage is not None and stage not in stages:
        raise ConfigError(f"{file} has no stage {stage!r}: it has {', '.join(stages)}")
    mixtures = config.mixtures() if stage is None else [stages[stage]]
    return _Plan(mixtures, config.seed, config.model.path, config.data.max_tokens)


def _checked(
    file: Path, stage: str | None, count: int | None, model: str | None, errors: Console
) -> tuple[list[str], list[str]]:
    """What training would leave out, and what the files hold that no record uses; each once.

    Raises:
        ConfigError: The file is of a kind that holds no records by itself.
    """
    from vlm_fo1.data.check import ENDLESS, check, check_lines
    from vlm_fo1.data.recipe import make_mixture
    from vlm_fo1.train.assemble import make_collator

    if file.suffix.lower() == ".json":
        raise ConfigError(
            f"{file} is an annotation file: name it in a mixture, a YAML file such as "
            f"'sources: [{{type: coco, annotations: {file}, images: FOLDER}}]', and check that"
        )
    plan = _plan(file, stage) if _is_yaml(file) else _Plan([])
    collate = make_collator(model or plan.model, plan.max_tokens)
    if not _is_yaml(file):
        lines = track(check_lines(file, collate), "checking", None, console=errors, transient=True)
        found = sorted((line for line in lines if line is not None), key=lambda line: line.line)
        return [f"{file}:{line.line}: {line.reason}" for line in found], []
    parts = [part for each in plan.mixtures for part in make_mixture(each, seed=plan.seed).parts]
    sizes = [length_hint(part.source) or count or ENDLESS for part in parts]
    total = sum(min(size, count or size) for size in sizes)
    records = track(check(parts, collate, count), "checking", total, console=errors, transient=True)
    problems = dict.fromkeys(str(bad) for bad in records if bad is not None)
    return list(problems), list(dict.fromkeys(note for part in parts for note in part.notes))
