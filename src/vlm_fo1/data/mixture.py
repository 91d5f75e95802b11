"""Several sources as one endless, seeded stream that can be stopped, resumed and shared out."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlm_fo1.data.example import Example
from vlm_fo1.data.sources.base import Source
from vlm_fo1.errors import ConfigError, DataError, FO1Error, item_errors

logger = logging.getLogger(__name__)

_MOST_IN_A_ROW = 1000  # bad records after which a stream is given up
_MOST_KEPT = 1000  # problems kept for reports


@dataclass(frozen=True)
class Part:
    """A source and its share of the stream."""

    name: str
    source: Source
    weight: float = 1.0
    replay: bool = False
    """Whether its records are marked so."""

    def example(self, index: int) -> Example:
        """Record ``index`` of the source.

        Raises:
            FO1Error: It cannot be used, whatever the reason.
        """
        with item_errors(f"record {index} of {self.name}"):
            example = self.source.example(index)
            return replace(example, replay=True) if self.replay else example

    @property
    def notes(self) -> list[str]:
        """What the source's files hold that no record uses, with counts."""
        return list(getattr(self.source, "notes", ()))


class Mixture:
    """Draws from sources by weight.

    Which source draw number ``k`` comes from depends on the seed and ``k`` alone, and each source
    is read in order: the stream is the same on every machine. Shard ``i`` of ``n`` takes the draws
    ``i``, ``i + n``, and so on.

    Args:
        parts: Sources with weights; weights need no sum.
        seed: Of the draws.
        rank: Which shard this is, from 0.
        world_size: How many shards there are.
        strict: Raise at a bad record; otherwise it is reported, counted and left out.

    Raises:
        ConfigError: No part, weights that are no shares, names twice, or a shard that is none.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        strict: bool = False,
    ) -> None:
        names = [part.name for part in parts]
        if not parts or len(set(names)) != len(names):
            raise ConfigError(f"a mixture needs parts with names of their own, got {names}")
        weights = np.array([part.weight for part in parts], np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ConfigError(f"weights {weights.tolist()}: >= 0 and at least one above 0 needed")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of {world_size}: ranks go from 0 to world_size - 1")
        self.parts = tuple(parts)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.strict = strict
        self.problems: list[str] = []
        """What was left out and why, the first thousand; not part of the state."""
        self._bounds = np.cumsum(weights / weights.sum())
        self._drawn = 0
        self._taken = dict.fromkeys(names, 0)
        self.bad_records = 0
        """How many records were left out so far, earlier runs of a resumed stream included."""

    def __iter__(self) -> Iterator[Example]:
        """Go on from where the state says, without end.

        Yields:
            Examples.

        Raises:
            FO1Error: A bad record when `strict`.
            DataError: Nothing but bad records.
        """
        in_a_row = 0
        while True:
            part, index, mine = self._draw()
            if not mine:
                continue
            try:
                example = part.example(index)
            except FO1Error as error:
                if self.strict:
                    raise
                in_a_row += 1
                self._report(f"{part.name}: {error}")
                if in_a_row >= _MOST_IN_A_ROW:
                    raise DataError(
                        f"{in_a_row} bad records in a row, the last: {error}; "
                        "run fo1 data check on the file"
                    ) from error
                continue
            in_a_row = 0
            yield example

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain values."""
        return {
            "drawn": self._drawn,
            "taken": dict(self._taken),
            "bad": self.bad_records,
            "rank": self.rank,
            "world_size": self.world_size,
            "seed": self.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where a state says; takes effect with the next record.

        Raises:
            ConfigError: The state is of another stream: other parts, seed or shards.
        """
        for key in ("rank", "world_size", "seed"):
            if state[key] != getattr(self, key):
                raise ConfigError(
                    f"the state has {key} {state[key]}, this mixture {getattr(self, key)}: "
                    "resume with the same values"
                )
        if set(state["taken"]) != set(self._taken):
            raise ConfigError(
                f"the state is of parts {sorted(state['taken'])}, this mixture has "
                f"{sorted(self._taken)}: resume with the same parts"
            )
        self._drawn = int(state["drawn"])
        self._taken = {name: int(count) for name, count in state["taken"].items()}
        self.bad_records = int(state["bad"])

    def _draw(self) -> tuple[Part, int, bool]:
        """The next draw of the whole stream: its part, the index there, and if it is ours."""
        point = np.random.default_rng([self.seed, self._drawn]).random()
        choice = min(int(np.searchsorted(self._bounds, point, "right")), len(self.parts) - 1)
        part = self.parts[choice]
        index = self._taken[part.name]
        self._taken[part.name] += 1
        mine = self._drawn % self.world_size == self.rank
        self._drawn += 1
        return part, index, mine

    def _report(self, problem: str) -> None:
        self.bad_records += 1
        logger.warning("record left out: %s", problem)
        if len(self.problems) < _MOST_KEPT:
            self.problems.append(problem)
