"""The language model's phases, each from the weights of the one before, on one or more processes.

Every step depends on its number alone, so a resumed run has the losses it would have had.
"""

import multiprocessing
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from recipes.tiny import seen, states
from recipes.tiny.muon import Muon, is_matrix, rate_share
from recipes.tiny.network import LANGUAGE_MODEL, build
from recipes.tiny.recipe import Phase, Recipe
from recipes.tiny.rows import Level, Sampler
from recipes.tiny.run import Run
from recipes.tiny.speak import Speaker, prepare, right_by_task, sharpen
from vlm_fo1.config import plain
from vlm_fo1.errors import TrainingError
from vlm_fo1.train.stop import stop_on_signals


def train_phase(run: Run, phase: Phase) -> bool:
    """Run a phase to its end, in as many processes as it names.

    Args:
        run: The run.
        phase: One of the recipe's.

    Returns:
        False when somebody asked to stop before the end; everything is saved.

    Raises:
        TrainingError: The phase before has not run, or a process ended early.
    """
    if phase.processes == 1:
        return PhaseTraining(run, phase, rank=0).train()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{found.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(
            target=_helper,
            args=(run.recipe, run.folder, run.sprites, phase, rank, address),
            daemon=True,
        )
        for rank in range(1, phase.processes)
    ]
    for other in others:
        other.start()  # before this process keeps to one core: they would inherit that
    cores = _own_core(0)
    try:
        _join(address, 0, phase.processes)
        finished = PhaseTraining(run, phase, rank=0).train()
    except RuntimeError as error:
        raise TrainingError(f"phase {phase.name!r} lost one of its processes: {error}") from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for other in others:
            other.join(timeout=60)
        os.sched_setaffinity(0, cores)
    return finished


def _helper(
    recipe: Recipe, folder: Path, sprites: str | None, phase: Phase, rank: int, address: str
) -> None:
    """What a further process does: the same steps on other rows, no log."""
    _own_core(rank)
    _join(address, rank, phase.processes)
    with stop_on_signals() as stop, Progress(disable=True) as progress:
        PhaseTraining(Run(recipe, folder, sprites, progress, stop), phase, rank=rank).train()
    torch.distributed.destroy_process_group()


def _join(address: str, rank: int, world: int) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)


