"""The engine in this process: a model, what makes its inputs, and how it is run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import BatchFeature

from vlm_fo1.engine.generate import Generation, OnId, Prompt, generate
from vlm_fo1.engine.lists import ListTokens
from vlm_fo1.engine.prefix import Prefix
from vlm_fo1.model.modeling import EncodedImages, FO1ForConditionalGeneration
from vlm_fo1.processing import FO1ImageProcessor

ROWS_AT_ONCE = 16
"""Rows that are decoded side by side; each holds the keys and values of its whole prompt."""


@dataclass(frozen=True)
class LocalEngine:
    """Encodes images and runs prompts; threads may share one."""

    model: FO1ForConditionalGeneration
    image_processor: FO1ImageProcessor
    list_tokens: ListTokens
    """How lists of regions are spelt: how sure each step of one is, is kept."""
    stop_id: int
    """The token that ends an answer."""

    @property
    def tag_ids(self) -> tuple[int, ...]:
        """The token of each region tag, by region number."""
        return self.list_tokens.tags

    @property
    def context(self) -> int | None:
        """Tokens that prompt and answer may have together; None where nobody says."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

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
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def prefix(self, encoded: EncodedImages, ids: Sequence[int], *, keep: bool = True) -> Prefix:
        """The shared start of prompts; see `Prefix`."""
        return Prefix(self.model, encoded, ids, keep=keep)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], *, on_id: OnId | None = None) -> list[Generation]:
        """Continue prompts, `ROWS_AT_ONCE` side by side.

        Args:
            prompts: Any number, of any prefixes.
            on_id: Gets the number of a prompt and each token id as it is written.

        Returns:
            One generation a prompt, in order.
        """
        done: list[Generation] = []
        for first in range(0, len(prompts), ROWS_AT_ONCE):
            some = prompts[first : first + ROWS_AT_ONCE]
            done += generate(
                self.model,
                some,
                tokens=self.list_tokens,
                stop_id=self.stop_id,
                on_id=None if on_id is None else _shifted(on_id, first),
            )
            for prompt in some:
                if not prompt.prefix.keep:
                    prompt.prefix.close()
        return done


def _shifted(on_id: OnId, first: int) -> OnId:
    return lambda row, id_: on_id(first + row, id_)
