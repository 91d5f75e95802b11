"""One encoded picture with as many regions as a question holds: a question in, an answer out."""

import copy
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from transformers import TextStreamer

from vlm_fo1.errors import PromptError
from vlm_fo1.markup import renumbered
from vlm_fo1.model.generation import CACHE, RegionTokenProbabilities
from vlm_fo1.model.modeling import EncodedImages, FO1ForConditionalGeneration
from vlm_fo1.model.splice import EmbeddedPrompt, prompt_start
from vlm_fo1.parser import parse
from vlm_fo1.processing import FO1Processor
from vlm_fo1.prompts import Question
from vlm_fo1.structures import Answer, Floats, Regions

MAX_NEW_TOKENS = 512
"""Default length limit of an answer, in tokens."""

OnText = Callable[[str], None]


@dataclass(frozen=True)
class Network:
    """A model with what it takes to talk to it."""

    model: FO1ForConditionalGeneration
    processor: FO1Processor
    tag_ids: Sequence[int]
    """Token id of each region tag, by number."""

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
        encoded: One picture, with the tokens of the shown regions only.
        offered: Every region there is, in pixels of the whole picture.
        numbers: Which of them are shown, in order: the position here is the number that the model
            reads and writes, the value the position in ``offered``.
        keep_prefix: Keep what the language model made of picture and regions for further questions.
    """

    def __init__(
        self,
        network: Network,
        encoded: EncodedImages,
        offered: Regions,
        numbers: Sequence[int],
        *,
        keep_prefix: bool = True,
    ) -> None:
        self.network = network
        self.offered = offered
        self.numbers = list(numbers)
        self._encoded = encoded
        self._own = {number: own for own, number in enumerate(numbers)}
        self._keep_prefix = keep_prefix
        self._lock = threading.Lock()
        self._prefix_cache: Any = None
        self._prefix_ids = network.processor.encode_prefix(
            len(numbers), len(encoded.image_tokens[0])
        )

    def ask(
        self,
        question: Question,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_text: OnText | None = None,
    ) -> Answer:
        """Put one question; greedy, so the same question gets the same answer.

        Args:
            question: Its region numbers are positions in `offered`.
            max_new_tokens: Length limit of the answer.
            on_text: Gets the text as it is written.

        Returns:
            The answer about all of `offered`, with their numbers in its text.

        Raises:
            PromptError: No room for an answer, or a region in the question that is not shown.
        """
        if max_new_tokens < 1:
            raise PromptError(f"max_new_tokens is {max_new_tokens}, at least 1 is needed")
        start = time.perf_counter()
        processor = self.network.processor
        text = renumbered(question.text, self._own_number, processor.vocabulary)
        question_ids = processor.encode_question(text, len(self.numbers))
        new_ids, confidence = self._generate(question_ids, max_new_tokens, on_text)
        answer = parse(
            self._with_offered_numbers(processor.decode(new_ids)),
            self.offered,
            question,
            vocabulary=processor.vocabulary,
            tag_confidence=confidence,
            finished=processor.stop_token_id in new_ids.tolist(),
        )
        return replace(answer, timing_s={"answer": time.perf_counter() - start})

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
            streamer=streamer,
        )
        new_ids = sequences[0, ids.shape[1] :].cpu()
        return new_ids, seen.of_tokens(new_ids, 0)

    def _cache_of_prefix(self, prompt: EmbeddedPrompt) -> Any:
        """Keys and values of everything before the question: computed once, copied each time."""
        if not self._keep_prefix:
            return self._run_prefix(prompt)
        with self._lock:
            if self._prefix_cache is None:
                self._prefix_cache = self._run_prefix(prompt)
        return copy.deepcopy(self._prefix_cache)

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