def _own_core(rank: int) -> set[int]:
    """Bind this process to one of the cores it may use; gives those."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[rank % len(cores)]})
    return cores


class PhaseTraining:
    """One process of a phase.

    Args:
        run: The run.
        phase: The phase.
        rank: Number of this process; 0 writes.
        connector: Weights of a region connector that trains as well; the images that were seen then
            hold what goes into it. None where it stands still, as in the recipe.

    Raises:
        TrainingError: The phase before has not run.
    """

    def __init__(
        self,
        run: Run,
        phase: Phase,
        rank: int,
        connector: Mapping[str, Tensor] | None = None,
    ) -> None:
        torch.set_num_threads(run.recipe.threads)
        self.run, self.phase, self.rank = run, phase, rank
        recipe = run.recipe
        self.model, processor = build(recipe.seed, recipe.network)
        prepare(self.model, processor)
        self.parts = LANGUAGE_MODEL
        self.speaker = Speaker(self.model, processor, phase.stretch)
        if connector is not None:
            self.parts = (*LANGUAGE_MODEL, "region_connector.")
            self.model.region_connector.load_state_dict(connector)
            self.speaker.connector = self.model.region_connector
        self._start_from(recipe.phases.index(phase))
        self.kinds = tuple(recipe.images["kinds"])
        self.sampler = Sampler(
            phase,
            self.speaker.packer,
            self.kinds,
            tuple(recipe.images["words"]),
            seen.read(run.seen(run.recipe.towers[0].name)) if phase.plain_share else None,
            seen.read(run.seen(phase.seen_by), phase.seen_shards) if phase.seen_share else None,
        )
        words: Any = self.model.get_input_embeddings().weight
        self.free_V1 = torch.ones(words.shape[0], 1)
        self.free_V1[torch.cat(list(self.speaker.code.ids.values()))] = 0  # regions are aligned to
        self.words = words
        self.trained = _trainable(self.model, self.parts)
        self.optimizers = _optimizers(self.model, phase)
        self.peaks = [float(optimizer.param_groups[0]["lr"]) for optimizer in self.optimizers]
        self.config: dict[str, Any] = {
            "seed": recipe.seed,
            "network": plain(recipe.network),
            "phase": plain(phase),
        }
        if connector is not None:
            self.config["connector"] = "trains"
        self.level, self.step = Level(phase.regions, float(phase.kinds)), 0
        saved = states.load(run.checkpoint(phase.name), self.optimizers, self.config)
        if saved is not None:
            self._put_back(saved.parts["model"])
            self.level, self.step = Level(**saved.more["level"]), saved.step

    def train(self) -> bool:
        """The steps that are left; False when somebody asked to stop before the end."""
        phase, run = self.phase, self.run
        if self.step >= phase.steps:
            return True
        meter = run.meter(phase.name, self.step, phase.steps, "rows") if not self.rank else None
        by_task: dict[str, tuple[int, int]] = {}
        self.model.train()
        stopped = False
        while self.step < phase.steps and not stopped:
            loss, rows, found, stopped = self._update()
            for task, (right, count) in found.items():
                before = by_task.get(task, (0, 0))
                by_task[task] = (before[0] + right, before[1] + count)
            if meter is None:
                continue
            meter.add({"loss": loss}, rows * phase.processes)
            last = self.step == phase.steps
            if self.step % phase.log_every == 0 or last:
                shares = {task: round(a / b, 3) for task, (a, b) in sorted(by_task.items())}
                level = {"regions": self.level.regions, "kinds": int(self.level.kinds)}
                meter.write(self.step, **level, right=round(self.level.recent, 4), tasks=shares)
                by_task = {}
            if stopped or last or self.step % phase.save_every == 0:
                self._save()
        return self.step == phase.steps

    def _update(self) -> tuple[float, int, dict[str, tuple[int, int]], bool]:
        """One step: its loss, its rows, right answers by task, and whether all are to stop."""
        phase, seed = self.phase, self.run.recipe.seed
        rng = np.random.default_rng([seed, 7, self.step, self.rank])
        drilled = np.random.default_rng([seed, 8, self.step]).random() < phase.drill
        drawn = self.sampler(self.level, drilled, rng)
        rate = rate_share(self.step, phase.planned_steps or phase.steps, phase.warmup, phase.decay)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            spoken = self.speaker(drawn, rng)
        loss = spoken.loss_S.mean()
        loss.backward()
        right = self.speaker.choice_right(spoken)
        right = self.level.recent if right is None else right
        stop = self.run.stop.signal_number is not None
        if phase.processes > 1:
            right, stopped = _averaged(self.trained, [right, float(stop)])
            stop = stopped > 0
        assert self.words.grad is not None
        self.words.grad.mul_(self.free_V1)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.level = self.level.after(right, phase, len(self.kinds))
        found = right_by_task([item.row for item in drawn], spoken)
        return loss.item(), len(drawn), found, stop

    def _start_from(self, number: int) -> None:
        """Take the weights of the phase before, if there is one.

        Raises:
            TrainingError: It has not run to its end.
        """
        phases = self.run.recipe.phases
        if number:
            before = states.load(self.run.checkpoint(phases[number - 1].name))
            if before is None or before.step < phases[number - 1].steps:
                raise TrainingError(
                    f"phase {self.phase.name!r} starts from phase {phases[number - 1].name!r}, "
                    "which is not done: run that first"
                )
            self._put_back(before.parts["model"])
        if self.phase.sharpness is not None:
            sharpen(self.model, self.phase.sharpness)

    def _put_back(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(self.model.state_dict() | state)

    def _save(self) -> None:
        state = self.model.state_dict()
        kept = {name: value for name, value in state.items() if name.startswith(self.parts)}
        states.save(
            self.run.checkpoint(self.phase.name),
            {"model": kept},
            self.optimizers,
            step=self.step,
            config=self.config,
            more={"level": asdict(self.level)},
        )


def _trainable(model: nn.Module, parts: tuple[str, ...]) -> list[nn.Parameter]:
    """Parameters whose names begin with one of these; all else is frozen."""
    model.requires_grad_(False)
    found: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name.startswith(parts):
            parameter.requires_grad_(True)
            found.append(parameter)
    return found


def _optimizers(model: nn.Module, phase: Phase) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for vectors, words, and the norms of queries and keys."""
    named = [item for item in model.named_parameters() if item[1].requires_grad]
    sharp = [p for name, p in named if name.endswith(("q_norm.weight", "k_norm.weight"))]
    words = [p for name, p in named if "embed_tokens" in name]
    matrices = [p for name, p in named if is_matrix(name, p)]
    taken = {id(p) for p in (*sharp, *words, *matrices)}
    vectors = [p for _, p in named if id(p) not in taken]
    found: list[torch.optim.Optimizer] = [Muon(matrices, lr=phase.matrix_lr, weight_decay=0.01)]
    rates = (phase.lr, phase.words_lr, phase.sharp_lr or phase.lr)
    for part, rate in zip((vectors, words, sharp), rates, strict=True):
        found.append(torch.optim.AdamW(part, lr=rate, betas=(0.9, 0.95), weight_decay=0.0))
    return found


def _averaged(parameters: Sequence[nn.Parameter], also: Sequence[float]) -> list[float]:
    """Give all processes the mean of their gradients and of some numbers, which come back."""
    grads: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        grads.append(parameter.grad)
    flat = torch.cat([*(grad.flatten() for grad in grads), torch.tensor(also)])
    torch.distributed.all_reduce(flat)
    flat.div_(torch.distributed.get_world_size())
    at = 0
    for grad in grads:
        grad.copy_(flat[at : at + grad.numel()].view_as(grad))
        at += grad.numel()
    return flat[at:].tolist()
