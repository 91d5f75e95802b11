"""Trains the bundled proposer on synthetic images, from the first image to weights and figures.

``python -m recipes.tiny_proposer --sprites DIR --out DIR``; the same command again goes on exactly
where it stopped. Steps, checkpoints, schedule and log are those of `vlm_fo1.train.loop`; here are
the images, the loss and the figures.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn
from safetensors.torch import save_file
from torch import Tensor, nn

from recipes.synthetic.config import SyntheticConfig, changed
from recipes.synthetic.sprites import SpriteSet, load_sprites
from recipes.tiny_proposer.data import ImagePool, PoolSource, altered, fresh_images
from recipes.tiny_proposer.loss import losses, recall_and_precision
from vlm_fo1.config import plain, read
from vlm_fo1.errors import ConfigError, FO1Error
from vlm_fo1.proposers.bundled import (
    CONFIG_FILE,
    MULTIPLE,
    WEIGHTS_FILE,
    BoxNetwork,
    BoxNetworkConfig,
    BundledProposer,
)
from vlm_fo1.train import loop
from vlm_fo1.train.components import RunComponents, StepReport
from vlm_fo1.train.config import (
    DataConfig,
    DistributedConfig,
    ModelConfig,
    OutputConfig,
    StageConfig,
    TrainConfig,
)
from vlm_fo1.train.stop import stop_on_signals

FIGURES_FILE = "figures.json"
RECIPE = Path(__file__).with_name("tiny_proposer.yaml")
"""The recipe of the bundled weights."""


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
    crop: int = 224
    """Side of the training images in pixels, a multiple of 32."""
    zoom: tuple[float, float] = (0.75, 1.3)
    """Least and greatest scaling of an image before a piece is cut out of it."""
    gain: float = 0.25
    """Greatest share by which contrast and each colour are raised or lowered."""
    box_weight: float = 2.0
    """How much the boxes' loss counts beside that of the scores."""
    stage: StageConfig
    """Steps, rates and schedule; its evaluations look at a tenth of `test` fresh images."""
    threads: int = 1
    """Threads of this process."""
    log_every: int = 20
    """Steps between lines of the log."""
    test: int = 500
    """Fresh images of the final figures, for each group of styles."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ConfigError: A number out of range, or unknown image settings.
        """
        for name in ("pool", "threads", "test"):
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

    def run_config(self, out: Path) -> TrainConfig:
        """The run as the library's loop takes it."""
        apart = ("stage", "threads", "log_every", "test")
        return TrainConfig(
            stages=(self.stage,),
            model=ModelConfig(path="BoxNetwork", init="random"),
            output=OutputConfig(folder=out, log_every=self.log_every, tensorboard=False),
            data=DataConfig(pool_batches=1, on_bad_record="stop"),
            distributed=DistributedConfig(device="cpu"),
            seed=self.seed,
            recipe={key: value for key, value in plain(self).items() if key not in apart},
        )


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
    pool = ImagePool(out / "pool", config.image_configs(sprites), config.seed, config.pool)
    task = progress.add_task("rendering", total=config.pool, figures="")
    with stop_on_signals() as stop:
        for done in pool.fill():
            progress.update(task, completed=done)
            if stop.signal_number is not None:
                return None
    task = progress.add_task("training", total=config.stage.steps, figures="")

    def watch(report: StepReport) -> None:
        progress.update(task, completed=report.step)
        if report.metrics is not None:
            figures = "loss {loss:.3f}  {samples_per_s:.0f} images/s".format(**report.metrics)
            progress.update(task, figures=figures)

    folder = loop.train(config.run_config(out), components(config, pool, out), watch=watch).folder
    if folder is not None:
        figures = measure(BundledProposer.from_pretrained(folder), config, pool.kinds[0])
        (folder / FIGURES_FILE).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return folder


def components(config: ProposerTraining, pool: ImagePool, out: Path) -> RunComponents:
    """What the loop runs: the network, its images, its loss, and figures on fresh images."""

    def loss(network: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        score, box = losses(network, batch["pixels"], batch["boxes"])
        images = len(batch["boxes"])  # the targets: a loss is a sum over them
        return images * (score + config.box_weight * box), {
            "score": images * score,
            "box": images * box,
        }

    def evaluate(network: nn.Module, stage: StageConfig, step: int) -> dict[str, float]:
        del stage, step
        folder = export(network.state_dict(), config.network, out / "latest")
        small = replace(config, test=max(1, config.test // 10))
        found = measure(BundledProposer.from_pretrained(folder), small, pool.kinds[0])
        return {
            f"{group}_{name}": value
            for group, figures in found.items()
            for name, value in figures.items()
            if name != "styles"
        }

    return RunComponents(
        load_model=lambda _: BoxNetwork(config.network).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        make_source=lambda _, shard, shards: PoolSource(len(pool), config.seed, shard, shards),
        collate=pool_collate(config, pool),
        loss=loss,
        evaluate=evaluate,
        save_model=lambda _, state, folder: export(state, config.network, folder),
    )


def pool_collate(
    config: ProposerTraining, pool: ImagePool
) -> Callable[[Sequence[tuple[int, int]]], dict[str, Any]]:
    """What makes a batch: ``pixels`` (B, 3, S, S) float levels, and ``boxes``, B of (N, 5).

    The fifth number says how much of the thing the cut left, 0 to 1.
    """

    def collate(drawn: Sequence[tuple[int, int]]) -> dict[str, Any]:
        levels: list[np.ndarray] = []
        boxes: list[Tensor] = []
        for place, index in drawn:
            rng = np.random.default_rng([config.seed, 2, place])
            image, found = altered(
                *pool[index], rng, side=config.crop, zoom=config.zoom, gain=config.gain
            )
            levels.append(image)
            boxes.append(torch.from_numpy(found))
        return {
            "pixels": torch.from_numpy(np.stack(levels)).permute(0, 3, 1, 2).float(),
            "boxes": boxes,
        }

    return collate


def export(state: Mapping[str, Tensor], sizes: BoxNetworkConfig, folder: Path) -> Path:
    """Write the folder that `BundledProposer.from_pretrained` reads; weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in state.items()
    }
    save_file(halves, folder / WEIGHTS_FILE)
    text = json.dumps(plain(sizes), indent=1)
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
