"""Trains the bundled proposer on synthetic images, from the first image to weights and figures.

``python -m recipes.tiny_proposer --sprites DIR --out DIR``; the same command again goes on where it
stopped. Every step depends on its number alone (which images,
which changes to them), so a resumed run gives the losses that it would have given.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import AdamW

from recipes.synthetic.config import SyntheticConfig, changed
from recipes.synthetic.sprites import SpriteSet, load_sprites
from recipes.tiny_proposer.data import ImagePool, altered, fresh_images
from recipes.tiny_proposer.loss import losses, recall_and_precision
from vlm_fo1.config import differences, plain, read
from vlm_fo1.errors import CheckpointError, ConfigError, FO1Error
from vlm_fo1.proposers.bundled import (
    CONFIG_FILE,
    MULTIPLE,
    WEIGHTS_FILE,
    BoxNetwork,
    BoxNetworkConfig,
    BundledProposer,
)
from vlm_fo1.train.checkpoint import versions
from vlm_fo1.train.metrics import MetricsLogger
from vlm_fo1.train.stop import Stop, stop_on_signals

CHECKPOINT_FILE, FIGURES_FILE, EXPORT_FOLDER = "checkpoint.safetensors", "figures.json", "export"
RECIPE = Path(__file__).with_name("tiny_proposer.yaml")
"""The recipe of the bundled weights."""
_MAY_CHANGE = ("threads", "log_every", "save_every", "evaluate_every", "test")


@dataclass(frozen=True, kw_only=True)
class ProposerTraining:
    """A run of the bundled proposer's training."""

    network: BoxNetworkConfig = field(default_factory=BoxNetworkConfig)
    """Sizes of the network."""
    images: tuple[dict[str, Any], ...] = ({},)
    """Settings of `SyntheticConfig` that differ from its defaults, one mapping a kind of image. The
    kinds take turns; figures are for the first."""
    pool: int = 6000
    """Images that are rendered once and then seen again and again."""
    seed: int = 0
    """Of images, weights and order."""
    steps: int = 1500
    """Optimiser steps."""
    batch_size: int = 16
    """Pictures a step."""
    crop: int = 224
    """Side of the training pictures in pixels, a multiple of 32."""
    zoom: tuple[float, float] = (0.75, 1.3)
    """Least and greatest scaling of an image before a piece is cut out of it."""
    gain: float = 0.25
    """Greatest share by which contrast and each colour are raised or lowered."""
    lr: float = 2e-3
    """Peak learning rate; warmed up, then down to zero along a cosine."""
    warmup_steps: int = 100
    """Steps until the peak."""
    weight_decay: float = 0.05
    """Of AdamW."""
    box_weight: float = 2.0
    """How much the boxes' loss counts beside that of the scores."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the network; losses and weights are float32."""
    threads: int = 1
    """Threads of this process."""
    log_every: int = 20
    """Steps between lines of the log."""
    save_every: int = 100
    """Steps between checkpoints."""
    evaluate_every: int = 400
    """Steps between looks at fresh images; a tenth of `test` images each."""
    test: int = 500
    """Fresh images of the final figures, for each group of styles."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ConfigError: A number out of range, or unknown image settings.
        """
        counts = ("pool", "steps", "batch_size", "threads", "log_every", "save_every", "test")
        for name in (*counts, "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be at least 1")
        if self.crop < MULTIPLE or self.crop % MULTIPLE:
            raise ConfigError(f"crop = {self.crop}: a multiple of {MULTIPLE} pixels is needed")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ConfigError(f"zoom = {self.zoom} must be (least, greatest), both above 0")
        if not 0 <= self.gain < 1:
            raise ConfigError(f"gain = {self.gain} is a share: from 0 to below 1")
        if not self.images:
            raise ConfigError("images is empty: give one mapping of settings, {} for the defaults")
        for values in self.images:
            changed(SyntheticConfig(), values)

    def image_configs(self, sprites: str | None) -> tuple[SyntheticConfig, ...]:
        """The kinds of images, drawn from a sprite folder or, for None, from drawn shapes."""
        base = SyntheticConfig(sprites=sprites)
        return tuple(changed(base, values) for values in self.images)


