"""Stages of the towers, from pools to checkpoints; they go on where they stopped.

Every step depends on its number alone, so a resumed run has the losses it would have had.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.synthetic.view import View
from recipes.tiny import states
from recipes.tiny.align import Lesson
from recipes.tiny.muon import Muon, is_matrix, rate_share
from recipes.tiny.network import LANGUAGE_MODEL, build
from recipes.tiny.pool import list_shards, load, to_unit
from recipes.tiny.recipe import APART, TowerStage
from recipes.tiny.run import Run
from recipes.tiny.towers import BOTH, Tower, attend_at_once
from recipes.tiny.varied import varied_boxes, varied_light
from vlm_fo1.config import plain
from vlm_fo1.errors import TrainingError

_LOOKED_AT = 8  # shards of a pool kept apart
_MEASURED = 20  # shards that the normalisations are measured on at the end


def train_towers(run: Run, stage: TowerStage, towers: Sequence[Tower] = BOTH) -> bool:
    """Run a stage to its end.

    Args:
        run: The run.
        stage: One of the recipe's; it starts from what the one before left.
        towers: Whose maps regions are cut from; one alone is for comparison.

    Returns:
        False when somebody asked to stop before the end; everything is saved.

    Raises:
        TrainingError: The stage before has not run to its end.
    """
    torch.set_num_threads(run.recipe.threads)
    config = {
        "seed": run.recipe.seed,
        "network": plain(run.recipe.network),
        "pool": plain(run.recipe.pools[stage.pool]),
        stage.name: plain(stage),
        **({} if tuple(towers) == BOTH else {"towers": list(towers)}),
    }
    lesson = Lesson(stage.learns, *build(run.recipe.seed, run.recipe.network), towers)
    model = lesson.model
    attend_at_once(model)
    earlier = run.recipe.before(stage)
    if earlier is not None:
        before = states.load(run.checkpoint(earlier.name))
        if before is None or before.step < earlier.steps:
            raise TrainingError(
                f"stage {stage.name!r} starts from stage {earlier.name!r}, which is not done: "
                "run that first"
            )
        put_back(lesson, before.parts)
    optimizers, others = _optimizers(lesson, stage)
    saved = states.load(run.checkpoint(stage.name), optimizers, config)
    step = 0
    if saved is not None:
        put_back(lesson, saved.parts)
        step = saved.step
    paths = list_shards(run.pool(stage.pool))
    meter = run.meter(stage.name, step, stage.steps, "images")
    stream = _prefetched(_order(paths, run.recipe.seed, step))
    model.train()
    while step < stage.steps and run.stop.signal_number is None:
        pixels, views = next(stream)
        rate = rate_share(step, stage.steps, stage.warmup, stage.decay)
        optimizers[0].param_groups[0]["lr"] = stage.matrix_lr * rate
        optimizers[1].param_groups[0]["lr"] = stage.lr * rate
        figures = _step(lesson, optimizers, others, pixels, views, [run.recipe.seed, 1, step])
        step += 1
        meter.add(figures, len(views))
        last = step == stage.steps
        if step % stage.log_every == 0 or last:
            meter.write(step)
        if last:
            _settle(lesson, paths[:_MEASURED])
        if step % stage.check_every == 0 or last:
            for name in APART:
                run.journal.write(stage.name, step, name, check(lesson, run.pool(name)))
        if step % stage.check_every == 0 or last or run.stop.signal_number is not None:
            parts = {"model": towers_of(model), "norms": lesson.norms.state_dict()}
            states.save(run.checkpoint(stage.name), parts, optimizers, step=step, config=config)
            meter.restart()
    return step == stage.steps


def towers_of(model: nn.Module) -> dict[str, Tensor]:
    """Everything but the language model."""
    state = model.state_dict()
    return {name: value for name, value in state.items() if not name.startswith(LANGUAGE_MODEL)}


def put_back(lesson: Lesson, parts: states.Parts) -> None:
    """Put towers, connectors and normalisations of a checkpoint into the network."""
    lesson.model.load_state_dict(lesson.model.state_dict() | parts["model"])
    lesson.norms.load_state_dict(parts["norms"])


@torch.no_grad()
def check(lesson: Lesson, folder: Path) -> dict[str, float]:
    """Figures on pictures that do not train, as they are."""
    lesson.model.eval()
    lesson.norms.eval()
    sums: dict[str, list[float]] = {}
    for path in list_shards(folder)[:_LOOKED_AT]:
        for name, value in _plainly(lesson, path).items():
            if name.endswith(("_right", "_error", "gap")):
                sums.setdefault(name, []).append(value)
    lesson.model.train()
    lesson.norms.train()
    return {name: round(float(np.mean(values)), 4) for name, values in sums.items()}


def _step(
    lesson: Lesson,
    optimizers: Sequence[torch.optim.Optimizer],
    clipped: Sequence[nn.Parameter],
    pixels_BHW3: Tensor,
    views: Sequence[View],
    seed: list[int],
) -> dict[str, float]:
    """One update; its figures."""
    rng = np.random.default_rng(seed)
    size_wh = views[0].rendered.image.size
    boxes = [varied_boxes(torch.from_numpy(view.regions.xyxy), size_wh, rng) for view in views]
    pixels_B3HW = varied_light(to_unit(pixels_BHW3), rng)
    with torch.autocast("cpu", torch.bfloat16):
        loss, figures = lesson(pixels_B3HW, views, boxes)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(clipped, 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return figures


def _optimizers(
    lesson: Lesson, settings: TowerStage
) -> tuple[tuple[torch.optim.Optimizer, torch.optim.Optimizer], list[nn.Parameter]]:
    """Muon for matrices, AdamW for the rest, and that rest; all else is frozen."""
    lesson.model.requires_grad_(False)
    for module in lesson.modules():
        module.requires_grad_(True)
    trained = [item for item in lesson.model.named_parameters() if item[1].requires_grad]
    by_module = {id(p): name for name, p in trained}
    order = [p for module in lesson.modules() for p in module.parameters()]
    matrices = [p for p in order if is_matrix(by_module[id(p)], p)]
    chosen = {id(p) for p in matrices}
    others = [*(p for p in order if id(p) not in chosen), lesson.norms.scale]
    muon = Muon(matrices, lr=settings.matrix_lr, weight_decay=settings.weight_decay)
    adam = torch.optim.AdamW(others, lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.0)
    return (muon, adam), others


@torch.no_grad()
def _settle(lesson: Lesson, paths: Sequence[Path]) -> None:
    """Measure the normalisation anew now that the towers stand still."""
    norm = lesson.norm()
    norm.reset_running_stats()
    norm.momentum = None
    lesson.model.eval()
    norm.train()
    for path in paths:
        _plainly(lesson, path)
    lesson.model.train()


def _plainly(lesson: Lesson, path: Path) -> dict[str, float]:
    """Figures of a shard as it is."""
    pixels, views = load(path)
    boxes = [torch.from_numpy(view.regions.xyxy) for view in views]
    with torch.autocast("cpu", torch.bfloat16):
        return lesson(to_unit(pixels), views, boxes)[1]


def _order(paths: Sequence[Path], seed: int, start: int) -> Iterator[Path]:
    """Shard of each step from ``start`` on; a new order every time through."""
    step = start
    while True:
        turn, at = divmod(step, len(paths))
        yield paths[np.random.default_rng([seed, turn]).permutation(len(paths))[at]]
        step += 1


def _prefetched(paths: Iterator[Path]) -> Iterator[tuple[Tensor, list[View]]]:
    """Read ahead in a thread; what reading raises is raised here."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=4)

    def work() -> None:
        try:
            for path in paths:
                ready.put(load(path))
        except Exception as error:  # noqa: BLE001 - handed over, and raised where it is asked for
            ready.put(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        item = ready.get()
        if isinstance(item, Exception):
            raise item
        yield item
