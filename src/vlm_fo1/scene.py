"""One encoded picture with its regions: each question on it pays for its own text only."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.images import read_image
from vlm_fo1.merging import merged, with_all_labels
from vlm_fo1.model.modeling import EncodedImages
from vlm_fo1.regions import Regions
from vlm_fo1.sight import Network, OnText, Sight, Writing
from vlm_fo1.tasks import (
    MAX_NEW_TOKENS,
    Question,
    Task,
    as_list,
    ask_grounded_caption,
    ask_identify,
    caption_task,
    in_groups,
)
from vlm_fo1.tiling import Area, Window, best_first, best_of, cut_regions, in_tiles

logger = logging.getLogger(__name__)

KEPT_PREFIXES = 4
"""With more windows than this, what the language model made of each is not kept in memory."""


class Scene:
    """One encoded picture with its regions; make it with `FO1.open`. Threads may share it.

    The towers look at the picture once, with the first question that can be asked.

    Detection and counting look at every region: where there are more than one question holds, they
    ask several and merge the answers (see `vlm_fo1.tiling`). The other tasks use the best by
    score, or the first, which the answer's ``problems`` say. Region numbers are the same in all
    questions and answers: positions in `regions`.

    Args:
        network: The model and its processor.
        image: RGB, upright.
        regions: What the model may point at, in image pixels.
        tile: Side in pixels of the tiles through which detection and counting look at the picture;
            None for the whole picture at once.
        notes: What every answer's ``problems`` shall say.
        propose_s: What it took to get the regions, for ``timing_s``.
    """

    def __init__(
        self,
        network: Network,
        image: Image.Image,
        regions: Regions,
        *,
        tile: int | None = None,
        notes: Sequence[str] = (),
        propose_s: float = 0.0,
    ) -> None:
        self.network = network
        self.image = image
        self.regions = regions
        self.tile = tile
        self.notes = list(notes)
        self.propose_s = propose_s
        if not len(regions) and not notes:
            self.notes.append("no regions were offered: the answer can point at nothing")
        self._limit = network.processor.vocabulary.max_regions
        self._lock = threading.RLock()
        self._warned = False
        self._encoded: dict[Area, tuple[EncodedImages, dict[int, int], float]] = {}
        self._sights: dict[Window, Sight] = {}
        self._best = best_of(regions, self._limit)
        if tile is None:
            self._all = best_first(regions, np.arange(len(regions)), self._limit)
        else:
            self._all = in_tiles(regions, tile, self._limit)

    def detect(
        self,
        labels: str | Sequence[str],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
    ) -> Answer:
        """Find everything that one of the labels names."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        return self.put(self.network.about_labels(Task.DETECTION, labels), writing)

    def count(
        self, label: str, *, max_new_tokens: int = MAX_NEW_TOKENS, on_text: OnText | None = None
    ) -> Answer:
        """Count one kind of thing; the number is ``answer.count``."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        return self.put(self.network.about_labels(Task.COUNTING, label), writing)

    def refer(
        self, phrase: str, *, max_new_tokens: int = MAX_NEW_TOKENS, on_text: OnText | None = None
    ) -> Answer:
        """Find what a phrase describes."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        return self.put(self.network.about_labels(Task.REFERRING, phrase), writing)

    def describe(
        self,
        indices: Sequence[int] | None = None,
        *,
        detail: Literal["brief", "detailed"] = "brief",
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
    ) -> Answer:
        """Say what stands in each region (all by default), one question each."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        return self.put_each(caption_task(detail), indices, writing)

    def read_text(
        self,
        indices: Sequence[int] | None = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
    ) -> Answer:
        """Read the writing in each region (all by default), one question each."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        return self.put_each(Task.REGION_OCR, indices, writing)

    def match(
        self, index: int, *, max_new_tokens: int = MAX_NEW_TOKENS, on_text: OnText | None = None
    ) -> Answer:
        """Find more of what stands in region ``index``."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        return self.put(self._about_regions(Task.VISUAL_PROMPT, [index]), writing)

    def ground(
        self, *, max_new_tokens: int = MAX_NEW_TOKENS, on_text: OnText | None = None
    ) -> Answer:
        """Describe the image and point at everything mentioned."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        return self.put(ask_grounded_caption(), writing)

    def identify(
        self, *, max_new_tokens: int = MAX_NEW_TOKENS, on_text: OnText | None = None
    ) -> Answer:
        """Name every object, with its regions."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        return self.put(ask_identify(), writing)

    def reason(
        self,
        question: str,
        *,
        about: Sequence[int] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
    ) -> Answer:
        """Think aloud, then answer, with regions as evidence; ``about`` as in `ask`."""
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        return self.put(self._in_words(Task.REASONING, question, about), writing)

    def ask(
        self,
        question: str,
        *,
        about: Sequence[int] = (),
        images: Sequence[Any] = (),
        system: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
    ) -> Answer:
        """Ask anything.

        Args:
            question: In your own words.
            about: Regions that the question names: ``about=[3]`` puts region 3 where ``{}`` stands.
            images: Further pictures to compare with, anything `read_image` takes but a URL. They
                have no regions: what the answer points at is in the picture of the scene. The first
                of them goes where ``<image_1>`` stands in the question, and so on; those that the
                question does not place stand before it. ``<image_0>`` is the picture of the scene.
            system: A system message in place of the usual one.
            max_new_tokens: Length limit of the answer.
            on_text: Gets the text as it is written.

        Raises:
            PromptError: The question cannot be asked, or the host takes no system message.
            ImageError: A further picture cannot be read.
        """
        writing = Writing(max_new_tokens=max_new_tokens, on_text=on_text)
        asked = self._in_words(Task.FREE, question, about)
        if not images and system is None:
            return self.put(asked, writing)
        return self._ask_beside(asked, writing, [read_image(one) for one in images], system)

    def put(self, question: Question, writing: Writing | None = None) -> Answer:
        """Ask one question, as several where it has more labels or regions than the model takes.

        Args:
            question: Its region numbers are positions in `regions`.
            writing: How long the answer may be, and who watches it.

        Raises:
            PromptError: The prompt is too long, or a region in the question that is not shown.
        """
        writing = writing or Writing()
        if question.task in (Task.DETECTION, Task.COUNTING):
            windows, notes = self._all, self._notes_of_all()
        else:
            windows, notes = [self._best], self._notes_of_best()
        groups = [question]
        if question.labels:
            groups = in_groups(question, self.network.processor.vocabulary.max_labels)
        notes += self._notes_of_groups(len(groups), len(question.labels))
        for window in windows:
            self._check_room(window, groups, writing)
        if len(windows) == len(groups) == 1:
            noted = replace(question, notes=(*notes, *question.notes))
            answer = self._sight(windows[0]).ask(noted, writing)
            return self._timed(answer, [answer], windows)
        asked = self._ask_each(windows, groups, writing)
        notes += question.notes
        counting = question.task is Task.COUNTING
        if len(groups) == 1:
            answer = merged(asked[0], notes=notes, counting=counting)
        else:
            parts = [merged(part) if len(part) > 1 else part[0] for part in asked]
            answer = with_all_labels(parts, question, notes=notes)
        return self._timed(answer, [one for part in asked for one in part], windows)

    def _ask_each(
        self, windows: Sequence[Window], groups: Sequence[Question], writing: Writing
    ) -> list[list[Answer]]:
        """For each group of labels the answers of all windows, which are asked one by one."""
        asked: list[list[Answer]] = [[] for _ in groups]
        for window in windows:
            sight = self._sight(window)
            for group, answers in zip(groups, asked, strict=True):
                if asked[0] and writing.on_text is not None:
                    writing.on_text("\n")
                answers.append(sight.ask(replace(group, notes=()), writing))
            if len(windows) > KEPT_PREFIXES:
                sight.forget()
        return asked

    def _ask_beside(
        self,
        question: Question,
        writing: Writing,
        images: Sequence[Image.Image],
        system: str | None,
    ) -> Answer:
        """One question with the best regions, further pictures and another system message."""
        network, noted = self.network, self._notes_of_best()
        tokens = [network.processor.image_processor.tokens_of(image.size) for image in images]
        self._check_room(self._best, [question], writing, more_images=tokens, system=system)
        start = time.perf_counter()
        seen = self._shown(self._best)
        for image in images:
            more = network.encode(image, np.zeros((0, 4), np.float32))
            seen = EncodedImages(
                image_tokens=[*seen.image_tokens, *more.image_tokens],
                region_tokens=[*seen.region_tokens, *more.region_tokens],
                image_grid_thw=torch.cat([seen.image_grid_thw, more.image_grid_thw]),
                deep_tokens=[*seen.deep_tokens, *more.deep_tokens],
            )
        encode_s = time.perf_counter() - start
        sight = Sight(network, seen, self.regions, self._best.indices, system=system)
        answer = sight.ask(replace(question, notes=(*noted, *question.notes)), writing)
        spent = {"propose": self.propose_s, "encode": encode_s, **answer.timing_s}
        return replace(answer, timing_s=spent)

    def _check_room(
        self,
        window: Window,
        questions: Sequence[Question],
        writing: Writing,
        *,
        more_images: Sequence[int] = (),
        system: str | None = None,
    ) -> None:
        """Refuse a prompt that the model's context does not hold, before the towers look.

        Raises:
            PromptError: It is too long.
        """
        left, top, right, bottom = window.area
        network, count = self.network, len(window.indices)
        own = network.processor.image_processor.tokens_of((right - left, bottom - top))
        prefix = network.processor.encode_prefix(count, own, system=system)
        for question in questions:
            asked = network.processor.encode_question(question.text, count, more_images=more_images)
            network.room(len(prefix) + len(asked), writing)

    def _in_words(self, task: Task, text: str, about: Sequence[int]) -> Question:
        return self.network.in_words(task, text, about, len(self.regions))

    def _about_regions(self, task: Task, indices: Sequence[int]) -> Question:
        return self.network.about_regions(task, indices, len(self.regions))

    def put_each(self, task: Task, indices: Sequence[int] | None, writing: Writing) -> Answer:
        """Ask one question about each region; the words become the label of the region.

        Args:
            task: Reading or describing.
            indices: Which regions; None for all.
            writing: How long an answer may be, and who watches it.

        Raises:
            PromptError: A region that is not there or not shown.
        """
        wanted = as_list(self._best.indices if indices is None else indices, "indices")
        questions = [self._about_regions(task, [index]) for index in wanted]
        self._check_room(self._best, questions, writing)
        sight = self._sight(self._best)
        on_text: OnText = writing.on_text or _no_text
        answers: list[Answer] = []
        text = ""
        problems = self._notes_of_best()
        for index, question in zip(wanted, questions, strict=True):
            head = ("\n" if text else "") + f"{self.network.processor.vocabulary.tag(index)}: "
            on_text(head)
            answers.append(sight.ask(question, writing))
            text += head + answers[-1].text
            problems += [f"region {index}: {problem}" for problem in answers[-1].problems]
        words = [answer.plain for answer in answers]
        answer = Answer(
            text=text,
            regions=self.regions,
            mentions=tuple(
                Mention(word, (index,)) for word, index in zip(words, wanted, strict=True)
            ),
            task=str(task),
            plain="\n".join(words),
            problems=tuple(problems),
        )
        return self._timed(answer, answers, [self._best])

    def _notes_of_all(self) -> list[str]:
        """Our notes, and over how many questions the regions are spread."""
        windows = len(self._all)
        if windows == 1:
            return list(self.notes)
        if self.tile is None:
            cause = f"the model has numbers for {self._limit}"
        else:
            cause = f"the picture is seen in tiles of {self.tile} pixels"
        said = (
            f"{len(self.regions)} regions were offered, {cause}: "
            f"{windows} windows were asked and their answers merged"
        )
        return [*self.notes, said]

    def _notes_of_groups(self, groups: int, labels: int) -> list[str]:
        """Over how many questions the labels are spread."""
        if groups == 1:
            return []
        most = self.network.processor.vocabulary.max_labels
        return [
            f"{labels} labels were asked for, one question holds {most}: "
            f"{groups} questions were asked and their answers merged"
        ]

    def _notes_of_best(self) -> list[str]:
        """Our notes, and whether regions were left out of a single question."""
        if len(self.regions) == len(self._best.indices):
            return list(self.notes)
        by = "with the best scores" if self.regions.scores is not None else "that come first"
        said = (
            f"{len(self.regions)} regions were offered, the model has numbers for {self._limit}: "
            f"the {self._limit} {by} were used"
        )
        with self._lock:
            if not self._warned:
                logger.warning(said)
            self._warned = True
        return [*self.notes, said]

    def _sight(self, window: Window) -> Sight:
        """What the model is shown of a window; each part of the picture is encoded once."""
        with self._lock:
            if window not in self._sights:
                shown = self._shown(window)
                self._sights[window] = Sight(self.network, shown, self.regions, window.indices)
            return self._sights[window]

    def _shown(self, window: Window) -> EncodedImages:
        """A part of the picture with the tokens of the window's regions only."""
        with self._lock:
            encoded, rows, _ = self._part(window.area)
        own = [rows[index] for index in window.indices]
        return replace(encoded, region_tokens=[encoded.region_tokens[0][own]])

    def _part(self, area: Area) -> tuple[EncodedImages, dict[int, int], float]:
        """A part of the picture with all regions ever asked about in it."""
        if area not in self._encoded:
            start = time.perf_counter()
            asked = {self._best, *self._all}
            members = {i for window in asked if window.area == area for i in window.indices}
            indices = tuple(sorted(members))
            whole = area == (0, 0, *self.image.size)
            image = self.image if whole else self.image.crop(area)
            encoded = self.network.encode(image, cut_regions(self.regions, Window(area, indices)))
            rows = {index: row for row, index in enumerate(indices)}
            self._encoded[area] = (encoded, rows, time.perf_counter() - start)
        return self._encoded[area]

    def _timed(self, answer: Answer, asked: Sequence[Answer], windows: Sequence[Window]) -> Answer:
        """The answer with seconds: of the proposals, of the towers, of the language model."""
        areas = {window.area for window in windows}
        spent = {
            "propose": self.propose_s,
            "encode": sum(self._encoded[area][2] for area in sorted(areas)),
            "answer": sum(one.timing_s["answer"] for one in asked),
        }
        return replace(answer, timing_s=spent)


def _no_text(text: str) -> None:
    """Where the text goes when nobody watches it being written."""
