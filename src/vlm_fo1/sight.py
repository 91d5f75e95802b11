"""One encoded picture with as many regions as a question holds: a question in, an answer out."""

import copy
import operator
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from transformers import TextStreamer

from vlm_fo1.answer import Answer
from vlm_fo1.errors import PromptError
from vlm_fo1.markup import renumbered
from vlm_fo1.model.generation import CACHE, RegionTokenProbabilities, RepeatsItself
from vlm_fo1.model.modeling import EncodedImages, FO1ForConditionalGeneration
from vlm_fo1.model.splice import EmbeddedPrompt, prompt_start
from vlm_fo1.parser import parse
from vlm_fo1.processing import FO1Processor
from vlm_fo1.regions import Floats, Regions
from vlm_fo1.tasks import MAX_NEW_TOKENS, Question, Task, ask_labels, ask_regions, ask_text

LEAST_ROOM = 64
"""A prompt that leaves fewer tokens of the model's context for the answer is refused, unless the
answer may not be that long anyway."""

OnText = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How an answer is written; checked where it enters."""

    max_new_tokens: int = MAX_NEW_TOKENS
    """Length limit of the answer in tokens."""
    on_text: OnText | None = None
    """Gets the text as it is written."""

    def __post_init__(self) -> None:
        """Refuse what no answer can be written with.

        Raises:
            PromptError: A limit that is no number or leaves no room, or nothing to call.
        """
        wanted: Any = self.max_new_tokens
        try:
            tokens = -1 if isinstance(wanted, bool) else operator.index(wanted)
        except TypeError:
            tokens = -1
        if tokens < 1:
            raise PromptError(f"max_new_tokens is {wanted!r}, at least 1 is needed: a whole number")
        if self.on_text is not None and not callable(self.on_text):
            raise PromptError(f"on_text is {self.on_text!r}: something to call with text is needed")

    def options(self) -> dict[str, Any]:
        """As keywords of the asking methods."""
        return {"max_new_tokens": self.max_new_tokens, "on_text": self.on_text}


@dataclass(frozen=True)
class Network:
    """A model with what it takes to talk to it."""

    model: FO1ForConditionalGeneration
    processor: FO1Processor
    tag_ids: Sequence[int]
    """Token id of each region tag, by number."""

    def about_labels(self, task: Task, labels: str | Iterable[str]) -> Question:
        """See `ask_labels`."""
        processor = self.processor
        return ask_labels(task, labels, processor.vocabulary, reserved=processor.reserved_tokens())

    def about_regions(self, task: Task, indices: Sequence[int], count: int) -> Question:
        """See `ask_regions`."""
        return ask_regions(task, indices, count, self.processor.vocabulary)

    def in_words(
        self, task: Task, text: str, about: Sequence[int] = (), count: int = 0
    ) -> Question:
        """See `ask_text`."""
        return ask_text(
            task,
            text,
            about=about,
            count=count,
            vocabulary=self.processor.vocabulary,
            reserved=self.processor.reserved_tokens(),
        )

    def room(self, prompt_tokens: int, writing: Writing) -> int:
        """How many tokens an answer may have.

        Args:
            prompt_tokens: Tokens of the prompt.
            writing: The limit that was asked for.

        Raises:
            PromptError: The prompt leaves too little of the model's context.
        """
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context is None:
            return writing.max_new_tokens
        least = min(writing.max_new_tokens, LEAST_ROOM)
        if prompt_tokens + least > context:
            raise PromptError(
                f"the prompt has {prompt_tokens} tokens, and the model's context of {context} "
                f"holds at most {context - least} with room for an answer: ask in fewer words, or "
                "show fewer regions or a smaller image"
            )
        return min(writing.max_new_tokens, context - prompt_tokens)

    @torch.inference_mode()
    def encode(self, image: Image.Image, xyxy: Floats) -> EncodedImages:
        """A picture and any number of boxes in its pixels."""
        inputs = self.processor.image_processor(image, xyxy.copy(), max_regions=len(xyxy))
        device = self.model.device
        return self.model.encode_images(
            inputs["pixel_values"].to(device),
            inputs["image_grid_thw"].to(device),
            [pixels.to(device) for pixels in inputs["aux_pixel_values"]],
            [boxes.to(device) for boxes in inputs["region_boxes"]],
        )


class Sight:
    """What the model is shown; safe to use from several threads.

    Args:
        network: What is asked.
        encoded: One picture, with the tokens of the shown regions only; behind it pictures
            without regions, which the question places.
        offered: Every region there is, in pixels of the whole picture.
        numbers: Which of them are shown, in order: the position here is the number that the model
            reads and writes, the value the position in ``offered``.
        system: A system message in place of the chat's own.
    """

    def __init__(
        self,
        network: Network,
        encoded: EncodedImages,
        offered: Regions,
        numbers: Sequence[int],
        *,
        system: str | None = None,
    ) -> None:
        self.network = network
        self.offered = offered
        self.numbers = list(numbers)
        self._encoded = encoded
        self._own = {number: own for own, number in enumerate(numbers)}
        self._lock = threading.Lock()
        self._prefix_cache: Any = None
        self._prefix_ids = network.processor.encode_prefix(
            len(numbers), len(encoded.image_tokens[0]), system=system
        )

    def ask(self, question: Question, writing: Writing) -> Answer:
        """Put one question; greedy, so the same question gets the same answer.

        Args:
            question: Its region numbers are positions in `offered`.
            writing: How long the answer may be, and who watches it.

        Returns:
            The answer about all of `offered`, with their numbers in its text.

        Raises:
            PromptError: No room for an answer, or a region in the question that is not shown.
        """
        start = time.perf_counter()
        processor = self.network.processor
        text = renumbered(question.text, self._own_number, processor.vocabulary)
        more_images = [len(tokens) for tokens in self._encoded.image_tokens[1:]]
        question_ids = processor.encode_question(text, len(self.numbers), more_images=more_images)
        room = self.network.room(len(self._prefix_ids) + len(question_ids), writing)
        new_ids, confidence = self._generate(question_ids, room, writing.on_text)
        answer = parse(
            self._with_offered_numbers(processor.decode(new_ids)),
            self.offered,
            question,
            vocabulary=processor.vocabulary,
            tag_confidence=confidence,
            cut=self._cut(new_ids.tolist(), room, writing),
        )
        return replace(answer, timing_s={"answer": time.perf_counter() - start})

    def _cut(self, new_ids: list[int], room: int, writing: Writing) -> str:
        """Why the answer ended before the model did; empty when it did not."""
        if self.network.processor.stop_token_id in new_ids:
            return ""
        if len(new_ids) < room:
            return f"the answer repeated itself and was ended after {len(new_ids)} tokens"
        if room < writing.max_new_tokens:
            return (
                f"the answer was cut after {room} tokens, where the model's context ends: "
                "ask in fewer words, or show fewer regions"
            )
        return "the answer was cut at max_new_tokens: raise it to get the rest"

    def _own_number(self, number: int) -> int:
        """From a position in ``offered`` to the model's number.

        Raises:
            PromptError: The region is not among those shown.
        """
        if number not in self._own:
            raise PromptError(
                f"region {number} is not among the {len(self.numbers)} of {len(self.offered)} "
                "regions that one question holds: offer fewer regions"
            )
        return self._own[number]

    def _with_offered_numbers(self, text: str) -> str:
        """The model's text with its numbers turned into positions in ``offered``."""
        shown, beyond = len(self.numbers), len(self.offered) - len(self.numbers)
        return renumbered(
            text,
            lambda own: self.numbers[own] if own < shown else own + beyond,  # stays beyond the last
            self.network.processor.vocabulary,
        )

    @torch.inference_mode()
    def _generate(
        self, question_ids: list[int], max_new_tokens: int, on_text: OnText | None
    ) -> tuple[torch.Tensor, list[float]]:
        """New token ids and the probability of each region tag among them."""
        model, processor = self.network.model, self.network.processor
        ids = torch.tensor([self._prefix_ids + question_ids], device=model.device)
        mask = torch.ones_like(ids)
        prompt = model.embed_prompt(ids, mask, self._encoded)
        seen = RegionTokenProbabilities(self.network.tag_ids)
        streamer = None
        if on_text is not None:
            streamer = _Streamer(processor, lambda text: on_text(self._with_offered_numbers(text)))
        sequences = model.generate(
            ids,
            mask,
            **prompt,
            cache=self._cache_of_prefix(prompt),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=processor.stop_token_id,
            pad_token_id=processor.stop_token_id,
            logits_processor=[seen],
            stopping_criteria=[RepeatsItself(ids.shape[1])],
            streamer=streamer,
        )
        new_ids = sequences[0, ids.shape[1] :].cpu()
        return new_ids, seen.of_tokens(new_ids, 0)

    def _cache_of_prefix(self, prompt: EmbeddedPrompt) -> Any:
        """Keys and values of everything before the question: computed once, copied each time."""
        with self._lock:
            if self._prefix_cache is None:
                self._prefix_cache = self._run_prefix(prompt)
        return copy.deepcopy(self._prefix_cache)

    def forget(self) -> None:
        """Give back the memory of what the language model made of picture and regions."""
        with self._lock:
            self._prefix_cache = None

    def _run_prefix(self, prompt: EmbeddedPrompt) -> Any:
        return self.network.model(
            **prompt_start(prompt, len(self._prefix_ids)), use_cache=True, logits_to_keep=1
        )[CACHE]


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
        """Called by the parent with each finished piece, cut at spaces: tags come whole."""
        del stream_end
        if piece := text.replace(self.stop, ""):
            self.on_text(piece)
