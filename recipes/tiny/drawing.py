"""Examples drawn by number: each depends on the seed and its place in the stream alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Drawn:
    """A source without end, the ``shard``-th of ``shards``."""

    draw: Callable[[int, int], Any]
    """(place in the stream, number of the batch it is in) to an example."""
    batch: int
    shard: int
    shards: int
    number: int = 0

    def __iter__(self) -> Iterator[Any]:
        """Go on from where the state says."""
        while True:
            number, self.number = self.number, self.number + 1
            turn = number // self.batch * self.shards + self.shard
            yield self.draw(number * self.shards + self.shard, turn)

    def state_dict(self) -> dict[str, int]:
        """Where it stands."""
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where a state says."""
        self.number = state["number"]
