"""What every stage of a run shares: its folder, its log, its line of progress, its wish to stop."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress, TaskID, TextColumn

from recipes.tiny.recipe import Recipe
from vlm_fo1.train.metrics import MetricsLogger
from vlm_fo1.train.stop import Stop


@dataclass
class Run:
    """A run of the recipe.

    Args:
        recipe: What to do.
        folder: Holds pools, checkpoints and the log.
        sprites: Sprite folder; None for drawn shapes.
        progress: Shows how far it is.
        stop: Whether somebody asked the run to end.
    """

    recipe: Recipe
    folder: Path
    sprites: str | None
    progress: Progress
    stop: Stop
    journal: MetricsLogger = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.journal = MetricsLogger(self.folder, main=True, tensorboard=False)

    def pool(self, name: str) -> Path:
        """Folder of a pool."""
        return self.folder / "pools" / name

    def seen(self, stage: str) -> Path:
        """Folder of the tokens that the towers of a stage gave."""
        return self.folder / "seen" / stage

    def checkpoint(self, stage: str) -> Path:
        """File of a stage's checkpoint."""
        return self.folder / f"{stage}.safetensors"

    def meter(self, stage: str, step: int, steps: int, unit: str) -> "Meter":
        """A line of progress and of the log for a stage."""
        self.journal.begin(stage, step)
        task = self.progress.add_task(stage, total=steps, completed=step, figures="")
        return Meter(self, stage, unit, task)


def columns() -> tuple[Any, ...]:
    """Columns of the progress line: the usual ones and loss and rate."""
    return (*Progress.get_default_columns(), TextColumn("{task.fields[figures]}"))


class Meter:
    """Means of what a stage reports, every so many steps.

    Args:
        run: Whose log and progress it writes.
        stage: Its name.
        unit: What is counted, such as ``images``.
        task: Of the progress.
    """

    def __init__(self, run: Run, stage: str, unit: str, task: TaskID) -> None:
        self.run, self.stage, self.unit, self.task = run, stage, unit, task
        self._values: dict[str, list[float]] = {}
        self._began, self._counted = time.perf_counter(), 0

    def add(self, values: Mapping[str, float], count: int) -> None:
        """Count a step."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(float(value))
        self._counted += count

    def write(self, step: int, **more: Any) -> None:
        """Write the means since the last line."""
        rate = self._counted / max(time.perf_counter() - self._began, 1e-9)
        means = {name: round(float(np.mean(v)), 6) for name, v in self._values.items()}
        line = {**means, **more, f"{self.unit}_per_s": round(rate, 1)}
        self.run.journal.write(self.stage, step, "train", line)
        figures = f"loss {means.get('loss', float('nan')):.3f}  {rate:.0f} {self.unit}/s"
        self.run.progress.update(self.task, completed=step, figures=figures)
        self.restart()

    def restart(self) -> None:
        """Forget what was counted, after something that took its own time."""
        self._values, self._began, self._counted = {}, time.perf_counter(), 0
