"""What rows are fed in one pass, laid out in lanes for the model.

Shapes: B lanes, Q new columns, T columns, K columns that are kept, D width, R places that are
asked, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlm_fo1.engine.rows import Ahead, Row
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.splice import EmbeddedPrompt

NOBODY, SHARED = -1, 0
"""Owners of columns that are no row's: those that nobody reads, and those of the prefix."""
BLANK = -2
"""Owner of a new column that holds no token."""

Owners = npt.NDArray[np.int64]


@dataclass
class Fed:
    """What one row is fed in one pass."""

    row: Row
    ids: tuple[int, ...]
    """The last token it wrote, or the rest of its prompt, without what is ahead."""
    ahead: Ahead
    position: int
    """Of the first of them."""
    embedded: EmbeddedPrompt | None = None
    """Of a prompt that places images: what `ids` are."""

    def __len__(self) -> int:
        return len(self.ids) + len(self.ahead.ids)


class Layout:
    """New columns of all lanes; tokens stand at the right.

    Args:
        fed: Lane by lane.
        columns: How many there shall be; as many as the fullest lane needs if left out.
    """

    def __init__(self, fed: Sequence[Sequence[Fed]], columns: int | None = None) -> None:
        most = max(sum(map(len, lane)) for lane in fed)
        columns = most if columns is None else columns
        self.fed = fed
        self.places: list[list[slice]] = []
        """By lane and row: the columns of its tokens."""
        self.owners_BQ: Owners = np.full((len(fed), columns), BLANK, np.int64)
        """Number of the row plus one."""
        self.ids_BQ = np.zeros((len(fed), columns), np.int64)
        self.positions_BQ = np.zeros((len(fed), columns), np.int64)
        for lane, some in enumerate(fed):
            column = columns - sum(map(len, some))
            self.places.append([])
            for one in some:
                part = slice(column, column := column + len(one))
                self.places[-1].append(part)
                self.owners_BQ[lane, part] = one.row.number + 1
                self.ids_BQ[lane, part] = (*one.ids, *one.ahead.ids)
                self.positions_BQ[lane, part] = np.arange(one.position, one.position + len(one))

    @property
    def has_images(self) -> bool:
        """Whether a prompt places images."""
        return any(one.embedded is not None for lane in self.fed for one in lane)

    def asked(self) -> list[tuple[int, int]]:
        """Lane and column of each place that is asked, row by row."""
        return [
            (lane, part.start + len(one.ids) - 1 + place)
            for lane, (some, parts) in enumerate(zip(self.fed, self.places, strict=True))
            for one, part in zip(some, parts, strict=True)
            for place in one.ahead.asked
        ]

    def inputs(self, model: FO1ForConditionalGeneration, axes: int) -> dict[str, Any]:
        """Tokens and their positions, as keywords of the model.

        Args:
            model: What is fed.
            axes: How many numbers a position has, 0 where it is one.
        """
        positions = torch.from_numpy(self.positions_BQ).to(model.device)
        if axes:
            positions = positions.expand(axes, -1, -1)
        embeds = model.get_input_embeddings()(torch.from_numpy(self.ids_BQ).to(model.device))
        if self.has_images:
            return self._with_images(embeds, positions)
        return {"inputs_embeds": embeds, "position_ids": positions}

    def _with_images(self, embeds_BQD: Tensor, positions: Tensor) -> dict[str, Any]:
        """Put prompts that place images where they stand among the others."""
        embeds_BQD, positions = embeds_BQD.clone(), positions.clone()
        inputs: dict[str, Any] = {"inputs_embeds": embeds_BQD, "position_ids": positions}
        for lane, (some, parts) in enumerate(zip(self.fed, self.places, strict=True)):
            for one, part in zip(some, parts, strict=True):
                prompt = one.embedded
                if prompt is None:
                    continue
                own = slice(part.start, part.start + len(one.ids))
                embeds_BQD[lane, own] = prompt["inputs_embeds"][0]
                positions[..., lane, own] = prompt["position_ids"][..., 0, :]
                if "deepstack_embeds" in prompt:
                    deep = prompt["deepstack_embeds"]
                    blank = deep.new_zeros(*embeds_BQD.shape[:2], *deep.shape[2:])
                    inputs.setdefault("deepstack_embeds", blank)[lane, own] = deep[0]
        return inputs


def added(seen_BQT: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, Q, T) what is added to attention, so that each token sees what it may."""
    mask = torch.zeros(seen_BQT.shape, dtype=dtype, device=seen_BQT.device)
    return mask.masked_fill_(~seen_BQT, torch.finfo(dtype).min)[:, None]


def logits_at(
    logits_BKV: Tensor, asked: Sequence[tuple[int, int]], kept: Sequence[int] | None
) -> Tensor:
    """(R, V) float32 logits of each place that is asked.

    Args:
        logits_BKV: Of the columns that were kept.
        asked: Lane and column of each place.
        kept: The columns, in order; None for all of them.
    """
    place_of = {column: place for place, column in enumerate(kept or ())}
    found = [(lane, place_of.get(column, column)) for lane, column in asked]
    lanes_R, kept_R = torch.tensor(found, device=logits_BKV.device).unbind(1)
    return logits_BKV[lanes_R, kept_R].float()
