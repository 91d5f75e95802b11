"""From a picture and a question to an answer: `FO1` and `Scene`.

`FO1` is a model with its processor; it holds no state between calls, so threads may share one.
`Scene` is one encoded image with its regions: each question on it pays for its own text only.
"""

import copy
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import TextStreamer

from vlm_fo1.boxes import iou
from vlm_fo1.errors import BoxError, ConfigError, PromptError
from vlm_fo1.images import read_image
from vlm_fo1.model.generation import RegionTokenProbabilities
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.splice import EmbeddedPrompt, prompt_start
from vlm_fo1.model.weights import resolve_folder
from vlm_fo1.parser import parse
from vlm_fo1.processing import FO1Processor
from vlm_fo1.prompts import (
    Question,
    Task,
    ask_grounded_caption,
    ask_labels,
    ask_regions,
    ask_text,
)
from vlm_fo1.proposers.given import given_regions
from vlm_fo1.structures import Answer, Mention, Regions

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 512
"""Default length limit of an answer, in tokens."""

OnText = Callable[[str], None]


class FO1:
    """VLM-FO1 for people: pictures and boxes in, answers that point at boxes out.

    Every asking method takes ``boxes``: an array of (x1, y1, x2, y2) in pixels of the image as
    displayed, `Regions`, or a JSON or COCO file (see `proposers.given`), and these options:
    ``max_new_tokens`` (512), ``on_text`` (called with the text as it is written), ``allow_url``.

    Args:
        model: The network, in evaluation mode.
        processor: Its processor.
    """

    def __init__(self, model: FO1ForConditionalGeneration, processor: FO1Processor) -> None:
        self.model = model
        self.processor = processor
        self.tag_ids = processor.region_tag_ids()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "tiny",
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **options: Any,
    ) -> "FO1":
        """Load a model and its processor.

        Args:
            name: ``"tiny"`` for the bundled model, a folder, or a Hub id.
            device: ``"cuda"``, ``"cpu"``, ...; ``"auto"`` spreads over all devices. By default CUDA
                where there is one.
            dtype: Of the weights; by default float32 on the CPU, else as saved.
            revision: Branch, tag or commit of a Hub id.
            cache_dir: Where downloads are kept.
            local_files_only: Never ask the Hub.
            token: For gated repositories.
            **options: For the model: ``attn_implementation``, ``quantization_config``, ...

        Raises:
            CheckpointError: There is no such checkpoint, or its weights do not fit.
            ConfigError: No such device or dtype here.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype is None:
            dtype = torch.float32 if str(device) == "cpu" else "auto"
        _check_device(device)
        _check_dtype(dtype)
        folder = resolve_folder(
            name,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        model = FO1ForConditionalGeneration.from_pretrained(
            folder, device_map=device, dtype=dtype, **options
        )
        return cls(model, FO1Processor.from_pretrained(folder))

    def open(self, image: Any, boxes: Any = None, *, allow_url: bool = False) -> "Scene":
        """Encode an image and its regions once, for many questions.

        Args:
            image: A path, bytes, a PIL image, an array, a data URL, or with ``allow_url`` a URL.
            boxes: See the class; None for an image without regions.
            allow_url: Whether http(s) URLs are fetched.

        Returns:
            The scene. With more regions than the model has numbers for, the best by score (or the
            first) are kept, which every answer's ``problems`` says.

        Raises:
            ImageError: The image cannot be read.
            BoxError: A box cannot be used.
        """
        picture = read_image(image, allow_url=allow_url)
        if boxes is None:
            return Scene(self, picture, Regions.empty(picture.size))
        return Scene(self, picture, given_regions(boxes, picture.size, image=_name(image)))

    def detect(
        self, image: Any, labels: str | Sequence[str], boxes: Any = None, **options: Any
    ) -> Answer:
        """Find everything that one of the labels names."""
        return self._scene(image, boxes, options, needs="detect").detect(labels, **options)

    def count(self, image: Any, label: str, boxes: Any = None, **options: Any) -> Answer:
        """Count one kind of thing; the number is ``answer.count``."""
        return self._scene(image, boxes, options, needs="count").count(label, **options)

    def refer(self, image: Any, phrase: str, boxes: Any = None, **options: Any) -> Answer:
        """Find what a phrase describes, e.g. "the orange nearest the apple"."""
        return self._scene(image, boxes, options, needs="refer").refer(phrase, **options)

    def describe(
        self,
        image: Any,
        boxes: Any,
        *,
        detail: Literal["brief", "detailed"] = "brief",
        **options: Any,
    ) -> Answer:
        """Say what stands in each box; one mention a box, the words as its label."""
        scene = self._scene(image, boxes, options, needs="describe")
        return scene.describe(detail=detail, **options)

    def read_text(self, image: Any, boxes: Any, **options: Any) -> Answer:
        """Read the writing in each box; one mention a box, the writing as its label."""
        return self._scene(image, boxes, options, needs="read_text").read_text(**options)

    def match(self, image: Any, box: Any, boxes: Any = None, **options: Any) -> Answer:
        """Find more of what stands in ``box`` among ``boxes``.

        The reference box is region 0 of the answer; a candidate that is all but the same box is
        left out, the others follow in their order.

        Raises:
            BoxError: ``box`` is not one usable box.
        """
        _check_given(boxes, "match")
        picture = read_image(image, allow_url=options.pop("allow_url", False))
        try:
            reference = given_regions(box, picture.size, image=_name(image))
        except BoxError as error:
            raise BoxError(f"the reference box of match: {error}") from error
        if len(reference) != 1:
            raise BoxError(f"match takes one reference box, got {len(reference)}")
        offered = given_regions(boxes, picture.size, image=_name(image))
        return Scene(self, picture, _first(reference, offered)).match(0, **options)

    def ground(self, image: Any, boxes: Any = None, **options: Any) -> Answer:
        """Describe the image and point at everything mentioned."""
        return self._scene(image, boxes, options, needs="ground").ground(**options)

    def reason(self, image: Any, question: str, boxes: Any = None, **options: Any) -> Answer:
        """Think aloud, then answer, with regions as evidence."""
        return self._scene(image, boxes, options).reason(question, **options)

    def ask(self, image: Any, question: str, boxes: Any = None, **options: Any) -> Answer:
        """Ask anything; ``about=[3]`` puts region 3 where ``{}`` stands in the question."""
        return self._scene(image, boxes, options).ask(question, **options)

    def _scene(
        self, image: Any, boxes: Any, options: dict[str, Any], *, needs: str | None = None
    ) -> "Scene":
        if needs is not None:
            _check_given(boxes, needs)
        return self.open(image, boxes, allow_url=options.pop("allow_url", False))


class Scene:
    """One encoded image with its regions; make it with `FO1.open`.

    Args:
        fo1: The model and its processor.
        image: RGB, upright.
        regions: What the model may point at, in image pixels.
    """

    def __init__(self, fo1: FO1, image: Image.Image, regions: Regions) -> None:
        limit = fo1.processor.vocabulary.max_regions
        self.notes: list[str] = []
        if len(regions) > limit:
            by = "with the best scores" if regions.scores is not None else "that come first"
            self.notes.append(
                f"{len(regions)} regions were offered, the model has numbers for {limit}: "
                f"the {limit} {by} were used"
            )
            logger.warning(self.notes[-1])
            regions = regions.best(limit)
        elif not len(regions):
            self.notes.append("no regions were offered: the answer can point at nothing")
        self.fo1 = fo1
        self.image = image
        self.regions = regions
        self._lock = threading.Lock()
        self._prefix_cache: Any = None
        start = time.perf_counter()
        inputs = fo1.processor.image_processor(image, np.array(regions.xyxy))
        device = fo1.model.device
        with torch.inference_mode():
            self._encoded = fo1.model.encode_images(
                inputs["pixel_values"].to(device),
                inputs["image_grid_thw"].to(device),
                [pixels.to(device) for pixels in inputs["aux_pixel_values"]],
                [boxes.to(device) for boxes in inputs["region_boxes"]],
            )
        tokens = len(self._encoded.image_tokens[0])
        self._prefix_ids = fo1.processor.encode_prefix(len(regions), tokens)
        self.encode_s = time.perf_counter() - start

    def detect(self, labels: str | Sequence[str], **options: Any) -> Answer:
        """Find everything that one of the labels names."""
        return self._label_task(Task.DETECTION, labels, options)

    def count(self, label: str, **options: Any) -> Answer:
        """Count one kind of thing; the number is ``answer.count``."""
        return self._label_task(Task.COUNTING, label, options)

    def refer(self, phrase: str, **options: Any) -> Answer:
        """Find what a phrase describes."""
        return self._label_task(Task.REFERRING, phrase, options)

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
        question = self._region_question(Task.VISUAL_PROMPT, [index])
        return self._answer(question, **options)

    def ground(self, **options: Any) -> Answer:
        """Describe the image and point at everything mentioned."""
        return self._answer(ask_grounded_caption(), **options)

    def reason(self, question: str, **options: Any) -> Answer:
        """Think aloud, then answer, with regions as evidence."""
        return self._text_task(Task.REASONING, question, options)

    def ask(self, question: str, **options: Any) -> Answer:
        """Ask anything; ``about=[3]`` puts region 3 where ``{}`` stands in the question."""
        return self._text_task(Task.FREE, question, options)

    def _label_task(
        self, task: Task, labels: str | Sequence[str], options: dict[str, Any]
    ) -> Answer:
        processor = self.fo1.processor
        question = ask_labels(
            task, labels, processor.vocabulary, reserved=processor.reserved_tokens()
        )
        return self._answer(question, **options)

    def _text_task(self, task: Task, text: str, options: dict[str, Any]) -> Answer:
        question = ask_text(
            task,
            text,
            about=options.pop("about", ()),
            count=len(self.regions),
            vocabulary=self.fo1.processor.vocabulary,
            reserved=self.fo1.processor.reserved_tokens(),
        )
        return self._answer(question, **options)

    def _region_question(self, task: Task, indices: Sequence[int]) -> Question:
        vocabulary = self.fo1.processor.vocabulary
        return ask_regions(task, indices, len(self.regions), vocabulary)

    def _each_region(
        self, task: Task, indices: Sequence[int] | None, options: dict[str, Any]
    ) -> Answer:
        """One question a region; the words become the label of the region."""
        wanted = list(range(len(self.regions)) if indices is None else indices)
        questions = [self._region_question(task, [index]) for index in wanted]
        on_text: OnText = options.get("on_text") or _no_text
        answers: list[Answer] = []
        text = ""
        problems = list(self.notes)
        for index, question in zip(wanted, questions, strict=True):
            head = ("\n" if text else "") + f"{self.fo1.processor.vocabulary.tag(index)}: "
            on_text(head)
            answers.append(self._answer(question, **options))
            text += head + answers[-1].text
            own = [problem for problem in answers[-1].problems if problem not in self.notes]
            problems += [f"region {index}: {problem}" for problem in own]
        words = [answer.plain for answer in answers]
        spent = sum(answer.timing_s["answer"] for answer in answers)
        return Answer(
            text=text,
            regions=self.regions,
            mentions=tuple(
                Mention(word, (index,)) for word, index in zip(words, wanted, strict=True)
            ),
            task=str(task),
            plain="\n".join(words),
            problems=tuple(problems),
            timing_s={"encode": self.encode_s, "answer": spent},
        )

    def _answer(
        self,
        question: Question,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
    ) -> Answer:
        """Put one question to the model; greedy, so the same question gets the same answer.

        Raises:
            PromptError: No room for an answer.
        """
        if max_new_tokens < 1:
            raise PromptError(f"max_new_tokens is {max_new_tokens}, at least 1 is needed")
        start = time.perf_counter()
        processor = self.fo1.processor
        question_ids = processor.encode_question(question.text, len(self.regions))
        new_ids, confidence = self._generate(question_ids, max_new_tokens, on_text)
        noted = replace(question, notes=(*self.notes, *question.notes))
        answer = parse(
            processor.decode(new_ids),
            self.regions,
            noted,
            vocabulary=processor.vocabulary,
            tag_confidence=confidence,
            finished=processor.stop_token_id in new_ids.tolist(),
        )
        spent = time.perf_counter() - start
        return replace(answer, timing_s={"encode": self.encode_s, "answer": spent})

    @torch.inference_mode()
    def _generate(
        self, question_ids: list[int], max_new_tokens: int, on_text: OnText | None
    ) -> tuple[torch.Tensor, list[float]]:
        """New token ids and the probability of each region tag among them."""
        model, processor = self.fo1.model, self.fo1.processor
        ids = torch.tensor([self._prefix_ids + question_ids], device=model.device)
        mask = torch.ones_like(ids)
        prompt = model.embed_prompt(ids, mask, self._encoded)
        seen = RegionTokenProbabilities(self.fo1.tag_ids)
        sequences = model.generate(
            ids,
            mask,
            **prompt,
            past_key_values=self._cache_of_prefix(prompt),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=processor.stop_token_id,
            pad_token_id=processor.stop_token_id,
            logits_processor=[seen],
            streamer=None if on_text is None else _Streamer(processor, on_text),
        )
        new_ids = sequences[0, ids.shape[1] :].cpu()
        return new_ids, seen.of_tokens(new_ids, 0)

    def _cache_of_prefix(self, prompt: EmbeddedPrompt) -> Any:
        """Keys and values of everything before the question: computed once, copied each time."""
        with self._lock:
            if self._prefix_cache is None:
                self._prefix_cache = self.fo1.model(
                    **prompt_start(prompt, len(self._prefix_ids)), use_cache=True, logits_to_keep=1
                ).past_key_values
        return copy.deepcopy(self._prefix_cache)


class _Streamer(TextStreamer):
    """Hands the text on as it is written, the stop token left out."""

    def __init__(self, processor: FO1Processor, on_text: OnText) -> None:
        super().__init__(
            processor.tokenizer,
            skip_prompt=True,
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        self.on_text = on_text
        self.stop = processor.chat.stop_token

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by the parent with each finished piece."""
        del stream_end
        if piece := text.replace(self.stop, ""):
            self.on_text(piece)


