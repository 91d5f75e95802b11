"""How the evaluations of a stage went: which was best, how long ago, whether answers improve."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vlm_fo1.errors import ConfigError
from vlm_fo1.train.config import EvaluationConfig
from vlm_fo1.train.figures import MEAN

LOOKED_AT = 3
"""Evaluations over which the loss falls while answers stay as they were, until it is said."""
_FALL, _GAIN, _GOOD = 0.95, 0.01, 0.95
"""The loss has to fall below this share, answers to gain this much; so good they need not."""


@dataclass
class Standing:
    """What the evaluations of a stage came to; a part of its checkpoints."""

    best: float | None = None
    """Value of the figure by which the best checkpoint is known."""
    best_step: int = 0
    """Where it was measured; 0 is before training."""
    since: int = 0
    """Evaluations after that one."""
    losses: list[float] = field(default_factory=list[float])
    """Held-out loss of the last evaluations."""
    answers: list[float] = field(default_factory=list[float])
    """`MEAN` of the same."""
    warned: bool = False
    """Whether `stalled` was said."""

    def take(self, settings: EvaluationConfig, step: int, figures: Mapping[str, float]) -> bool:
        """Take the figures of an evaluation.

        Args:
            settings: Name the figure that decides.
            step: Optimiser steps of the stage done.
            figures: By name.

        Returns:
            Whether it is the best of the stage so far.

        Raises:
            ConfigError: The figure that decides was not measured.
        """
        if MEAN in figures and "loss" in figures:
            self.losses = [*self.losses, figures["loss"]][-LOOKED_AT:]
            self.answers = [*self.answers, figures[MEAN]][-LOOKED_AT:]
        value = figures.get(settings.best)
        if value is None:
            if settings.patience or settings.best not in ("", MEAN):
                raise ConfigError(
                    f"evaluation.best = {settings.best!r} was not measured: one of "
                    f"{', '.join(sorted(figures))} is needed"
                )
            return False
        sign = -1 if is_better_low(settings.best) else 1
        if self.best is None or sign * value > sign * self.best:
            self.best, self.best_step, self.since = value, step, 0
            return True
        self.since += 1
        return False

    def stalled(self) -> str:
        """What to say, once, where the loss falls and answers do not improve; empty otherwise."""
        if self.warned or len(self.losses) < LOOKED_AT:
            return ""
        (first, *_, last), falls = self.losses, sorted(self.losses, reverse=True) == self.losses
        start, best = self.answers[0], max(self.answers[1:])
        if not falls or last > _FALL * first or best > start + _GAIN or start >= _GOOD:
            return ""
        self.warned = True
        return (
            f"over the last {LOOKED_AT} evaluations the held-out loss fell from {first:.3f} to "
            f"{last:.3f}, but the answers did not improve: {start:.3f}, since then {best:.3f} at "
            "best. The model learns how answers are written and not what is in the regions: look "
            "at the images in answers/ and at `fo1 data show`, whether the boxes are of what the "
            "answers say; train region_encoder and region_connector, or train them faster"
        )


def is_better_low(name: str) -> bool:
    """Whether less of a figure is better: losses and errors."""
    return name.rpartition(".")[2] in ("loss", "error")
