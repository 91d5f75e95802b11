"""Many questions on one image in one sequence, each as if it were the first.

The prefix (image, regions) comes once; every question sees the prefix and itself, at the positions
it would have alone. So one sequence trains exactly what eight prompts would. Shapes: B rows, T
tokens, P tokens of a prefix, K alternatives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recipes.tiny.words import FastIds
from vlm_fo1.data.example import Turn
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.processing import FO1Processor

IGNORED = -100
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One image with its questions as token ids, (T,) each."""

    ids: Ids
    labels: Ids
    """`IGNORED` outside answers."""
    part: Ids
    """0 for the prefix, then the number of the question."""
    tasks: tuple[str, ...]
    """Of the questions."""
    grid_hw: tuple[int, int]
    """Patches of the primary picture."""
    prefix: int
    """Tokens of the prefix."""


class Packer:
    """Writes questions about an image as token ids.

    Args:
        processor: Gives the wording around regions and questions.
    """

    def __init__(self, processor: FO1Processor) -> None:
        self.processor = processor
        self.tag_ids: Ids = np.array(processor.region_tag_ids())
        self.ids_of = FastIds(processor.tokenizer)
        self._answer_ids = lru_cache(maxsize=65536)(self._encode_answer)
        self._question_ids = lru_cache(maxsize=65536)(self._encode_question)
        self._prefix_ids = lru_cache(maxsize=4096)(self._encode_prefix)

    def row(self, regions: int, turns: Sequence[Turn], grid_hw: tuple[int, int]) -> Row:
        """Questions as users ask them, each answer with the stop token behind it.

        Args:
            regions: Number of regions.
            turns: The questions.
            grid_hw: Patches of the primary picture.
        """
        pairs = [
            (self._question_ids(turn.question, regions > 0), self._answer_ids(turn.answer))
            for turn in turns
        ]
        return self.pack(regions, pairs, tuple(turn.task for turn in turns), grid_hw)

    def pack(
        self,
        regions: int,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        tasks: tuple[str, ...],
        grid_hw: tuple[int, int],
    ) -> Row:
        """Ids of questions and answers behind the prefix they share."""
        prefix = self._prefix_ids(regions, grid_hw[0] * grid_hw[1] // 4)
        ids, labels, part = list(prefix), [IGNORED] * len(prefix), [0] * len(prefix)
        for number, (question, answer) in enumerate(pairs, start=1):
            ids += [*question, *answer]
            labels += [*[IGNORED] * len(question), *answer]
            part += [number] * (len(question) + len(answer))
        return Row(
            ids=np.array(ids),
            labels=np.array(labels),
            part=np.array(part),
            tasks=tasks,
            grid_hw=grid_hw,
            prefix=len(prefix),
        )

    def _encode_prefix(self, regions: int, images: int) -> tuple[int, ...]:
        return tuple(self.processor.encode_prefix(regions, images))

    def _encode_answer(self, text: str) -> tuple[int, ...]:
        return (*(self.ids_of(text) if text else ()), self.processor.stop_token_id)

    def _encode_question(self, question: str, regions: bool) -> tuple[int, ...]:
        # As `FO1Processor.encode_question`; our own questions need no escaping.
        chat = self.processor.chat
        before = chat.after_regions if regions else chat.after_image
        return tuple(self.ids_of(before + question + chat.closing))


def runs_of_tags(labels: Ids, tag_ids: Ids) -> list[tuple[int, int]]:
    """Start and end of every list of tags that is to be learnt."""
    tags = (labels >= tag_ids[0]) & (labels <= tag_ids[-1])
    edges = np.flatnonzero(np.diff(np.concatenate([[0], tags.view(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def as_sets(row: Row, tag_ids: Ids, rng: np.random.Generator) -> Row:
    """The same row with each list of tags in random order: regions are a set."""
    ids, labels = row.ids.copy(), row.labels.copy()
    for start, end in runs_of_tags(labels, tag_ids):
        if end - start > 1:
            mixed = rng.permutation(labels[start:end])
            ids[start:end] = labels[start:end] = mixed
    return replace(row, ids=ids, labels=labels)


def alternatives(rows: Sequence[Row], tag_ids: Ids, longest: int) -> Tensor:
    """(B, T, K) ids that are right in each place: of a list of tags, any that is still to come."""
    found = [runs_of_tags(row.labels, tag_ids) for row in rows]
    most = max((end - start for runs in found for start, end in runs), default=1)
    out = np.full((len(rows), longest, most), IGNORED, np.int64)
    for index, (row, runs) in enumerate(zip(rows, found, strict=True)):
        out[index, : len(row.labels), 0] = row.labels
        for start, end in runs:
            for at in range(start, end):
                out[index, at, : end - at] = row.labels[at:end]
    return torch.from_numpy(out)


@dataclass(frozen=True)
class Packed:
    """Rows of one length."""

    ids_BT: Tensor
    labels_BT: Tensor
    mask_B1TT: Tensor
    """True where a token (row) sees another (column)."""
    positions_3BT: Tensor
    part_BT: Tensor
    """As in `Row`; -1 on padding."""


class Positions:
    """Host positions of a prefix, (3, P), by picture grid and length.

    Args:
        model: Counts them.
    """

    def __init__(self, model: FO1ForConditionalGeneration) -> None:
        self.model = model
        self._known: dict[tuple[tuple[int, int], int], Tensor] = {}

    def __call__(self, row: Row) -> Tensor:
        """Positions of the prefix of a row."""
        key = (row.grid_hw, row.prefix)
        if key not in self._known:
            ids = torch.from_numpy(row.ids[: row.prefix])[None]
            found = self.model.host_adapter.position_ids(
                self.model.host,
                ids,
                torch.ones_like(ids),
                torch.tensor([[1, *row.grid_hw]]),
                self.model.config.image_token_id,
            )
            self._known[key] = found[:, 0]
        return self._known[key]


def collate(rows: Sequence[Row], position_of: Callable[[Row], Tensor], pad_id: int) -> Packed:
    """Rows to tensors, padded on the right.

    Args:
        rows: At least one.
        position_of: Positions of the prefix of a row.
        pad_id: Fills ids behind the end.
    """
    longest = max(len(row.ids) for row in rows)
    shape = (len(rows), longest)
    ids = torch.full(shape, pad_id)
    labels = torch.full(shape, IGNORED)
    part = torch.full(shape, -1)
    positions = torch.zeros(3, *shape, dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length] = torch.from_numpy(row.ids)
        labels[index, :length] = torch.from_numpy(row.labels)
        part[index, :length] = torch.from_numpy(row.part)
        prefix_3P = position_of(row)
        positions[:, index, : row.prefix] = prefix_3P
        start = int(prefix_3P.max()) + 1
        later = row.part[row.prefix :]
        first = np.zeros(int(later.max(initial=0)) + 1, np.int64)
        changes = np.flatnonzero(np.diff(later, prepend=-1))
        first[later[changes]] = changes
        behind = start + np.arange(len(later)) - first[later]
        positions[:, index, row.prefix : length] = torch.from_numpy(behind)
    own = part[:, :, None] == part[:, None, :]
    seen = (own | (part[:, None, :] == 0)) & torch.ones(longest, longest).tril().bool()
    return Packed(ids, labels, seen[:, None], positions, part)
