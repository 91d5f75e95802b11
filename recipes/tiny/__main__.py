"""The bundled model from nothing: ``python -m recipes.tiny --sprites DIR --out RUN --export DIR``.

The same command again goes on where it stopped, exactly.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, TextColumn

from recipes.tiny import features, language, towers
from recipes.tiny.export import export
from recipes.tiny.recipe import RECIPE, Recipe, read_recipe
from vlm_fo1.errors import FO1Error
from vlm_fo1.train import loop
from vlm_fo1.train.components import StepReport
from vlm_fo1.train.stop import stop_on_signals


def train(
    recipe: Recipe, sprites: str | None, out: Path, progress: Progress | None = None
) -> Path | None:
    """Train towers, look at images with them, train the language model on what they saw.

    Args:
        recipe: What to do.
        sprites: Sprite folder, or None for drawn shapes.
        out: Folder of the run.
        progress: Shows how far it is.

    Returns:
        The folder of the weights; None when a signal ended the run, with everything saved.
    """
    torch.set_num_threads(recipe.threads)
    progress = progress or Progress(disable=True)
    totals = {stage.name: stage.steps for stage in recipe.towers}
    totals |= {"features": recipe.features}
    totals |= {stage.name: stage.steps for stage in recipe.language}
    tasks = {k: progress.add_task(k, total=v, figures="") for k, v in totals.items()}

    def watch(report: StepReport) -> None:
        progress.update(tasks[report.stage], completed=report.step)
        if report.metrics is not None:
            figures = "loss {loss:.3f}  {samples_per_s:.0f}/s".format(**report.metrics)
            progress.update(tasks[report.stage], figures=figures)

    config = recipe.run_config("towers", out / "towers")
    seeing = loop.train(config, towers.components(recipe, sprites), watch=watch).folder
    if seeing is None:
        return None
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    with stop_on_signals() as stop:
        for done in features.fill(out / "features", recipe, seeing, sprites, device):
            progress.update(tasks["features"], completed=done)
            if stop.signal_number is not None:
                return None
    seen = features.load(out / "features")
    config = recipe.run_config("language", out / "language")
    return loop.train(config, language.components(recipe, seeing, seen), watch=watch).folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when the run is complete, 1 when a signal ended it, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny", description=__doc__)
    parser.add_argument(
        "config", type=Path, nargs="?", default=RECIPE, help="the file beside this one by default"
    )
    parser.add_argument("--sprites", help="sprite folder; drawn shapes without it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the model to a folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[figures]}"))
    try:
        recipe = read_recipe(options.config, options.set)
        with Progress(*columns, console=console) as progress:
            folder = train(recipe, options.sprites, options.out, progress)
        if folder is not None and options.export is not None:
            export(recipe, folder, options.out, options.export)
    except FO1Error as error:
        console.print(f"{type(error).__name__}: {error}", markup=False, soft_wrap=True)
        return 2
    if folder is None:
        console.print("stopped; everything is saved: the same command goes on")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