def _no_text(text: str) -> None:
    """Where the text goes when nobody watches it being written."""


def _check_given(boxes: Any, needs: str) -> None:
    if boxes is None:
        raise PromptError(
            f"{needs} points at regions, and none were given: pass boxes=..., "
            "one (x1, y1, x2, y2) per candidate"
        )


def _check_device(device: str | torch.device) -> None:
    if str(device) in _SPREAD:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such name, or a torch built without it
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {str(device)!r} cannot be used here ({reason}): "
            "leave it out, or run `fo1 doctor` to see what there is"
        ) from error


def _check_dtype(dtype: str | torch.dtype) -> None:
    known = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if dtype != "auto" and not (isinstance(known, torch.dtype) and known.is_floating_point):
        raise ConfigError(
            f"dtype {str(dtype)!r} is none that weights can have: "
            "float32, bfloat16, float16 or auto is needed"
        )


_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""Devices that are none, but ways to use all of them."""


def _name(image: Any) -> str | Path | None:
    """The file name by which a boxes file may know the image."""
    if isinstance(image, Path):
        return image
    return image if isinstance(image, str) and not image.startswith("data:") else None


SAME_BOX_IOU = 0.9
"""A candidate that overlaps the reference box more than this is the reference itself."""


def _first(reference: Regions, offered: Regions) -> Regions:
    """The reference in front of what is offered, outranking every score; its double gives way."""
    offered = offered[iou(reference.xyxy, offered.xyxy)[0] <= SAME_BOX_IOU]
    scores = None
    if offered.scores is not None:
        best = np.fmax.reduce(offered.scores, initial=1.0)  # fmax: an unknown score is NaN
        scores = np.concatenate([np.array([best], np.float32), offered.scores])
    return Regions(np.concatenate([reference.xyxy, offered.xyxy]), offered.size_wh, scores)
