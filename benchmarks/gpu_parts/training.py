"""Steps of the committed training configurations, by the training's own loop.

What differs from the file: random weights of the benchmark's size, made records instead of data
sets, one micro-batch a step, nothing saved, and on a CPU float32.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu_parts.lab import Lab, detection_of
from benchmarks.gpu_parts.made import labels
from benchmarks.gpu_parts.report import Row
from benchmarks.gpu_parts.timing import OutOfTimeError, host_peak_mb
from vlm_fo1.config import read
from vlm_fo1.data.example import Example, Turn
from vlm_fo1.tasks import Task
from vlm_fo1.train.assemble import assemble
from vlm_fo1.train.components import RunComponents, StepReport
from vlm_fo1.train.config import DistributedConfig, ModelConfig, OutputConfig, TrainConfig
from vlm_fo1.train.loop import StageRun
from vlm_fo1.train.stop import Stop

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
STAGES = ("stage1", "stage2", "stage2-lora")
_WARM_UPS = 2
"""Steps before those that count."""
_BARS_S = {"stage1": 0.5}
"""Seconds a sample."""
_POOL_BATCHES = 4
"""Made records are all of a length: few need to be read at once."""
_SHARED_MB = 4096
"""Memory that reading processes may need to hand batches over."""


class Records:
    """One image of noise with boxes and several questions on it, another for every index.

    Args:
        image_wh: Size of the image.
        boxes: How many.
        turns: Questions.
        seed: Of everything.
    """

    def __init__(self, image_wh: tuple[int, int], boxes: int, turns: int, seed: int) -> None:
        self.image_wh, self.boxes, self.turns, self.seed = image_wh, boxes, turns, seed

    def example(self, index: int) -> Example:
        """Record number ``index``."""
        rng = np.random.default_rng([self.seed, index])
        width, height = self.image_wh
        sides = rng.uniform(0.05, 0.4, (self.boxes, 2)) * self.image_wh
        corners = rng.random((self.boxes, 2)) * (np.array(self.image_wh) - sides)
        return Example(
            image=Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)),
            regions_xyxy=np.concatenate([corners, corners + sides], axis=1).astype(np.float32),
            turns=tuple(self._turn(label, rng) for label in labels(self.turns)),
            source="made",
            id=str(index),
        )

    def _turn(self, label: str, rng: np.random.Generator) -> Turn:
        found = rng.choice(self.boxes, min(5, self.boxes), replace=False)
        tags = "".join(f"<region{number}>" for number in sorted(found.tolist()))
        answer = f"<ground>{label}</ground><objects>{tags}</objects>"
        return Turn(question=detection_of(label), answer=answer, task=str(Task.DETECTION))


def made_records(values: Mapping[str, Any], seed: int) -> Records:
    """A source of a mixture's own, see `make_mixture`."""
    return Records(tuple(values["image_wh"]), values["boxes"], values["turns"], seed)


def stage_of(name: str) -> Callable[[Lab], Iterator[Row]]:
    """The section of one configuration."""

    def section(lab: Lab) -> Iterator[Row]:
        config = _config(lab, name)
        lab.release()
        wanted = config.stages[0].batch_size
        for batch_size in dict.fromkeys((wanted, 1)):
            stage = replace(config.stages[0], batch_size=batch_size)
            found = _steps(lab, replace(config, stages=(stage,)))
            if found is not None:
                note = f"{batch_size} samples a micro-batch, median of {len(found)} steps"
                if batch_size < wanted:
                    note += f"; out of memory with {wanted}"
                yield from _rows(lab, name, found, note)
                return
            lab.clock.free()
        raise RuntimeError("out of memory with one sample a micro-batch")

    return section


def _config(lab: Lab, name: str) -> TrainConfig:
    """The committed file with what differs here."""
    config = read(CONFIGS / f"{name}.yaml", TrainConfig)
    (stage,) = config.stages
    on_gpu = lab.device.type == "cuda"
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and shutil.disk_usage(shared).free > _SHARED_MB * 2**20
    source = {
        "type": f"{__name__}:{made_records.__name__}",
        "image_wh": list(lab.size.image_wh),
        "boxes": lab.size.boxes,
        "turns": lab.size.train_turns,
    }
    stage = replace(
        stage, steps=lab.size.train_steps, accumulation=1, save_every=0,
        schedule=replace(stage.schedule, warmup_steps=0), mixture={"sources": [source]},
    )  # fmt: skip
    if not on_gpu:  # bfloat16 is slow there
        stage = replace(stage, precision="fp32", frozen_precision="fp32")
    return replace(
        config,
        stages=(stage,),
        model=ModelConfig(path=str(lab.folder), init="random"),
        output=OutputConfig(folder=lab.work / name, log_every=1, tensorboard=False),
        data=replace(
            config.data,
            pool_batches=_POOL_BATCHES,
            workers=config.data.workers if on_gpu and roomy else 0,
            on_bad_record="stop",
        ),
        distributed=DistributedConfig(device="auto" if on_gpu else "cpu"),
    )


def _components(lab: Lab, config: TrainConfig) -> RunComponents:
    """The components of the run, the weights drawn on the device."""
    components = assemble(config)

    def load_model(folder: Path | None) -> Any:
        with torch.device(lab.device):
            return components.load_model(folder)

    return replace(components, load_model=load_model)


def _steps(lab: Lab, config: TrainConfig) -> list[tuple[float, float]] | None:
    """Seconds and samples of each step after the warm-up; None for want of memory.

    Raises:
        OutOfTimeError: There was time for the warm-up alone.
    """
    clock = lab.clock
    found: list[tuple[float, float]] = []
    began_s = 0.0

    def watch(report: StepReport) -> None:
        nonlocal began_s
        clock.wait()
        now_s = time.perf_counter()
        if report.step > _WARM_UPS and report.metrics is not None:
            found.append((now_s - began_s, report.metrics["examples"]))
        began_s = now_s
        if clock.left_s <= 0:
            raise OutOfTimeError(f"the time of this section is used up at step {report.step}")

    if clock.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(clock.device)
    config.output.folder.mkdir(parents=True, exist_ok=True)
    run = StageRun(config, config.stages[0], _components(lab, config), Stop(), watch, None)
    try:
        run.prepare(allow_changes=False)
        run.steps()
    except torch.OutOfMemoryError:
        return None
    except OutOfTimeError:
        if not found:
            raise
    finally:
        run.close()
    return found


def _rows(lab: Lab, name: str, found: list[tuple[float, float]], note: str) -> Iterator[Row]:
    device = lab.device
    each_s = statistics.median(seconds / samples for seconds, samples in found)
    yield Row(name="a step, each sample", value=each_s, unit="s", bar=_BARS_S.get(name), note=note)
    yield Row(name="rate", value=1 / each_s, unit="samples/s")
    if device.type == "cuda":
        peak_mb = torch.cuda.max_memory_allocated(device) / 2**20
        reserved_mb = torch.cuda.max_memory_reserved(device) / 2**20
        note = f"with weights and optimiser; {reserved_mb:.0f} MB reserved"
        yield Row(name="memory at peak", value=peak_mb, unit="MB", bar=78 * 1024, note=note)
    else:
        yield Row(name="memory at peak", value=host_peak_mb(), unit="MB")
