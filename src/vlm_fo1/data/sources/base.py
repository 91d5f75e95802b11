"""What a source of training records is, and the order in which a finite one is gone through."""

from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from vlm_fo1.data.example import Example
from vlm_fo1.errors import DataError

Rng = np.random.Generator


@runtime_checkable
class Source(Protocol):
    """Records by index, without end: a finite set starts again in another order."""

    def example(self, index: int) -> Example:
        """Record number ``index`` (from 0), always the same.

        Raises:
            DataError: That record cannot be used; the message says where it stands.
        """
        ...


class Epochs:
    """Goes through a finite set again and again, each time in an order of its own.

    Args:
        size: How many records there are.
        seed: Of the orders.
        name: What is empty, for the error.

    Raises:
        DataError: There is nothing to go through.
    """

    def __init__(self, size: int, seed: int, name: str) -> None:
        if size < 1:
            raise DataError(f"{name} holds no usable record: at least one is needed")
        self.size = size
        self.seed = seed

    def at(self, index: int) -> tuple[int, Rng]:
        """Position in the set, and a generator for this visit of the record."""
        epoch, place = divmod(index, self.size)
        position = int(_order(self.size, self.seed, epoch)[place])
        return position, np.random.default_rng([self.seed, 1, epoch, position])


@lru_cache(maxsize=16)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(size)
