"""Sums over items that a metric is a formula of, and the intervals that resampling them gives.

Shapes: I items, R rows of values, K values a row, S slots (labels, where a metric averages over
them), B resamples.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.metrics.records import Array

Score = dict[str, float | None]


@dataclass(frozen=True)
class Tally:
    """What each item adds to a score, and how the score follows from the sums."""

    rows_RK: Array
    """Counts, or values to be averaged; one row an item, or one an item and slot."""
    item_R: npt.NDArray[np.int64]
    slot_R: npt.NDArray[np.int64]
    """Ascending."""
    items: int
    slots: int
    formula: Callable[[Array], Score]
    """From sums (S, K)."""

    @classmethod
    def of_items(cls, rows_IK: npt.ArrayLike, formula: Callable[[Array], Score]) -> "Tally":
        """One row an item, one slot."""
        rows = np.asarray(rows_IK, np.float64)
        where = np.arange(len(rows))
        return cls(rows, where, np.zeros_like(where), len(rows), 1, formula)

    def score(self, weights_I: npt.ArrayLike | None = None) -> Score:
        """The metric when each item counts so many times, by default once.

        Args:
            weights_I: (I,) not negative, not all zero.

        Raises:
            EvaluationError: There is not one weight per item, or none above zero.
        """
        weights = checked_weights(weights_I, self.items)
        weights_R = weights[self.item_R]
        sums_SK = np.zeros((self.slots, self.rows_RK.shape[1]))
        edges = [*np.flatnonzero(np.diff(self.slot_R, prepend=-1)).tolist(), len(self.slot_R)]
        for start, stop in pairwise(edges):  # a product each, as a weighted copy is slow
            sums_SK[self.slot_R[start]] = weights_R[start:stop] @ self.rows_RK[start:stop]
        return self.formula(sums_SK)


class Resampled(Protocol):
    """What scores any weighting of its items: `Tally` and its like."""

    def score(self, weights_I: npt.ArrayLike | None = None) -> Score:
        """The metric when each item counts so many times, by default once."""
        ...


@dataclass(frozen=True)
class Joint:
    """Scores of some of the items each, and what follows from them together: a mean of sets."""

    parts: Mapping[str, tuple[Resampled, Sequence[int]]]
    """By name: a score, and the places of its items."""
    items: int
    formula: Callable[[Mapping[str, Score]], Score]
    """From the scores by name; a part that no item was drawn of has none."""

    def score(self, weights_I: npt.ArrayLike | None = None) -> Score:
        """The metric when each item counts so many times, by default once.

        Args:
            weights_I: (I,) not negative, not all zero.

        Raises:
            EvaluationError: There is not one weight per item, or none above zero.
        """
        weights = checked_weights(weights_I, self.items)
        found: dict[str, Score] = {}
        for name, (part, places) in self.parts.items():
            own = weights[list(places)]
            found[name] = part.score(own) if own.any() else {}
        return self.formula(found)


def checked_weights(weights_I: npt.ArrayLike | None, items: int) -> Array:
    """How many times each item counts, (items,); by default once.

    Raises:
        EvaluationError: There is not one weight per item, one is negative, or none above zero.
    """
    weights = np.ones(items) if weights_I is None else np.asarray(weights_I, np.float64)
    if weights.shape != (items,):
        raise EvaluationError(
            f"weights have shape {weights.shape} for {items} items: pass one per item"
        )
    if not (weights >= 0).all() or not weights.any():
        raise EvaluationError("weights must not be negative, and one at least above zero")
    return weights


def bootstrap(
    score: Callable[[npt.NDArray[np.int64]], Mapping[str, float | None]],
    items: int,
    *,
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of a score: images are drawn with replacement, never boxes.

    A resample in which a value has no denominator says nothing of it and is left out.

    Args:
        score: From how many times each item was drawn (I,) to the score: `Tally.score`.
        items: Number of items.
        groups: What is drawn together, one key per item: the images of sentences that share one.
            By default every item is drawn by itself.
        samples: Number of resamples.
        level: Share of the resamples inside the interval.
        seed: Of the generator; equal seeds give equal intervals.

    Returns:
        Lower and upper end by the score's keys; None where no resample had a value.

    Raises:
        EvaluationError: There are no items or samples, or not one group per item.
    """
    if items < 1 or samples < 1 or not 0 < level < 1:
        raise EvaluationError(
            f"an interval needs items, resamples and a level in (0, 1), got {items} items, "
            f"{samples} resamples and level {level}"
        )
    if groups is not None and len(groups) != items:
        raise EvaluationError(
            f"there are {len(groups)} groups for {items} items: pass one per item"
        )
    keys_I = list(range(items)) if groups is None else list(groups)
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys_I))}
    group_I = np.array([number_of[key] for key in keys_I])
    generator = np.random.default_rng(seed)
    values: dict[str, list[float]] = {key: [] for key in score(np.ones(items, np.int64))}
    for _ in range(samples):
        drawn = generator.integers(len(number_of), size=len(number_of))
        weights_I = np.bincount(drawn, minlength=len(number_of))[group_I]
        for key, value in score(weights_I).items():
            if value is not None:
                values[key].append(value)
    return {key: _ends(row, level) for key, row in values.items()}


def share(part: float, whole: float) -> float | None:
    """Part of a whole; None of nothing."""
    return float(part / whole) if whole else None


def f1(precision: float, recall: float) -> float:
    """Harmonic mean, 0 of two zeros."""
    both = precision + recall
    return float(2 * precision * recall / both) if both else 0.0


def mean(values: Sequence[float]) -> float:
    """Plain mean, without the rounding of a running sum."""
    return math.fsum(values) / len(values)


def _ends(values: list[float], level: float) -> tuple[float, float] | None:
    if not values:
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high
