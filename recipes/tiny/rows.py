"""Rows to learn from: an imagined or seen image with questions or exercises about it.

Shapes: n image tokens, N regions, D width of the language model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.questions import ask
from recipes.synthetic.view import View
from recipes.tiny.code import Code, truth_of
from recipes.tiny.drills import drill
from recipes.tiny.features import Seen
from recipes.tiny.imagined import imagine
from recipes.tiny.network import LOUD
from recipes.tiny.recipe import MAX_LABELS, Lesson, Recipe
from vlm_fo1.data.collate import IGNORED, Encoded
from vlm_fo1.data.regions import BuiltRegions
from vlm_fo1.processing import FO1Processor
from vlm_fo1.train.sets import runs_of_tags

Rng = np.random.Generator

MOST_REGIONS = 30
"""Greatest number of regions of an imagined image."""
HELD_OUT = 16
"""Of so many seen images one never trains."""
_QUESTIONS = 8  # on an image
_FEWER, _FEW = 0.35, 13  # share of seen images that are cut down, and to how many regions at most
_GRID = (4, 4)  # patches of an image that nobody drew
_NOISE = 0.5  # length of the noise on the code of a region, in words


@dataclass(frozen=True)
class Row:
    """One image with its questions as token ids, and what stands in its places."""

    encoded: Encoded
    grid_hw: tuple[int, int]
    image_nD: Tensor
    regions_ND: Tensor
    lesson: Lesson


@dataclass
class Rows:
    """Draws the rows of a lesson."""

    recipe: Recipe
    lesson: Lesson
    processor: FO1Processor
    code: Code
    features: Sequence[Seen]
    rises: Callable[[], int]
    """How often imagined images became harder."""

    def __post_init__(self) -> None:
        lesson = self.lesson
        self.seed = [self.recipe.seed, 2, lesson.stream]
        self.tags = self.processor.region_tag_ids()
        self.prefix = lru_cache(4096)(self.processor.encode_prefix)  # a third of a row's time
        self.config = SyntheticConfig(
            tasks=lesson.tasks,
            turns=(_QUESTIONS, _QUESTIONS),
            labels=(1, MAX_LABELS),
            absent=0.35,
            absent_style="none",
        )

    def __call__(self, place: int, turn: int) -> Row:
        """A row, the same for the same place, number of its batch, and level."""
        lesson, rng = self.lesson, np.random.default_rng([*self.seed, 0, place])
        drilled = np.random.default_rng([*self.seed, 1, turn]).random() < lesson.drill
        plain = 0.0 if drilled else lesson.plain_share
        dice = rng.random()
        if dice < plain + lesson.seen_share:
            view, grid_hw, image_nD, regions_ND = self._look(rng)
            tasks = dict(lesson.tasks)
            if dice < plain:
                order, tasks = np.zeros(0, np.int64), {"free": 1.0}
            else:
                order = choose_regions(view, rng)
                if len(order) < len(regions_ND):  # these are about the whole image
                    tasks = {k: v for k, v in tasks.items() if k not in ("free", "reasoning")}
            regions_ND = regions_ND[torch.from_numpy(order)]
            built = view.regions
            regions = BuiltRegions(built.xyxy[order], built.truth[order], built.scores[order])
            view = View(view.rendered, regions, replace(self.config, tasks=tasks))
        else:
            view, grid_hw = self._imagined(rng), _GRID
            exact_ND = self.code.tokens(truth_of([view]))
            noise = rng.normal(0, _NOISE / exact_ND.shape[1] ** 0.5, tuple(exact_ND.shape))
            said_ND = self.code.stretched(exact_ND, lesson.places)
            regions_ND = LOUD * (said_ND + torch.from_numpy(noise.astype(np.float32)))
            image_nD = torch.zeros(_GRID[0] * _GRID[1] // 4, exact_ND.shape[1])
        drilled = drilled and len(view.items) > 0
        pairs = (
            drill(view, min(16, 2 * len(regions_ND) + 2), rng, lesson)
            if drilled
            else self._questions(view, rng)
        )
        return Row(
            self._encode(pairs, len(regions_ND), len(image_nD), rng),
            grid_hw, image_nD, regions_ND, lesson,
        )  # fmt: skip

    def _look(self, rng: Rng) -> Seen:
        index = int(rng.integers(len(self.features)))
        if self.lesson.held_out:
            index -= index % HELD_OUT
        elif not index % HELD_OUT:
            index = min(index + 1, len(self.features) - 1)
        return self.features[index]

    def _imagined(self, rng: Rng) -> View:
        most, images = self.lesson.regions, self.recipe.images
        for _ in range(self.rises()):
            most += 1 + (most >= 10)
        count = int(rng.integers(2, min(most, MOST_REGIONS) + 1))
        return replace(imagine(images["kinds"], images["words"], count, rng), config=self.config)

    def _questions(self, view: View, rng: Rng) -> list[tuple[str, str]]:
        """Questions as users ask them, each answer with the stop token behind it."""
        chat = self.processor.chat
        before = chat.after_regions if len(view.regions.truth) else chat.after_image
        return [
            (before + turn.question + chat.closing, turn.answer + chat.stop_token)
            for turn in ask(view, rng)
        ]

    def _encode(
        self, pairs: Sequence[tuple[str, str]], regions: int, images: int, rng: Rng
    ) -> Encoded:
        """Questions and answers behind the image they share; tags in random order: they are a set.

        Our own questions hold nothing that would have to be escaped.
        """
        written = self.processor.tokenizer(list(chain(*pairs)), add_special_tokens=False)
        texts = iter(written["input_ids"])
        ids = list(self.prefix(regions, images))
        labels, segments = [IGNORED] * len(ids), [0] * len(ids)
        for number, (question, answer) in enumerate(zip(texts, texts, strict=True), start=1):
            mixed = np.array(answer)
            for start, end in runs_of_tags(mixed, self.tags):
                rng.shuffle(mixed[start:end])
            ids += [*question, *mixed.tolist()]
            labels += [*[IGNORED] * len(question), *mixed.tolist()]
            segments += [number] * (len(question) + len(answer))
        return Encoded(ids, labels, segments, len(pairs))


def choose_regions(view: View, rng: Rng) -> np.ndarray:
    """Numbers of regions in a new order: all, or a few, often of one kind and mostly things."""
    order, truth = rng.permutation(len(view.regions.truth)), view.regions.truth
    if rng.random() >= _FEWER or len(order) < 3:
        return order
    things, nothing = order[truth[order] >= 0].tolist(), order[truth[order] < 0].tolist()
    names = {i: view.rendered.objects[int(truth[i])].name for i in things}
    if things and rng.random() < 0.6:
        first = names[things[0]]
        things.sort(key=lambda i: names[i] != first)
    wanted = int(rng.integers(2, min(_FEW, len(order)) + 1))
    empty = min(len(nothing), int(rng.binomial(wanted, 0.25)))
    return rng.permutation(np.array((things[: wanted - empty] + nothing)[:wanted], np.int64))
