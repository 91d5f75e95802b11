"""Keys and values of many rows: the rows of one prefix share a lane, lanes are a batch.

Each column of a lane belongs to the prefix, to one row, or to nobody; a token sees the columns of
the prefix and of its own row that come before it, so a lane gives what its rows give one by one.

Shapes: B lanes, T columns, Q new columns, H heads, D width of a head.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vlm_fo1.engine.feeding import BLANK, NOBODY, SHARED, Fed, Layout, Owners, added, logits_at
from vlm_fo1.engine.prefix import Known, Prefix, stacked
from vlm_fo1.engine.rows import Row
from vlm_fo1.model.generation import CACHE
from vlm_fo1.model.modeling import FO1ForConditionalGeneration

_TAKES_MASKS = ("sdpa", "eager")
"""Ways to compute attention that take a mask of our own."""
_SLACK = 256
"""Columns that nobody reads before it pays to close the gaps."""

Sharing = Literal["packed", "padded", "alone"]
"""Rows of one prefix share a lane, or each has a lane of its own, or a pass to itself."""


@dataclass
class Lane:
    """One prefix and the rows that go on from it."""

    prefix: Prefix
    known: Known
    rows: list[Row] = field(default_factory=list[Row])


def sharing_of(model: FO1ForConditionalGeneration) -> Sharing:
    """How rows can share the passes of a model and get what they get alone.

    A lane with several rows needs attention that takes our own mask; one with gaps needs layers
    that see all that came before, where one with a sliding window would count the gaps.
    """
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if not kinds:
        kinds = ["sliding" if getattr(text, "sliding_window", None) else "full_attention"]
    if set(kinds) != {"full_attention"}:
        return "alone"
    attention = text._attn_implementation  # noqa: SLF001 - transformers has no public name for it
    return "packed" if attention in _TAKES_MASKS else "padded"


class Lanes:
    """What is being written: lanes come and go, and their rows.

    Args:
        model: What is fed.
        sharing: How rows share passes.
    """

    burst = 1
    """Most passes in a row whose choices the host need not see."""

    def __init__(self, model: FO1ForConditionalGeneration, sharing: Sharing) -> None:
        self.model = model
        self.sharing: Sharing = sharing
        self.lanes: list[Lane] = []
        self.cache: Any = None
        self.owners_BT: Owners = np.zeros((0, 0), np.int64)
        self._layout = Layout([[]])

    @property
    def rows(self) -> list[Row]:
        """All rows, lane by lane."""
        return [row for lane in self.lanes for row in lane.rows]

    def add(self, fresh: Sequence[Lane]) -> None:
        """Take up lanes that hold their prefix only."""
        if not fresh:
            return
        caches = [lane.known.cache for lane in fresh]
        caches = caches if self.cache is None else [self.cache, *caches]
        lengths = [int(cache.get_seq_length()) for cache in caches]
        longest = max(lengths)
        joined = copy.copy(caches[0])
        if self.sharing == "alone":
            joined = copy.deepcopy(joined)
        joined.layers = [copy.copy(layer) for layer in joined.layers]
        for number, layer in enumerate(joined.layers) if len(caches) > 1 else ():
            layer.keys = stacked([cache.layers[number].keys for cache in caches], longest)
            layer.values = stacked([cache.layers[number].values for cache in caches], longest)
        owners = [np.zeros((1, length), np.int64) for length in lengths]
        if self.cache is not None:
            owners[0] = self.owners_BT
        self.owners_BT = np.concatenate(
            [
                np.pad(part, ((0, 0), (longest - part.shape[1], 0)), constant_values=NOBODY)
                for part in owners
            ]
        )
        self.cache = joined
        self.lanes += fresh

    def feed(self, fed: Sequence[Sequence[Fed]], steps: int = 1) -> tuple[Tensor, None]:
        """One pass.

        Args:
            fed: What the rows of each lane are fed.
            steps: One; see `StaticLanes.feed`.

        Returns:
            (R, V) float32 logits of each place that is asked, row by row; and nothing.
        """
        assert steps == 1
        self._layout = layout = Layout(fed)
        asked = layout.asked()
        kept = sorted({column for _, column in asked})
        output = self.model(
            **layout.inputs(self.model, self.lanes[0].known.axes),
            **{CACHE: self.cache},
            attention_mask=self._mask(layout.owners_BQ),
            use_cache=True,
            logits_to_keep=torch.tensor(kept, device=self.model.device),
        )
        self.cache = output[CACHE]
        return logits_at(output.logits, asked, kept), None

    def keep(self, stands: Sequence[int]) -> None:
        """Note how much of what was fed last stands.

        Args:
            stands: For each row, how many of the tokens fed ahead.
        """
        owners_BQ, stand = self._layout.owners_BQ, iter(stands)
        for lane, (some, parts) in enumerate(
            zip(self._layout.fed, self._layout.places, strict=True)
        ):
            for one, part in zip(some, parts, strict=True):
                owners_BQ[lane, part.start + len(one.ids) + next(stand) : part.stop] = NOBODY
        owners_BQ[owners_BQ == BLANK] = NOBODY
        self.owners_BT = np.concatenate([self.owners_BT, owners_BQ], 1)

    def _mask(self, owners_BQ: Owners) -> Tensor | None:
        """What each new token sees; None for all before it.

        A lane of several rows needs (B, 1, Q, T + Q), which is added to attention; else it is
        (B, T + Q), 0 where nobody looks.

        Args:
            owners_BQ: Whose the new columns are.
        """
        every_BT = np.concatenate([self.owners_BT, owners_BQ], 1)
        if all(len(lane.rows) == 1 for lane in self.lanes) and (every_BT >= SHARED).all():
            return None
        device = self.model.device
        if self.sharing == "padded":
            return torch.from_numpy((every_BT >= SHARED).astype(np.int64)).to(device)
        kept = torch.from_numpy(every_BT).to(device)[:, None, :]
        new = torch.from_numpy(owners_BQ).to(device)[:, :, None]
        old, total = self.owners_BT.shape[1], every_BT.shape[1]
        order = torch.arange(total, device=device)
        before = order[None, None, :] <= order[None, old:, None]
        return added(((kept == SHARED) | (kept == new)) & before, self.cache.layers[0].keys.dtype)

    def leave(self, over: Sequence[Row]) -> None:
        """Let rows go, and lanes that have none left."""
        numbers = [row.number + 1 for row in over]
        self.owners_BT[np.isin(self.owners_BT, numbers)] = NOBODY
        for lane in self.lanes:
            lane.rows = [row for row in lane.rows if not any(row is one for one in over)]
        kept = [place for place, lane in enumerate(self.lanes) if lane.rows]
        if not kept:
            self.lanes, self.cache = [], None
            self.owners_BT = np.zeros((0, 0), np.int64)
            return
        if len(kept) < len(self.lanes):
            self.cache.batch_select_indices(
                torch.tensor(kept, device=self.cache.layers[0].keys.device)
            )
            self.owners_BT = self.owners_BT[kept]
            self.lanes = [self.lanes[place] for place in kept]
        self._close_gaps()

    def _close_gaps(self) -> None:
        """Cut the last columns that nobody reads, and all such where there are many."""
        read_BT = self.owners_BT != NOBODY
        columns = read_BT.shape[1]
        end = int(np.flatnonzero(read_BT.any(0))[-1]) + 1
        longest = int(read_BT.sum(1).max())
        if longest < end // 2 and end - longest > _SLACK:
            # Stable: nobody's columns first, the others in their order.
            order_BT = np.argsort(read_BT, axis=1, kind="stable")[:, columns - longest :]
            self.owners_BT = np.take_along_axis(self.owners_BT, order_BT, 1)
            for layer in self.cache.layers:
                index = torch.from_numpy(order_BT).to(layer.keys.device)[:, None, :, None]
                layer.keys = _gathered(layer.keys, index)
                layer.values = _gathered(layer.values, index)
        elif end < columns:
            self.owners_BT = self.owners_BT[:, :end]
            for layer in self.cache.layers:
                layer.keys = layer.keys[:, :, :end]
                layer.values = layer.values[:, :, :end]


def _gathered(states_BHTD: Tensor, index: Tensor) -> Tensor:
    shape = (states_BHTD.shape[0], states_BHTD.shape[1], index.shape[2], states_BHTD.shape[3])
    return states_BHTD.gather(2, index.expand(shape))
