"""How the learning rates of a stage go: up in a straight line, level, then down."""

import math

from vlm_fo1.train.config import StageConfig


def lr_multiplier(stage: StageConfig, step: int) -> float:
    """What the peak learning rates are multiplied by at a step (from 0), in [0, 1]."""
    schedule = stage.schedule
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.name == "constant":
        return 1.0
    falling = schedule.decay_steps or max(1, stage.steps - schedule.warmup_steps)
    done = min(1.0, max(0.0, (step - (stage.steps - falling)) / falling))
    left = 0.5 * (1 + math.cos(math.pi * done)) if schedule.name == "cosine" else 1 - done
    return schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * left
