"""Records to the tensors of a training step: all questions on one image in one row."""

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
    segments: list[int]
    """0 on what every question sees, then the number of the question, from 1; all 0 in a
    conversation."""
    turns: int
    """How many questions fitted."""


def bundled_collator() -> "Collator":
    """What makes the batches of the bundled model."""
    return Collator(FO1Processor.from_pretrained(resolve_folder(BUNDLED)))


class Collator:
    """Turns records into a batch; pads on the right.

    Questions of a record share its image and regions, and each sees those and itself, as when it is
    asked alone (`vlm_fo1.model.packing`)::

        PREFIX  Q1 A1<|im_end|>  Q2 A2<|im_end|> ...

    In a conversation each sees all before it::

        PREFIX Q1 A1<|im_end|>
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
            ``input_ids``, ``attention_mask`` and ``labels`` (rows, T) int64; ``segment_ids`` too
            where a record has several questions that are no conversation. If any record has an
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
        segments: list[int] = []
        taken = 0
        turns = ((turn.question, turn.answer) for turn in example.turns)
        regions = len(example.regions_xyxy)
        shared = len(self.processor.encode_prefix(regions, image_tokens))
        for prompt, answer in self.processor.encode_turns(
            turns, regions, image_tokens, conversation=example.conversation
        ):
            new = [*prompt, *answer]
            if self.max_tokens is not None and len(ids) + len(new) > self.max_tokens:
                if taken == 0:
                    raise DataError(
                        f"record {example.id!r} of {example.source} needs {len(new)} tokens for "
                        f"its first question, at most {self.max_tokens} are allowed: raise "
                        "max_tokens or shrink the image"
                    )
                break
            ids += new
            labels += [*[IGNORED] * len(prompt), *answer]
            taken += 1
            segments += [0 if example.conversation else taken] * len(new)
        segments[:shared] = [0] * shared
        return Encoded(ids, labels, segments, taken)

    def pad(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Rows of one length: (rows, T) each, as `__call__` gives them."""
        longest = max(len(row.input_ids) for row in rows)
        shape = (len(rows), longest)
        ids = torch.full(shape, self.processor.pad_token_id, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, IGNORED, dtype=torch.int64)
        segments = torch.full(shape, -1, dtype=torch.int64)
        for index, row in enumerate(rows):
            length = len(row.input_ids)
            ids[index, :length] = torch.tensor(row.input_ids)
            mask[index, :length] = 1
            labels[index, :length] = torch.tensor(row.labels)
            segments[index, :length] = torch.tensor(row.segments)
        padded = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return padded | ({"segment_ids": segments} if segments.max() > 1 else {})
