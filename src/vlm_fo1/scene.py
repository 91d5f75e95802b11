"""One encoded picture with its regions: each question on it pays for its own text only."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from vlm_fo1.model.modeling import EncodedImages
from vlm_fo1.prompts import (
    Question,
    Task,
    ask_grounded_caption,
    ask_labels,
    ask_regions,
    ask_text,
)
from vlm_fo1.sight import Network, OnText, Sight
from vlm_fo1.structures import Answer, Mention, Regions
from vlm_fo1.windows import Area, Window, best_first, best_of, cut_regions, in_tiles, merged

logger = logging.getLogger(__name__)

KEPT_PREFIXES = 4
"""With more windows than this, what the language model made of each is not kept in memory."""


class Scene:
    """One encoded picture with its regions; make it with `FO1.open`. Threads may share it.

    Detection and counting look at every region: where there are more than one question holds, they
    ask several and merge the answers (see `vlm_fo1.windows`). The other tasks use the best by
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
            self._sight(self._best)
        else:
            self._all = in_tiles(regions, tile, self._limit)

    def detect(self, labels: str | Sequence[str], **options: Any) -> Answer:
        """Find everything that one of the labels names."""
        return self._ask_all(self._label_question(Task.DETECTION, labels), options)

    def count(self, label: str, **options: Any) -> Answer:
        """Count one kind of thing; the number is ``answer.count``."""
        return self._ask_all(self._label_question(Task.COUNTING, label), options)

    def refer(self, phrase: str, **options: Any) -> Answer:
        """Find what a phrase describes."""
        return self._ask_best(self._label_question(Task.REFERRING, phrase), options)

    def describe(
        self,
        indices: Sequence[int] | None = None,
        *,
        detail: Literal["brief", "detailed"] = "brief",
        **options: Any,
    ) -> Answer:
        """Say what stands in each region (all by default), one question each."""
        task = Task.BRIEF_CAPTION if detail == "brief" else Task.DETAILED_CAPTION
        return self._each_region(task, indices, options)

    def read_text(self, indices: Sequence[int] | None = None, **options: Any) -> Answer:
        """Read the writing in each region (all by default), one question each."""
        return self._each_region(Task.REGION_OCR, indices, options)

    def match(self, index: int, **options: Any) -> Answer:
        """Find more of what stands in region ``index``."""
        return self._ask_best(self._region_question(Task.VISUAL_PROMPT, [index]), options)

    def ground(self, **options: Any) -> Answer:
        """Describe the image and point at everything mentioned."""
        return self._ask_best(ask_grounded_caption(), options)

    def reason(self, question: str, **options: Any) -> Answer:
        """Think aloud, then answer, with regions as evidence."""
        return self._ask_best(self._text_question(Task.REASONING, question, options), options)

    def ask(self, question: str, **options: Any) -> Answer:
        """Ask anything; ``about=[3]`` puts region 3 where ``{}`` stands in the question."""
        return self._ask_best(self._text_question(Task.FREE, question, options), options)

    def _label_question(self, task: Task, labels: str | Sequence[str]) -> Question:
        processor = self.network.processor
        return ask_labels(task, labels, processor.vocabulary, reserved=processor.reserved_tokens())

    def _text_question(self, task: Task, text: str, options: dict[str, Any]) -> Question:
        return ask_text(
            task,
            text,
            about=options.pop("about", ()),
            count=len(self.regions),
            vocabulary=self.network.processor.vocabulary,
            reserved=self.network.processor.reserved_tokens(),
        )

    def _region_question(self, task: Task, indices: Sequence[int]) -> Question:
        vocabulary = self.network.processor.vocabulary
        return ask_regions(task, indices, len(self.regions), vocabulary)

    def _each_region(
        self, task: Task, indices: Sequence[int] | None, options: dict[str, Any]
    ) -> Answer:
        """One question a region; the words become the label of the region."""
        wanted = list(self._best.indices if indices is None else indices)
        questions = [self._region_question(task, [index]) for index in wanted]
        sight = self._sight(self._best)
        on_text: OnText = options.get("on_text") or _no_text
        answers: list[Answer] = []
        text = ""
        problems = self._notes_of_best()
        for index, question in zip(wanted, questions, strict=True):
            head = ("\n" if text else "") + f"{self.network.processor.vocabulary.tag(index)}: "
            on_text(head)
            answers.append(sight.ask(question, **options))
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

    def _ask_best(self, question: Question, options: dict[str, Any]) -> Answer:
        """One question, with the best regions."""
        noted = replace(question, notes=(*self._notes_of_best(), *question.notes))
        answer = self._sight(self._best).ask(noted, **options)
        return self._timed(answer, [answer], [self._best])

    def _ask_all(self, question: Question, options: dict[str, Any]) -> Answer:
        """One question a window; several answers are merged."""
        windows = self._all
        if len(windows) == 1:
            noted = replace(question, notes=(*self.notes, *question.notes))
            answer = self._sight(windows[0]).ask(noted, **options)
            return self._timed(answer, [answer], windows)
        on_text: OnText = options.get("on_text") or _no_text
        plain = replace(question, notes=())
        answers: list[Answer] = []
        for window in windows:
            if answers:
                on_text("\n")
            answers.append(self._sight(window).ask(plain, **options))
        if self.tile is None:
            cause = f"the model has numbers for {self._limit}"
        else:
            cause = f"the picture is seen in tiles of {self.tile} pixels"
        said = (
            f"{len(self.regions)} regions were offered, {cause}: "
            f"{len(windows)} windows were asked and their answers merged"
        )
        answer = merged(
            answers,
            notes=(*self.notes, said, *question.notes),
            counting=question.task is Task.COUNTING,
        )
        return self._timed(answer, answers, windows)

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
                encoded, rows, _ = self._part(window.area)
                own = [rows[index] for index in window.indices]
                shown = replace(encoded, region_tokens=[encoded.region_tokens[0][own]])
                self._sights[window] = Sight(
                    self.network,
                    shown,
                    self.regions,
                    window.indices,
                    keep_prefix=len(self._all) <= KEPT_PREFIXES,
                )
            return self._sights[window]

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
