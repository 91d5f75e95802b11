"""Whose folder a run writes: this run's alone, and which of its stages are finished there."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from vlm_fo1.config import differences, plain, read_mapping
from vlm_fo1.errors import CheckpointError
from vlm_fo1.jsonl import lock_file, writing
from vlm_fo1.train import checkpoint
from vlm_fo1.train.config import StageConfig, TrainConfig, may_change
from vlm_fo1.train.export import CONFIG_FILE

logger = logging.getLogger(__name__)


@contextmanager
def claim(config: TrainConfig, *, resume: bool, allow_changes: bool) -> Iterator[None]:
    """Make the folder this run's, or check that it is; nobody else trains in it meanwhile.

    Args:
        config: The run.
        resume: Go on with a run in the folder; without it there must be none.
        allow_changes: Go on although the configuration changed.

    Raises:
        CheckpointError: It holds a run and ``resume`` is off, or one with another configuration.
        ConfigError: Another process trains in it.
        OutputError: It cannot be written.
    """
    folder = config.output.folder
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    main = os.environ.get("RANK", "0") == "0"  # set by torchrun: one of the processes holds it
    with lock_file(folder, "run") if main else nullcontext():
        path = folder / CONFIG_FILE
        if path.is_file():
            if not resume:
                raise CheckpointError(f"{folder} holds a run: move it away or resume it")
            saved = read_mapping(path)
            for line in checkpoint.check_same_run(saved, config, allow_changes=allow_changes):
                logger.warning("resuming with a changed configuration: %s", line)
        yield


def checkpoints_of(config: TrainConfig, stage: StageConfig) -> Path:
    """Where the checkpoints of a stage are."""
    return config.output.folder / "checkpoints" / stage.name


def is_finished(config: TrainConfig, number: int) -> bool:
    """Whether a stage needs no training any more.

    A finished stage of which more steps are asked now goes on from its newest checkpoint.

    Args:
        config: The run.
        number: Of the stage, from 0.

    Raises:
        CheckpointError: The stage is finished, and what is asked of it now cannot be done: it has
            no checkpoint, a later stage began from it, or another of its settings changed.
    """
    stage = config.stages[number]
    folder = config.output.folder / stage.name
    if not (folder / "config.json").is_file():
        return False
    before = _as_it_ended(folder, stage)
    changed = [
        line
        for line in differences(before, plain(stage))
        if "absent" not in line and not may_change(line.partition(":")[0])
    ]
    if not changed:
        return True
    done = before.get("steps")
    later = [each for each in config.stages[number + 1 :] if _began(config, each)]
    if not isinstance(done, int) or stage.steps <= done:
        reason = f"so these cannot change any more: {'; '.join(changed)}"
    elif later:
        reason = f"and stage {later[0].name!r} began from it"
    elif not checkpoint.list_checkpoints(checkpoints_of(config, stage)):
        reason = f"and has no checkpoint to go on from to step {stage.steps}"
    else:
        logger.info("stage %s ended at step %d, goes on to %d", stage.name, done, stage.steps)
        return False
    raise CheckpointError(
        f"stage {stage.name!r} is finished at step {done}, {reason}; train on from its weights "
        f"with --set model.path={folder} --out ANOTHER_FOLDER, or start over with --fresh"
    )


def _as_it_ended(folder: Path, stage: StageConfig) -> dict[str, Any]:
    """The settings that a finished stage had; those it has where that is not known."""
    path = folder / CONFIG_FILE
    stages = read_mapping(path).get("stages") if path.is_file() else None
    for values in stages if isinstance(stages, list) else []:
        if isinstance(values, dict) and values.get("name") == stage.name:
            return values
    return plain(stage)


def _began(config: TrainConfig, stage: StageConfig) -> bool:
    folders = (config.output.folder / stage.name, checkpoints_of(config, stage))
    return any(folder.exists() for folder in folders)
