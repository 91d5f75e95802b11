"""The engine in this process: a model, what makes its inputs, and how it is run."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import BatchFeature

from vlm_fo1.engine.constraints import Matchers
from vlm_fo1.engine.generate import Decoder, Limits
from vlm_fo1.engine.lists import ListTokens
from vlm_fo1.engine.prefix import KEPT_BYTES, Prefix, PrefixStore
from vlm_fo1.engine.rows import Generation, OnId, Prompt
from vlm_fo1.engine.steps import Steps
from vlm_fo1.model.modeling import EncodedImages, FO1ForConditionalGeneration
from vlm_fo1.processing import FO1ImageProcessor


@dataclass(frozen=True)
class LocalEngine:
    """Encodes images and runs prompts; threads may share one."""

    model: FO1ForConditionalGeneration
    image_processor: FO1ImageProcessor
    list_tokens: ListTokens
    """How lists of regions are spelt: how sure each step of one is, is kept."""
    stop_id: int
    """The token that ends an answer."""
    matchers: Matchers | None = None
    """Make the constraints of prompts that have a grammar; without, nothing is constrained."""
    limits: Limits = field(default_factory=Limits)
    """How much goes into one pass."""
    prefixes: PrefixStore = field(default_factory=lambda: PrefixStore(KEPT_BYTES))
    """What is kept of prefixes; its ``budget`` may be set."""
    steps: Steps | None = None
    """Fixed memory over which decoding steps are captured; None where each pass is as large as it
    has to be. See `steps_for`."""

    @property
    def tag_ids(self) -> tuple[int, ...]:
        """The token of each region tag, by region number."""
        return self.list_tokens.tags

    @property
    def context(self) -> int | None:
        """Tokens that prompt and answer may have together; None where nobody says."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def cache_bytes(self) -> int:
        """Memory of the prefixes that are kept for later questions."""
        return self.prefixes.bytes

    def encode(self, image: Image.Image, boxes_xyxy: npt.NDArray[np.float32]) -> EncodedImages:
        """An image and any number of boxes in its pixels."""
        (encoded,) = self.encode_many([image], [boxes_xyxy])
        return encoded

    def encode_many(
        self, images: Sequence[Image.Image], boxes_xyxy: Sequence[npt.NDArray[np.float32]]
    ) -> list[EncodedImages]:
        """Images in one pass, faster the more of them are of one size.

        Args:
            images: At least one.
            boxes_xyxy: Any number of boxes for each, (N, 4) in its pixels.

        Returns:
            Each on its own, in order; none keeps the memory of the others.
        """
        return self.encode_inputs(
            [self.preprocess(*pair) for pair in zip(images, boxes_xyxy, strict=True)]
        )

    def preprocess(self, image: Image.Image, boxes_xyxy: npt.NDArray[np.float32]) -> BatchFeature:
        """What the towers take of one image, on the CPU; the model is not asked.

        Args:
            image: RGB, upright.
            boxes_xyxy: Any number of boxes, (N, 4) in its pixels.
        """
        return self.image_processor(image, boxes_xyxy.copy(), max_regions=len(boxes_xyxy))

    @torch.inference_mode()
    def encode_inputs(self, inputs: Sequence[BatchFeature]) -> list[EncodedImages]:
        """`encode_many` of images that are preprocessed.

        Args:
            inputs: What `preprocess` gave, at least one.
        """
        device = self.model.device
        encoded = self.model.encode_images(
            torch.cat([one["pixel_values"] for one in inputs]).to(device),
            torch.cat([one["image_grid_thw"] for one in inputs]),
            [one["aux_pixel_values"][0].to(device) for one in inputs],
            [one["region_boxes"][0] for one in inputs],
        )
        return encoded.one_by_one()

    def free(self) -> None:
        """Hand memory that nothing uses back to the device, after it has run out."""
        if self.steps is not None and self.steps.borrow():
            self.steps.clear()
            self.steps.give_back()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def prefix(self, encoded: EncodedImages, ids: Sequence[int], *, keep: bool = True) -> Prefix:
        """The shared start of prompts; see `Prefix`.

        Args:
            encoded: The image.
            ids: Token ids up to where prompts part.
            keep: Keep what the language model makes of it for later prompts, within the budget.
        """
        return Prefix(self.model, encoded, ids, store=self.prefixes if keep else None)

    def generate(self, prompts: Iterable[Prompt], *, on_id: OnId | None = None) -> list[Generation]:
        """Continue prompts; see `stream`.

        Returns:
            One generation a prompt, in order.
        """
        done = dict(self.stream(prompts, on_id=on_id))
        return [done[number] for number in range(len(done))]

    def stream(
        self, prompts: Iterable[Prompt], *, on_id: OnId | None = None
    ) -> Iterator[tuple[int, Generation]]:
        """Continue prompts side by side, each from when a row is free until it ends.

        Args:
            prompts: Any number, of any prefixes; read as rows are free.
            on_id: Gets the number of a prompt and each token id as it is written. What it raises
                ends all of them and frees what they hold.

        Yields:
            The number of a prompt and what was written, as they end.
        """
        decoder = Decoder(
            self.model,
            tokens=self.list_tokens,
            stop_id=self.stop_id,
            matchers=self.matchers,
            limits=self.limits,
            steps=self.steps,
            on_id=on_id,
        )
        yield from decoder.run(prompts)
