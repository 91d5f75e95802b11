"""An opened image with its regions: each question on it pays for its own text only."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature

from vlm_fo1.answer import Answer
from vlm_fo1.engine import Generation, LocalEngine, Prefix, Prompt
from vlm_fo1.errors import PromptError
from vlm_fo1.images import read_image
from vlm_fo1.model.modeling import EncodedImages
from vlm_fo1.plan import OnText, Plan, PlanWriter, Scoring, check_writing, make_plan
from vlm_fo1.processing import FO1Processor
from vlm_fo1.regions import Offer
from vlm_fo1.scores import Calibration
from vlm_fo1.tasks import MAX_NEW_TOKENS, Request, Task, as_list, task_of
from vlm_fo1.tiling import Area, Window, best_first, best_of, cut_regions, in_tiles

logger = logging.getLogger(__name__)

ENCODED_AT_ONCE = 16
"""Images or tiles that the towers look at in one pass."""


class Scene:
    """An image with its regions, opened for many questions: `FO1.open` makes it.

    The towers look at the image once, with the first question that can be asked; what the language
    model makes of it is kept as well, so that a question pays for its own text only. Threads may
    share a scene.

    Tasks that are asked tile by tile look at every region: where there are more than one question
    holds, several are asked and the answers merged (see `vlm_fo1.tiling`). The other tasks use the
    best by score, or the first, which the answer's ``problems`` say. Region numbers are the same in
    all questions and answers: positions in `regions`.

    Args:
        engine: Runs prompts.
        processor: Writes and reads them.
        image: RGB, upright.
        offer: What the model may point at, in image pixels, and how it is looked at.
        calibration: What makes its scores probabilities.
    """

    def __init__(
        self,
        engine: LocalEngine,
        processor: FO1Processor,
        image: Image.Image,
        offer: Offer,
        calibration: Calibration | None = None,
    ) -> None:
        self.engine = engine
        self.processor = processor
        self.image = image
        self.calibration = Calibration() if calibration is None else calibration
        self.regions = offer.regions
        self.tile = offer.tile
        self.notes = list(offer.notes)
        self.propose_s = offer.seconds
        if not len(offer) and not self.notes:
            self.notes.append("no regions were offered: the answer can point at nothing")
        self._limit = processor.vocabulary.max_regions
        self._lock = threading.RLock()
        self._warned = False
        self._encoded: dict[Area, tuple[EncodedImages, dict[int, int], float]] = {}
        self._prefixes: dict[Window, Prefix] = {}
        self._best = best_of(self.regions, self._limit)
        if self.tile is None:
            self._all = best_first(self.regions, np.arange(len(self.regions)), self._limit)
        else:
            self._all = in_tiles(self.regions, self.tile, self._limit)

    def answer(
        self,
        request: Request,
        *,
        images: Sequence[Any] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        scores: Scoring = "joint",
        on_text: OnText | None = None,
    ) -> Answer:
        """Ask; greedy, so the same request gets the same answer.

        Args:
            request: Its region numbers are positions in `regions`.
            images: Further images to compare with, anything `read_image` takes but a URL; for tasks
                that take a text. They have no regions: what the answer points at is in the image of
                the scene. The first of them goes where ``<image_1>`` stands in the question, and so
                on; those that the question does not place stand before it. ``<image_0>`` is the
                image of the scene.
            max_new_tokens: Length limit of the answer, and of each answer where several are asked.
            constrain: See `vlm_fo1.fo1.FO1`.
            scores: See `vlm_fo1.fo1.FO1`.
            on_text: Gets the text as it is written.

        Raises:
            PromptError: The request cannot be asked: it is too long, names a region that is not
                there, or the host takes no system message.
            ImageError: A further image cannot be read.
        """
        check_writing(max_new_tokens, on_text, scores)
        more = [read_image(image) for image in as_list(images, "images")]
        plan = self.plan(
            request, images=more, max_new_tokens=max_new_tokens, constrain=constrain, scores=scores
        )
        prompts = self.prompts(plan, more)
        on_id = None if on_text is None else PlanWriter(plan, on_text).put
        start = time.perf_counter()
        done = self.engine.generate(prompts, on_id=on_id)
        plan, branches = self.branches(plan, done, more)
        if branches:
            done += self.engine.generate(branches)
        return self.read(plan, done, time.perf_counter() - start)

    def detect(
        self,
        labels: str | Sequence[str],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        scores: Scoring = "joint",
        on_text: OnText | None = None,
    ) -> Answer:
        """Find everything that one of the labels names."""
        request = Request(task=Task.DETECTION, labels=labels_of(labels))
        return self.answer(
            request,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            scores=scores,
            on_text=on_text,
        )

    def count(
        self,
        label: str,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        scores: Scoring = "joint",
        on_text: OnText | None = None,
    ) -> Answer:
        """Count one kind of thing; the number is ``answer.count``."""
        request = Request(task=Task.COUNTING, labels=labels_of(label))
        return self.answer(
            request,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            scores=scores,
            on_text=on_text,
        )

    def refer(
        self,
        phrase: str,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        scores: Scoring = "joint",
        on_text: OnText | None = None,
    ) -> Answer:
        """Find what a phrase describes."""
        request = Request(task=Task.REFERRING, labels=labels_of(phrase))
        return self.answer(
            request,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            scores=scores,
            on_text=on_text,
        )

    def describe(
        self,
        indices: Sequence[int] | None = None,
        *,
        detail: Literal["brief", "detailed"] = "brief",
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Say what stands in each region (all by default), one question each."""
        request = _about_each(task_of("describe", detail), indices)
        return self.answer(
            request, max_new_tokens=max_new_tokens, constrain=constrain, on_text=on_text
        )

    def read_text(
        self,
        indices: Sequence[int] | None = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Read the writing in each region (all by default), one question each."""
        request = _about_each(Task.REGION_OCR, indices)
        return self.answer(
            request, max_new_tokens=max_new_tokens, constrain=constrain, on_text=on_text
        )

    def match(
        self,
        index: int,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Find more of what stands in region ``index``."""
        request = Request(task=Task.VISUAL_PROMPT, regions=(index,))
        return self.answer(
            request, max_new_tokens=max_new_tokens, constrain=constrain, on_text=on_text
        )

    def ground(
        self,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Describe the image and point at everything mentioned."""
        request = Request(task=Task.GROUNDED_CAPTION)
        return self.answer(
            request, max_new_tokens=max_new_tokens, constrain=constrain, on_text=on_text
        )

    def identify(
        self,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Name every object, with its regions."""
        request = Request(task=Task.IDENTIFY)
        return self.answer(
            request, max_new_tokens=max_new_tokens, constrain=constrain, on_text=on_text
        )

    def reason(
        self,
        question: str,
        *,
        about: Sequence[int] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Think aloud, then answer, with regions as evidence; ``about`` as in `ask`."""
        request = Request(task=Task.REASONING, text=question, regions=tuple(about))
        return self.answer(
            request, max_new_tokens=max_new_tokens, constrain=constrain, on_text=on_text
        )

    def ask(
        self,
        question: str,
        *,
        about: Sequence[int] = (),
        images: Sequence[Any] = (),
        system: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        on_text: OnText | None = None,
    ) -> Answer:
        """Ask anything.

        Args:
            question: In your own words.
            about: Regions that the question names: ``about=[3]`` puts region 3 where ``{}`` stands.
            images: See `answer`.
            system: A system message in place of the usual one.
            max_new_tokens: Length limit of the answer.
            constrain: See `vlm_fo1.fo1.FO1`.
            on_text: Gets the text as it is written.

        Raises:
            PromptError: The question cannot be asked, or the host takes no system message.
            ImageError: A further image cannot be read.
        """
        request = Request(task=Task.FREE, text=question, regions=tuple(about), system=system)
        return self.answer(
            request,
            images=images,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            on_text=on_text,
        )

    def close(self) -> None:
        """Give back the memory of what was encoded; the next question encodes it anew."""
        with self._lock:
            for prefix in self._prefixes.values():
                prefix.close()
            self._prefixes.clear()
            self._encoded.clear()

    def plan(
        self,
        request: Request,
        *,
        images: Sequence[Image.Image] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrain: bool = True,
        scores: Scoring = "joint",
    ) -> Plan:
        """The prompts of a request; what cannot be asked is refused before the towers look.

        Args:
            request: Its region numbers are positions in `regions`.
            images: Further images of the prompt.
            max_new_tokens: Length limit of each answer.
            constrain: See `vlm_fo1.fo1.FO1`.
            scores: See `vlm_fo1.fo1.FO1`.

        Raises:
            PromptError: The request cannot be asked.
        """
        windows, notes = [self._best], self._notes_of_best()
        if request.spec.tiled:
            windows, notes = self._all, self._notes_of_all()
        if request.spec.per_region and not request.regions:
            request = replace(request, regions=self._best.indices)
        return make_plan(
            request,
            self.processor,
            self.regions,
            windows,
            notes=notes,
            more_images=images,
            max_new_tokens=max_new_tokens,
            constrain=constrain,
            scores=scores,
            context=self.engine.context,
        )

    def branches(
        self, plan: Plan, done: Sequence[Generation], images: Sequence[Image.Image] = ()
    ) -> tuple[Plan, list[Prompt]]:
        """What is left to be asked so that every label has its scores.

        Args:
            plan: What was asked.
            done: What the model wrote, a generation a prompt.
            images: The further images that it was made with.

        Returns:
            The plan to `read` by, and its prompts after those that are done.
        """
        whole = plan.with_branches(done)
        return whole, self.prompts(whole, images, first=len(done))

    def prompts(
        self, plan: Plan, images: Sequence[Image.Image] = (), *, first: int = 0
    ) -> list[Prompt]:
        """The prompts of a plan of this scene with what the towers see, for the engine.

        Args:
            plan: What is asked.
            images: The further images that it was made with.
            first: The drafts before this one are left out.
        """
        drafts = plan.drafts[first:]
        if not drafts:
            return []
        beside = [self.engine.encode(image, np.zeros((0, 4), np.float32)) for image in images]
        system = plan.request.system
        with self._lock:
            encode_parts(self.preprocess(plan))
        windows = dict.fromkeys(draft.window for draft in drafts)
        if beside or system is not None:
            prefixes = {
                window: self._new_prefix(window, _together(self._shown(window), beside), system)
                for window in windows
            }
        else:
            prefixes = {window: self._prefix(window) for window in windows}
        return [
            Prompt(
                prefixes[draft.window],
                draft.ids,
                draft.limit,
                regions=len(draft.window.indices),
                start=draft.start,
                grammar=draft.grammar,
            )
            for draft in drafts
        ]

    def preprocess(self, plan: Plan) -> "Iterator[Part]":
        """What the towers have still to look at for a plan of this scene, made as it is taken."""
        for area in dict.fromkeys(draft.window.area for draft in plan.drafts):
            if not self.has_encoded(area):
                yield self._preprocessed(area)

    def has_encoded(self, area: Area) -> bool:
        """Whether the towers have looked at a part of the image."""
        return area in self._encoded

    def keep(self, part: "Part", encoded: EncodedImages, seconds: float) -> None:
        """Take what the towers made of a part, and how long they looked."""
        rows = {index: row for row, index in enumerate(part.indices)}
        with self._lock:
            self._encoded.setdefault(part.area, (encoded, rows, seconds))

    def read(self, plan: Plan, done: Sequence[Generation], seconds: float) -> Answer:
        """The answer to a plan of this scene.

        Args:
            plan: What was asked.
            done: What the model wrote, a generation a prompt.
            seconds: What that took.
        """
        areas = {draft.window.area for draft in plan.drafts}
        with self._lock:
            encode_s = sum(self._encoded[area][2] for area in sorted(areas & {*self._encoded}))
        spent = {"propose": self.propose_s, "encode": encode_s, "answer": seconds}
        return replace(plan.read(done).calibrated(self.calibration), timing_s=spent)

    def _notes_of_all(self) -> list[str]:
        """Our notes, and over how many questions the regions are spread."""
        windows = len(self._all)
        if windows == 1:
            return list(self.notes)
        if self.tile is None:
            cause = f"the model has numbers for {self._limit}"
        else:
            cause = f"the image is seen in tiles of {self.tile} pixels"
        said = (
            f"{len(self.regions)} regions were offered, {cause}: "
            f"{windows} windows were asked and their answers merged"
        )
        return [*self.notes, said]

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

    def _prefix(self, window: Window) -> Prefix:
        """What the model is shown of a window."""
        with self._lock:
            if window not in self._prefixes:
                shown = self._shown(window)
                self._prefixes[window] = self._new_prefix(window, shown, None, keep=True)
            return self._prefixes[window]

    def _new_prefix(
        self, window: Window, shown: EncodedImages, system: str | None, *, keep: bool = False
    ) -> Prefix:
        tokens = len(shown.image_tokens[0])
        ids = self.processor.encode_prefix(len(window.indices), tokens, system=system)
        return self.engine.prefix(shown, ids, keep=keep)

    def _shown(self, window: Window) -> EncodedImages:
        """A part of the image with the tokens of the window's regions only."""
        with self._lock:
            encoded, rows, _ = self._part(window.area)
        own = [rows[index] for index in window.indices]
        return replace(encoded, region_tokens=[encoded.region_tokens[0][own]])

    def _part(self, area: Area) -> tuple[EncodedImages, dict[int, int], float]:
        """A part of the image with all regions ever asked about in it, and seconds."""
        if area not in self._encoded:
            encode_parts([self._preprocessed(area)])
        return self._encoded[area]

    def _preprocessed(self, area: Area) -> "Part":
        asked = {self._best, *self._all}
        members = {i for window in asked if window.area == area for i in window.indices}
        indices = tuple(sorted(members))
        whole = area == (0, 0, *self.image.size)
        image = self.image if whole else self.image.crop(area)
        boxes = cut_regions(self.regions, Window(area, indices))
        return Part(self, area, indices, self.engine.preprocess(image, boxes))


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the image of a scene, ready for the towers."""

    scene: Scene
    area: Area
    indices: tuple[int, ...]
    """The regions that are encoded with it."""
    inputs: BatchFeature

    @property
    def bytes(self) -> int:
        """Memory of the inputs."""
        tensors = [self.inputs["pixel_values"], *self.inputs["aux_pixel_values"]]
        return sum(tensor.nbytes for tensor in tensors)


def encode_parts(parts: Iterable[Part]) -> None:
    """Let the towers look at parts of one engine's scenes, `ENCODED_AT_ONCE` in a pass.

    Args:
        parts: Of any scenes; those of one size next to each other are the fastest.
    """
    left = (part for part in parts if not part.scene.has_encoded(part.area))
    while some := list(islice(left, ENCODED_AT_ONCE)):
        start = time.perf_counter()
        encoded = some[0].scene.engine.encode_inputs([part.inputs for part in some])
        share_s = (time.perf_counter() - start) / len(some)
        for part, one in zip(some, encoded, strict=True):
            part.scene.keep(part, one, share_s)


def labels_of(labels: Any) -> tuple[Any, ...]:
    """One label or several as a tuple; `Request` checks what they are."""
    return tuple(as_list(labels, "labels"))


def _about_each(task: str, indices: Sequence[int] | None) -> Request:
    """A question about each of some regions, or of all.

    Raises:
        PromptError: There are indices, and none of them names a region.
    """
    wanted = () if indices is None else tuple(as_list(indices, "indices"))
    if not wanted and indices is not None:
        raise PromptError("indices names no region: leave it out to ask about every one")
    return Request(task=task, regions=wanted)


def _together(shown: EncodedImages, more: Sequence[EncodedImages]) -> EncodedImages:
    """An image with its regions, and further ones behind it."""
    if not more:
        return shown
    every = [shown, *more]
    return EncodedImages(
        image_tokens=[tokens for one in every for tokens in one.image_tokens],
        region_tokens=[tokens for one in every for tokens in one.region_tokens],
        image_grid_thw=torch.cat([one.image_grid_thw for one in every]),
        deep_tokens=[tokens for one in every for tokens in one.deep_tokens],
    )
