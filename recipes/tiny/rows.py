"""Rows to learn from: imagined or seen images with questions or exercises.

Shapes: n image tokens, N regions, D width of the language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.questions import ask
from recipes.synthetic.view import View
from recipes.tiny.drills import drill
from recipes.tiny.imagined import imagine
from recipes.tiny.packing import Packer, Row, as_sets
from recipes.tiny.recipe import MAX_LABELS, Phase
from recipes.tiny.seen import Seen
from vlm_fo1.data.regions import BuiltRegions

Rng = np.random.Generator
Order = npt.NDArray[np.int64]

MOST_REGIONS = 30
"""Greatest number of regions of an imagined image."""
_EASY_BELOW = 8  # regions; easier tasks for images of fewer
_FEWER = 0.35  # share of seen images that are cut down to some of their regions
_GRID = (4, 4)  # patches of a picture that nobody drew
_NO_REGIONS = BuiltRegions(
    np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
)


@dataclass(frozen=True)
class Drawn:
    """A row with what stands in its places."""

    row: Row
    view: View
    image_nD: Tensor | None
    """Image tokens; None for zeros."""
    regions_ND: Tensor | None
    """Region tokens; None for the code of the truth."""


@dataclass(frozen=True)
class Level:
    """How hard imagined images are; it rises as answers get better."""

    regions: int
    """Most regions."""
    kinds: float
    """How many kinds and words appear."""
    recent: float = 0.0
    """Running mean of right choices."""
    since: int = 0
    """Steps since it last rose."""

    def after(self, right: float, phase: Phase, all_kinds: int) -> "Level":
        """The level after a step of which so many choices were right.

        Args:
            right: Share.
            phase: Gives the gate and the size of a step.
            all_kinds: How many kinds there are.
        """
        weight = phase.batch / 600
        recent = (1 - weight) * self.recent + weight * right
        since = self.since + 1
        top = self.regions >= MOST_REGIONS and self.kinds >= all_kinds
        if recent <= phase.gate or since * phase.batch <= 300 or top:
            return replace(self, recent=recent, since=since)
        regions = min(MOST_REGIONS, self.regions + 1 + (self.regions >= 10))
        return Level(regions, min(all_kinds, self.kinds * 1.5), recent - 0.02, 0)


class Sampler:
    """Draws the rows of a step.

    Args:
        phase: Says of what kinds.
        packer: Writes them.
        kinds: All kinds, most used first.
        words: All words of signs.
        plain: Images for questions about whole pictures.
        seen: Images with region tokens.
    """

    def __init__(
        self,
        phase: Phase,
        packer: Packer,
        kinds: Sequence[str],
        words: Sequence[str],
        plain: Seen | None,
        seen: Seen | None,
    ) -> None:
        self.phase, self.packer = phase, packer
        self.kinds, self.words, self.plain, self.seen = kinds, words, plain, seen

    def __call__(self, level: Level, drilled: bool, rng: Rng) -> list[Drawn]:
        """The rows of a step, each list of tags in random order."""
        phase = self.phase
        count = phase.batch if drilled else phase.question_batch or phase.batch
        draw = self._drill if drilled else self._questions
        drawn = [draw(level, rng) for _ in range(count)]
        return [replace(d, row=as_sets(d.row, self.packer.tag_ids, rng)) for d in drawn]

    @cached_property
    def _config(self) -> SyntheticConfig:
        count = self.phase.questions
        return SyntheticConfig(
            tasks=self.phase.tasks or SyntheticConfig().tasks,
            turns=(count, count),
            labels=(1, MAX_LABELS),
            absent=0.35,
            absent_style="none",
        )

    def _config_for(self, level: Level) -> SyntheticConfig:
        if level.regions < _EASY_BELOW and self.phase.easy_tasks:
            return replace(self._config, tasks=self.phase.easy_tasks)
        return self._config

    def _questions(self, level: Level, rng: Rng) -> Drawn:
        config, dice = self._config_for(level), rng.random()
        if self.plain is not None and dice < self.phase.plain_share:
            return self._plain(self.plain, config, rng)
        if self.seen is not None and dice < self.phase.plain_share + self.phase.seen_share:
            return self._seen(self.seen, config, rng)
        view = self._imagined(level, rng, config)
        turns = ask(view, rng)
        row = self.packer.row(len(view.regions.truth), turns, _GRID)
        return Drawn(row, view, None, None)

    def _plain(self, plain: Seen, config: SyntheticConfig, rng: Rng) -> Drawn:
        at = int(rng.integers(len(plain)))
        config = replace(config, tasks={"free": 1.0})
        view = View(plain.views[at].rendered, _NO_REGIONS, config)
        row = self.packer.row(0, ask(view, rng), plain.grids[at])
        image = plain.image[at]
        return Drawn(row, view, image, image.new_zeros(0, image.shape[-1]))

    def _seen(self, seen: Seen, config: SyntheticConfig, rng: Rng) -> Drawn:
        most = 12 if rng.random() < _FEWER else None
        at = int(rng.integers(len(seen)))
        view, order = choose_regions(seen.views[at], most, rng)
        tasks = dict(config.tasks)
        if len(order) < len(seen.views[at].regions.xyxy):
            for task in ("free", "reasoning"):  # they are about the whole picture
                tasks.pop(task, None)
        view = View(view.rendered, view.regions, replace(config, tasks=tasks))
        turns = ask(view, rng)
        row = self.packer.row(len(order), turns, seen.grids[at])
        return Drawn(row, view, seen.image[at], seen.regions[at][torch.from_numpy(order)])

    def _drill(self, level: Level, rng: Rng) -> Drawn:
        phase = self.phase
        count = min(16, 2 * level.regions + 2)
        if rng.random() < phase.seen_share and self.seen is not None:
            seen = self.seen
            at = int(rng.integers(len(seen)))
            most = 14 if rng.random() < _FEWER else None
            view, order = choose_regions(seen.views[at], most, rng)
            if view.items:
                row = drill(self.packer, view, seen.grids[at], count, rng, phase)
                return Drawn(row, view, seen.image[at], seen.regions[at][torch.from_numpy(order)])
        view = self._imagined(level, rng, self._config)
        row = drill(self.packer, view, _GRID, count, rng, phase)
        return Drawn(row, view, None, None)

    def _imagined(self, level: Level, rng: Rng, config: SyntheticConfig) -> View:
        regions = int(rng.integers(min(2, level.regions), level.regions + 1))
        kinds = self.kinds[: int(level.kinds)]
        words = self.words[: max(8, int(level.kinds))]
        return imagine(config, kinds, words, regions, rng)


def choose_regions(view: View, most: int | None, rng: Rng) -> tuple[View, Order]:
    """The image with some of its regions, and their numbers in the new order; all for None."""
    count = len(view.regions.xyxy)
    order = rng.permutation(count)
    if most is not None and count > 1:
        wanted = int(rng.integers(min(2, count), min(most, count) + 1))
        order = _with_alike(view, order, wanted, rng)
    built = BuiltRegions(
        view.regions.xyxy[order], view.regions.truth[order], view.regions.scores[order]
    )
    return View(view.rendered, built, view.config), order


def _with_alike(view: View, order: Order, wanted: int, rng: Rng) -> Order:
    """So many regions, often with several of one kind, mostly things."""
    truth = view.regions.truth
    things = [i for i in order.tolist() if truth[i] >= 0]
    nothing = [i for i in order.tolist() if truth[i] < 0]
    if things and rng.random() < 0.6:
        name = view.rendered.objects[int(truth[things[0]])].name
        things.sort(key=lambda i: view.rendered.objects[int(truth[i])].name != name)
    blank = min(len(nothing), int(rng.binomial(wanted, 0.25)))
    taken = (things[: wanted - blank] + nothing)[:wanted]
    return rng.permutation(np.array(taken, np.int64))