def train(
    config: ProposerTraining, sprites: str | None, out: Path, progress: Progress | None = None
) -> Path | None:
    """Render, train, export and measure; goes on where an earlier call stopped.

    Args:
        config: What to do.
        sprites: Sprite folder, or None for drawn shapes.
        out: Folder of the run.
        progress: Shows how far it is.

    Returns:
        The folder of the weights; None when a signal ended the run, with everything saved.

    Raises:
        CheckpointError: The folder holds a run with another configuration, or a broken checkpoint.
        ConfigError: No such sprites.
    """
    torch.set_num_threads(config.threads)
    progress = progress or Progress(disable=True)
    kinds = config.image_configs(sprites)
    out.mkdir(parents=True, exist_ok=True)
    with stop_on_signals() as stop:
        pool = ImagePool(out / "pool", kinds, config.seed, config.pool)
        task = progress.add_task("rendering", total=config.pool, figures="")
        for done in pool.fill():
            progress.update(task, completed=done)
            if stop.signal_number is not None:
                return None
        network = _fit(config, pool, out, progress, stop)
    if network is None:
        return None
    folder = export(network, config, out / EXPORT_FOLDER)
    figures = measure(BundledProposer.from_pretrained(folder), config, kinds[0])
    (folder / FIGURES_FILE).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return folder


