"""Records to the tensors of a training step: several questions on one image in one sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlm_fo1.data.example import Example
from vlm_fo1.errors import DataError
from vlm_fo1.model.weights import BUNDLED, resolve_folder
from vlm_fo1.processing import FO1Processor

IGNORED = -100
"""Label of a token that is not learnt."""


@dataclass(frozen=True)
class Encoded:
    """One record as token ids."""

    input_ids: list[int]
    labels: list[int]
    """`IGNORED` except on answers and the token that ends each."""
    turns: int
    """How many questions fitted."""


def bundled_collator() -> "Collator":
    """What makes the batches of the bundled model."""
    return Collator(FO1Processor.from_pretrained(resolve_folder(BUNDLED)))


class Collator:
    """Turns records into a batch; pads on the right.

    The first question comes in the processor's own prompt, later ones as further turns::

        PROMPT(Q1)A1<|im_end|>
        <|im_start|>user
        Q2<|im_end|>
        <|im_start|>assistant
        A2<|im_end|>...

    Args:
        processor: The model's `FO1Processor`.
        max_tokens: Longest sequence; questions beyond it are left out, the first must fit.
    """

    def __init__(self, processor: FO1Processor, max_tokens: int | None = None) -> None:
        self.processor = processor
        self.max_tokens = max_tokens

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Make a batch.

        Args:
            examples: At least one record, each with or without an image.

        Returns:
            ``input_ids``, ``attention_mask`` and ``labels`` (rows, T) int64; if any record has an
            image also ``pixel_values``, ``image_grid_thw``, ``aux_pixel_values`` and
            ``region_boxes``, one entry per image in the order of the rows.

        Raises:
            DataError: No record, or one that does not fit.
        """
        if not examples:
            raise DataError("a batch needs at least one record")
        shown = [example for example in examples if example.image is not None]
        images: dict[str, Any] = {}
        tokens: list[int] = []
        if shown:
            images = dict(
                self.processor.image_processor(
                    [example.image for example in shown],
                    [example.regions_xyxy for example in shown],
                )
            )
            tokens = self.processor.image_processor.image_tokens(images["image_grid_thw"])
        per_image = iter(tokens)
        rows = [
            self.encode(example, next(per_image) if example.image is not None else 0)
            for example in examples
        ]
        return {**self.pad(rows), **images}

    def encode(self, example: Example, image_tokens: int) -> Encoded:
        """Token ids and labels of one record.

        Args:
            example: The record.
            image_tokens: Merged patches of its image; 0 without one.

        Returns:
            Ids and labels of the turns that fit.

        Raises:
            DataError: The first question and its answer are longer than `max_tokens`.
        """
        ids: list[int] = []
        labels: list[int] = []
        taken = 0
        turns = ((turn.question, turn.answer) for turn in example.turns)
        regions = len(example.regions_xyxy)
        for prompt, answer in self.processor.encode_turns(turns, regions, image_tokens):
            if self.max_tokens is not None and len(ids) + len(prompt) + len(answer) > (
                self.max_tokens
            ):
                if taken == 0:
                    raise DataError(
                        f"record {example.id!r} of {example.source} needs "
                        f"{len(prompt) + len(answer)} tokens for its first question, at most "
                        f"{self.max_tokens} are allowed: raise max_tokens or shrink the image"
                    )
                break
            ids += [*prompt, *answer]
            labels += [*[IGNORED] * len(prompt), *answer]
            taken += 1
        return Encoded(ids, labels, taken)

    def pad(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Rows of one length: (rows, T) ``input_ids``, ``attention_mask`` and ``labels``."""
        longest = max(len(row.input_ids) for row in rows)
        shape = (len(rows), longest)
        ids = torch.full(shape, self.processor.pad_token_id, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, IGNORED, dtype=torch.int64)
        for index, row in enumerate(rows):
            length = len(row.input_ids)
            ids[index, :length] = torch.tensor(row.input_ids)
            mask[index, :length] = 1
            labels[index, :length] = torch.tensor(row.labels)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}
