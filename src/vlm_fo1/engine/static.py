"""Lanes in memory of fixed capacity: the passes over it have few shapes, so they can be captured.

Each lane has a slot, and each token of its rows a column there, any that is free: what a token sees
is said by whose the columns are and by their order. So nothing moves when rows and lanes come and
go. Capacity grows by doubling.

Shapes: B slots, Q new columns, C capacity in columns, R places that are asked, V vocabulary.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlm_fo1.engine.feeding import NOBODY, SHARED, Fed, Layout, logits_at
from vlm_fo1.engine.lanes import Lane, Sharing
from vlm_fo1.engine.rows import Row
from vlm_fo1.engine.steps import CAPTURED_PLACES, Inputs, Steps

_FEWEST_COLUMNS = 256
BURST = 8
"""Passes between two looks at what was written, where nobody has to look sooner."""


class StaticLanes:
    """What is being written; the same as `Lanes`, over borrowed memory.

    Args:
        steps: Where it is written; borrowed by the caller.
    """

    sharing: Sharing = "packed"
    burst = BURST

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self._slots: list[Lane | None] = []
        self._cache: Any = None
        self._marks_2BC = np.zeros((2, 0, 0), np.int64)
        """Owner of each column, and its order among the owner's."""
        self._lengths: dict[int, int] = {}
        """Columns of each row, by its number."""
        self._fed: list[tuple[int, Fed, npt.NDArray[np.int64]]] = []
        """Slot of each row that was fed last, what, and the columns it got."""

    @property
    def lanes(self) -> list[Lane]:
        """Those that are taken, slot by slot."""
        return [lane for lane in self._slots if lane is not None]

    @property
    def rows(self) -> list[Row]:
        """All rows, lane by lane."""
        return [row for lane in self.lanes for row in lane.rows]

    def add(self, fresh: Sequence[Lane]) -> None:
        """Take up lanes that hold their prefix only."""
        if not fresh:
            return
        lengths = [lane.known.cache.get_seq_length() for lane in fresh]
        self._grow(len(self.lanes) + len(fresh), max(lengths) + 1, fresh[0])
        for lane, length in zip(fresh, lengths, strict=True):
            slot = self._slots.index(None)
            self._slots[slot] = lane
            self._marks_2BC[0, slot, :length] = SHARED
            for layer, known in zip(self._cache.layers, lane.known.cache.layers, strict=True):
                layer.keys[slot, :, :length] = known.keys[0]
                layer.values[slot, :, :length] = known.values[0]

    def feed(self, fed: Sequence[Sequence[Fed]], steps: int = 1) -> tuple[Tensor, Tensor | None]:
        """One pass, or some in which each row is fed the likeliest token of the one before.

        Args:
            fed: What the rows of each lane are fed; one token each for several passes.
            steps: How many; a pass too large to be captured stays one.

        Returns:
            (R, V) float32 logits of each place that is asked, row by row, in each pass after the
            other; and for several passes the (R,) tokens that were the likeliest there.
        """
        by_slot: list[Sequence[Fed]] = [[] for _ in self._slots]
        taken = [slot for slot, lane in enumerate(self._slots) if lane is not None]
        for slot, some in zip(taken, fed, strict=True):
            by_slot[slot] = some
        most = max(sum(map(len, some)) for some in fed)
        queries = _power(most)
        small = len(by_slot) * queries <= CAPTURED_PLACES
        steps = steps if small else 1
        used = (self._marks_2BC[0] != NOBODY).sum(1)
        self._grow(len(taken), int(used.max()) + most * steps + 1, self.lanes[0])
        layout = Layout(by_slot, queries if small else None)
        inputs = self._inputs(layout, steps)
        axes, asked = self.lanes[0].known.axes, layout.asked()
        if layout.has_images or not small:
            kept = sorted({column for _, column in asked})
            keep = torch.tensor(kept, device=self.steps.model.device)
            given = layout.inputs(self.steps.model, axes)
            logits = self.steps.logits(inputs[0], self._cache, axes, given=given, keep=keep)
            return logits_at(logits, asked, kept), None
        logits_RV = logits_at(self.steps.run(inputs[0], self._cache, axes), asked, None)
        if steps == 1:
            return logits_RV, None
        return self._follow(inputs, asked, logits_RV, axes)

    def _follow(
        self, inputs: Sequence[Inputs], asked: Sequence[tuple[int, int]], logits: Tensor, axes: int
    ) -> tuple[Tensor, Tensor]:
        """Further passes, whose tokens never leave the device."""
        lanes_R, columns_R = torch.tensor(asked, device=logits.device).unbind(1)
        steps = [logits]
        chosen = [logits.argmax(-1)]
        for each in inputs[1:]:
            each.tokens_5BQ[0, lanes_R, columns_R] = chosen[-1]
            logits_BQV = self.steps.run(each, self._cache, axes)
            steps.append(logits_BQV[lanes_R, columns_R].float())
            chosen.append(steps[-1].argmax(-1))
        return torch.stack(steps, 1).flatten(0, 1), torch.stack(chosen, 1).flatten()

    def keep(self, stands: Sequence[int]) -> None:
        """Note how much of what was fed last stands; see `Lanes.keep`."""
        for (slot, one, columns), stand in zip(self._fed, stands, strict=True):
            length = len(one.ids) + stand
            self._lengths[one.row.number] += length
            self._marks_2BC[0, slot, columns[length:]] = NOBODY

    def leave(self, over: Sequence[Row]) -> None:
        """Let rows go, and lanes that have none left."""
        for row in over:
            self._marks_2BC[0, self._marks_2BC[0] == row.number + 1] = NOBODY
            del self._lengths[row.number]
        for slot, lane in enumerate(self._slots):
            if lane is not None:
                lane.rows = [row for row in lane.rows if not any(row is one for one in over)]
                if not lane.rows:
                    self._slots[slot] = None
                    self._marks_2BC[0, slot] = NOBODY
        if not self.lanes:
            self._slots, self._cache = [], None
            self._marks_2BC = np.zeros((2, 0, 0), np.int64)

    def _inputs(self, layout: Layout, steps: int) -> list[Inputs]:
        """Columns for all that is fed, and what each pass needs to know."""
        capacity = self._marks_2BC.shape[2]
        tokens = np.zeros((steps, 5, *layout.ids_BQ.shape), np.int64)
        tokens[:, 0], tokens[:, 2] = layout.ids_BQ, layout.owners_BQ
        tokens[:, 1] = capacity - 1  # tokens of nobody go to the last column, which nobody gets
        tokens[:, 4] = layout.positions_BQ + np.arange(steps)[:, None, None]
        self._fed = []
        for slot, (some, parts) in enumerate(zip(layout.fed, layout.places, strict=True)):
            free = iter(np.flatnonzero(self._marks_2BC[0, slot, :-1] == NOBODY))
            for one, part in zip(some, parts, strict=True):
                columns = np.array([*islice(free, len(one) * steps)], np.int64)
                order = self._lengths.setdefault(one.row.number, 0) + np.arange(len(columns))
                self._marks_2BC[0, slot, columns] = one.row.number + 1
                self._marks_2BC[1, slot, columns] = order
                tokens[:, 1, slot, part] = columns.reshape(steps, -1)
                tokens[:, 3, slot, part] = order.reshape(steps, -1)
                self._fed.append((slot, one, columns))
        device = self.steps.model.device
        marks = torch.from_numpy(self._marks_2BC).to(device)
        return [Inputs(part, marks) for part in torch.from_numpy(tokens).to(device)]

    def _grow(self, slots: int, columns: int, like: Lane) -> None:
        """Make room for so many lanes and columns of each."""
        _, old_slots, old_columns = self._marks_2BC.shape
        new_slots = max(_power(slots), old_slots)
        new_columns = max(_power(columns), old_columns, _FEWEST_COLUMNS)
        if (new_slots, new_columns) == (old_slots, old_columns):
            return
        # The new room may be in the same memory.
        held = [
            (layer.keys.clone(), layer.values.clone())
            for layer in (self._cache.layers if self._cache is not None else ())
        ]
        self._cache = self.steps.cache(like.known, new_slots, new_columns)
        for layer, (keys, values) in zip(self._cache.layers, held, strict=False):
            layer.keys[:old_slots, :, :old_columns] = keys
            layer.values[:old_slots, :, :old_columns] = values
        marks_2BC = np.zeros((2, new_slots, new_columns), np.int64)
        marks_2BC[0] = NOBODY
        marks_2BC[:, :old_slots, :old_columns] = self._marks_2BC
        self._marks_2BC = marks_2BC
        self._slots += [None] * (new_slots - old_slots)


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()