def _fit(
    config: ProposerTraining, pool: ImagePool, out: Path, progress: Progress, stop: Stop
) -> BoxNetwork | None:
    """The training loop; None when a signal ended it."""
    torch.manual_seed(config.seed)
    network = BoxNetwork(config.network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = AdamW(_groups(network, config.weight_decay), betas=(0.9, 0.99))
    journal = MetricsLogger(out, main=True, tensorboard=False)
    start = _restore(out / CHECKPOINT_FILE, config, network, optimizer)
    journal.begin("proposer", start)
    task = progress.add_task("training", total=config.steps, completed=start, figures="")
    since, seen = time.perf_counter(), 0
    for step in range(start, config.steps):
        lr = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        pixels, boxes = pool_batch(config, pool, step)
        score_loss, box_loss = losses(network.train(), pixels, boxes, config.precision)
        loss = score_loss + config.box_weight * box_loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        done, seen = step + 1, seen + len(boxes)
        progress.update(task, completed=done)
        if done % config.log_every == 0 or done == config.steps:
            rate = seen / (time.perf_counter() - since)
            values = {"loss": loss.item(), "score": score_loss.item(), "box": box_loss.item()}
            journal.write("proposer", done, "train", {**values, "lr": lr, "samples_per_s": rate})
            progress.update(task, figures=f"loss {values['loss']:.3f}  {rate:.0f} pictures/s")
            since, seen = time.perf_counter(), 0
        if done % config.evaluate_every == 0 and done < config.steps:
            small = replace(config, test=max(1, config.test // 10))
            folder = export(network, config, out / "latest")
            figures = measure(BundledProposer.from_pretrained(folder), small, pool.kinds[0])
            journal.write("proposer", done, "eval", figures)
            since, seen = time.perf_counter(), 0
        stopped = stop.signal_number is not None
        if stopped or done % config.save_every == 0 or done == config.steps:
            _save(out / CHECKPOINT_FILE, config, network, optimizer, done)
        if stopped and done < config.steps:
            return None
    return network


def learning_rate(config: ProposerTraining, step: int) -> float:
    """Rate of a step, counted from 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * share))


def pool_batch(config: ProposerTraining, pool: ImagePool, step: int) -> tuple[Tensor, list[Tensor]]:
    """The pictures of a step: (B, 3, S, S) float levels, and the boxes of each, (N, 5).

    The fifth number says how much of the thing the cut left, 0 to 1.
    """
    pictures: list[np.ndarray] = []
    boxes: list[Tensor] = []
    for place in range(step * config.batch_size, (step + 1) * config.batch_size):
        epoch, position = divmod(place, len(pool))
        order = np.random.default_rng([config.seed, 1, epoch]).permutation(len(pool))
        rng = np.random.default_rng([config.seed, 2, place])
        picture, found = altered(
            *pool[int(order[position])], rng, side=config.crop, zoom=config.zoom, gain=config.gain
        )
        pictures.append(picture)
        boxes.append(torch.from_numpy(found))
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return pixels, boxes


def export(network: BoxNetwork, config: ProposerTraining, folder: Path) -> Path:
    """Write the folder that `BundledProposer.from_pretrained` reads; weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    save_file(state, folder / WEIGHTS_FILE)
    text = json.dumps(plain(config.network), indent=1)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def measure(
    proposer: BundledProposer, config: ProposerTraining, kind: SyntheticConfig
) -> dict[str, Any]:
    """Figures on fresh images of a kind, of the training styles and of those held out."""
    sprites = load_sprites(kind.sprites)
    figures: dict[str, Any] = {}
    for name, styles in style_groups(sprites, kind).items():
        images, truths = fresh_images(replace(kind, styles=styles), config.seed, config.test)
        found = proposer.propose(images)
        figures[name] = {"styles": styles, **recall_and_precision(found, truths)}
    return figures


def style_groups(sprites: SpriteSet, kind: SyntheticConfig) -> Mapping[str, tuple[str, ...]]:
    """The styles that train and, where the sprites have some, those that are held out."""
    held_out = tuple(style for style in sprites.pictures if style in sprites.held_out)
    training = {"training": kind.styles or sprites.styles}
    return {**training, "held_out": held_out} if held_out else training


def _groups(network: BoxNetwork, decay: float) -> list[dict[str, Any]]:
    """Parameters for the optimiser; norms and biases do not decay."""
    named = list(network.parameters())
    return [
        {"params": [value for value in named if value.ndim > 1], "weight_decay": decay},
        {"params": [value for value in named if value.ndim <= 1], "weight_decay": 0.0},
    ]


def _save(
    path: Path, config: ProposerTraining, network: BoxNetwork, optimizer: AdamW, step: int
) -> None:
    """Write a checkpoint, at once or not at all."""
    tensors = {f"model|{name}": value for name, value in network.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"{kind}|{index}": torch.as_tensor(value) for kind, value in values.items()}
    facts = {"step": step, "config": plain(config), "versions": versions()}
    part = path.with_suffix(".part")
    whole = {name: value.detach().contiguous() for name, value in tensors.items()}
    save_file(whole, part, metadata={"run": json.dumps(facts)})
    part.replace(path)


def _restore(path: Path, config: ProposerTraining, network: BoxNetwork, optimizer: AdamW) -> int:
    """Put a checkpoint back, and give its step; 0 without one.

    Raises:
        CheckpointError: It is of a run with another configuration.
    """
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["run"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    lines = differences(facts["config"], plain(config))
    harmful = [line for line in lines if not line.startswith(_MAY_CHANGE)]
    if harmful:
        raise CheckpointError(
            f"{path} was made with another configuration ({'; '.join(harmful)}): take these back "
            "or give the run a new folder"
        )
    by_index: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition("|")
        if kind == "model":
            weights[name] = value
        else:
            by_index.setdefault(int(name), {})[kind] = value
    network.load_state_dict(weights)
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "state": by_index})
    return int(facts["step"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when the run is complete, 1 when a signal ended it, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny_proposer", description=__doc__)
    parser.add_argument(
        "config", type=Path, nargs="?", default=RECIPE, help="the file beside this one by default"
    )
    parser.add_argument("--sprites", help="sprite folder; drawn shapes without it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[figures]}"))
    try:
        config = read(options.config, ProposerTraining, options.set)
        with Progress(*columns, console=console) as progress:
            folder = train(config, options.sprites, options.out, progress)
    except FO1Error as error:
        console.print(f"{type(error).__name__}: {error}", markup=False, soft_wrap=True)
        return 2
    if folder is None:
        console.print("stopped; everything is saved: the same command goes on")
        return 1
    console.print(f"weights and figures: {folder}", markup=False, soft_wrap=True)
    return 0
