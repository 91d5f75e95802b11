"""The whole recipe: ``python -m recipes.tiny --out DIR``.

The same command again goes on where it stopped: finished shards are kept, stages have checkpoints.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from recipes.tiny import pool, seen
from recipes.tiny.export import export_run
from recipes.tiny.phases import train_phase
from recipes.tiny.recipe import RECIPE, read_recipe
from recipes.tiny.run import Run, columns
from recipes.tiny.tower_training import train_towers
from vlm_fo1.errors import ConfigError, FO1Error
from vlm_fo1.train.stop import stop_on_signals


def stages_of(run: Run) -> dict[str, Callable[[], bool]]:
    """Every stage by name, in order; each says whether it came to its end."""
    stages: dict[str, Callable[[], bool]] = {"pools": partial(_pools, run)}
    for stage in run.recipe.towers:
        stages[stage.name] = partial(train_towers, run, stage)
    stages["seen"] = partial(_seen, run)
    for phase in run.recipe.phases:
        stages[phase.name] = partial(train_phase, run, phase)
    return stages


def train(run: Run, start: str | None = None) -> bool:
    """Run the recipe.

    Args:
        run: The run.
        start: Stage to begin with, when those before are done; None for the first.

    Returns:
        False when somebody asked to stop before the end; everything is saved.

    Raises:
        ConfigError: No stage has this name.
    """
    stages = stages_of(run)
    names = list(stages)
    if start is not None and start not in stages:
        raise ConfigError(f"--from {start!r}: the stages are {', '.join(names)}")
    return all(stages[name]() for name in names[names.index(start) if start else 0 :])


def _pools(run: Run) -> bool:
    return all(
        _shown(
            run,
            f"pool {name}",
            part.count // part.per_shard,
            pool.fill(run.recipe, part, run.sprites, run.pool(name), run.recipe.renderers),
        )
        for name, part in run.recipe.pools.items()
    )


def _seen(run: Run) -> bool:
    return all(
        _shown(run, f"seen by {stage.name}", stage.keep, seen.keep(run, stage))
        for stage in run.recipe.towers
        if stage.keep
    )


def _shown(run: Run, name: str, total: int, done: Iterable[int]) -> bool:
    """Show how far something is; False when somebody asked to stop."""
    task = run.progress.add_task(name, total=total, figures="")
    for count in done:
        run.progress.update(task, completed=count)
        if run.stop.signal_number is not None:
            return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when the run is complete, 1 when a signal ended it, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny", description=__doc__)
    parser.add_argument(
        "config", type=Path, nargs="?", default=RECIPE, help="the file beside this one by default"
    )
    parser.add_argument("--sprites", help="sprite folder; drawn shapes without it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--from", dest="start", metavar="STAGE", help="begin with this stage")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the model to a folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        recipe = read_recipe(options.config, options.set)
        with stop_on_signals() as stop, Progress(*columns(), console=console) as progress:
            run = Run(recipe, options.out, options.sprites, progress, stop)
            finished = train(run, options.start)
        if finished and options.export is not None:
            export_run(recipe, options.out, options.export)
    except FO1Error as error:
        console.print(f"{type(error).__name__}: {error}", markup=False, soft_wrap=True)
        return 2
    if not finished:
        console.print("stopped; everything is saved: the same command goes on")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
