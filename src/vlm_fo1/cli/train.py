"""`fo1 train`."""

import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vlm_fo1.cli.running import shown
from vlm_fo1.errors import ConfigError, counted
from vlm_fo1.jsonl import lock_file, writing

if TYPE_CHECKING:
    from vlm_fo1.train.components import StepReport, TrainResult


def command(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/train/stage1.yaml.")],
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value for one key: stages.0.steps=100. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, instead of output.folder.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--fresh",
            help="Go on where the run in this folder stopped, or move that run aside and begin.",
        ),
    ] = True,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Resume though configuration or data changed.")
    ] = False,
) -> None:
    """Train a model in stages; run it again to go on where it stopped.

    On several GPUs: torchrun --no-python --nproc-per-node 8 fo1 train CONFIG

    fo1 train configs/train/stage1.yaml --set model.path=grafted --out runs/first
    """
    _train_and_exit(config, list(change or ()), out, resume, allow_changes)


def _train_and_exit(
    config: Path, changes: list[str], out: Path | None, resume: bool, allow_changes: bool
) -> None:
    """Train, say how it ended, and turn that into an exit code.

    Raises:
        typer.Exit: Code 2 when the run cannot go on, 1 when records were left out, 128 and the
            signal's number when one ended it after saving.
    """
    main = os.environ.get("RANK", "0") == "0"  # set by torchrun: the others keep quiet
    errors = Console(stderr=True)
    logging.basicConfig(
        level="INFO" if main else "ERROR",
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_path=False)],
    )
    with shown(errors):
        outcome = _run(config, changes, out, errors, resume, allow_changes)
    if outcome.stopped_by is not None:
        name = signal.Signals(outcome.stopped_by).name
        errors.print(f"stopped by {name}; everything is saved: the same command goes on")
        raise typer.Exit(128 + outcome.stopped_by)
    errors.print(f"weights: {outcome.folder}", soft_wrap=True)
    if outcome.bad_records:
        left_out = counted(outcome.bad_records, "record")
        errors.print(f"{left_out} left out, see bad_records.jsonl")
        raise typer.Exit(1)


def _run(
    path: Path,
    changes: list[str],
    out: Path | None,
    errors: Console,
    resume: bool,
    allow_changes: bool,
) -> "TrainResult":
    """Read, assemble, train.

    Raises:
        ConfigError: ``--fresh`` with several processes, or a configuration that cannot be used.
    """
    from vlm_fo1.config import read
    from vlm_fo1.train.config import TrainConfig

    if out is not None:
        changes.append(f"output.folder={out}")
    config = read(path, TrainConfig, changes)
    if not resume:
        if "RANK" in os.environ:
            raise ConfigError("--fresh is for one process: give several a new folder with --out")
        _move_aside(config.output.folder, errors)

    from vlm_fo1.train.assemble import assemble  # heavy: torch and transformers
    from vlm_fo1.train.loop import train

    with _progress(errors) as progress:
        return train(
            config,
            assemble(config),
            allow_changes=allow_changes,
            watch=_watcher(progress),
        )


def _move_aside(folder: Path, errors: Console) -> None:
    """Keep an earlier run under the first free number."""
    if not folder.exists():
        return
    if folder.is_dir():
        lock_file(folder, "run").release()  # refuses while another process trains there
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    with writing(aside):
        shutil.move(folder, aside)
    errors.print(f"the earlier run is kept in {aside}", soft_wrap=True)


def _progress(errors: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=errors,
        disable="RANK" in os.environ and os.environ["RANK"] != "0",
    )


def _watcher(progress: Progress) -> Callable[["StepReport"], None]:
    from vlm_fo1.train.figures import summary

    tasks: dict[str, Any] = {}

    def watch(report: "StepReport") -> None:
        if report.stage not in tasks:
            tasks[report.stage] = progress.add_task(
                report.stage, total=report.steps, completed=report.step - 1, figures=""
            )
        task = tasks[report.stage]
        progress.update(task, completed=report.step)
        if report.metrics is not None:
            figures = report.metrics
            parts = [f"loss {figures['loss']:.4f}", f"{figures['samples_per_s']:.1f} samples/s"]
            parts.append(
                summary(report.evaluation or {}) or f"{figures['tokens_per_s']:.0f} tokens/s"
            )
            progress.update(task, figures="  ".join(parts))

    return watch
