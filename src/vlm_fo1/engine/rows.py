"""One answer in the making: what it has written, what may follow, what is fed next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vlm_fo1.engine.constraints import Constraint, Grammar
from vlm_fo1.engine.guesses import Guesses
from vlm_fo1.engine.lists import ListRecorder, ListSteps
from vlm_fo1.engine.prefix import Prefix

REPEATED_TOKENS = 256
"""An answer whose last tokens, this many, are one thing again and again, comes to no end."""
LONGEST_REPEAT = REPEATED_TOKENS // 4
"""Longest thing in tokens that counts as repeated: it stands there four times."""
_LOOKED_EVERY = 32

OnId = Callable[[int, int | None], None]
"""Gets the number of a row and each token id, as it is written; None when the row is over."""


@dataclass(frozen=True)
class Prompt:
    """One row to be continued."""

    prefix: Prefix
    ids: tuple[int, ...]
    """Token ids after the prefix."""
    max_new_tokens: int
    regions: int = 0
    """How many of the tags may be named."""
    start: tuple[int, ...] = ()
    """How the answer shall begin; part of what is written."""
    grammar: Grammar | None = None
    """What the answer may be; None for whatever the model writes."""

    def __len__(self) -> int:
        return len(self.prefix.ids) + len(self.ids)


@dataclass(frozen=True)
class Generation:
    """What one row wrote."""

    ids: tuple[int, ...]
    """New token ids, without the one that ends the answer."""
    tag_probabilities: tuple[float, ...]
    """Probability of each region tag among `ids`, in order, whatever constraint held."""
    ended: bool
    """Whether the model ended it; else it came to its limit or repeated itself."""
    lists: tuple[ListSteps, ...] = field(default=(), compare=False)
    """What each step of each list of regions thought, in the order of the lists."""


@dataclass(frozen=True)
class Ahead:
    """What a row is fed after the last token it wrote, before it is known whether it stands."""

    ids: tuple[int, ...]
    imposed: tuple[int, ...]
    """What has to come next, whatever the model says; the first of `ids`, unless cut at a limit."""
    asked: tuple[int, ...]
    """Whose successors the model is asked for: 0 for the last token written, then those ahead."""
    masks: tuple[npt.NDArray[np.int32], ...] | None
    """For each that is asked, a bit an id: whether it may come next. None allows all."""


@dataclass
class Row:
    """The state of one answer."""

    number: int
    prompt: Prompt
    lists: ListRecorder
    stop_id: int
    constraint: Constraint | None = None
    guesses: Guesses | None = None
    position: int = 0
    """Of the first token that it writes."""
    ids: list[int] = field(default_factory=list[int])
    tag_probabilities: list[float] = field(default_factory=list[float])
    ended: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing is to follow."""
        limit = self.prompt.max_new_tokens
        return self.ended or len(self.ids) >= limit or repeats_itself(self.ids)

    def ahead(self, most: int) -> Ahead:
        """What to feed along: what is imposed, then a guess of at most ``most`` tokens."""
        start = self.prompt.start[len(self.ids) :]
        room = self.prompt.max_new_tokens - len(self.ids) - 1
        ids = list(start)
        if self.guesses is not None and most > 0:
            ids += self.guesses.after(start, most)
        ids = ids[: max(room, 0)]
        masks = None
        if self.constraint is not None:
            ids, masks = self.constraint.ahead(ids, len(start))
        asked = [n for n in range(len(ids) + 1) if n >= len(start) or self._matters(start, n)]
        return Ahead(
            tuple(ids),
            start,
            tuple(asked),
            None if masks is None else tuple(masks[n] for n in asked),
        )

    def take(
        self, fed: Ahead, chosen: Sequence[int], sure: Sequence[float], chances: Tensor
    ) -> tuple[int, list[int]]:
        """Take what the model chose.

        Args:
            fed: What was fed.
            chosen: What comes next at each place that was asked.
            sure: Its probability, whatever constraint held.
            chances: What `lists.chances_of` gave for these places.

        Returns:
            How many of the tokens fed ahead stand, and the new ids.
        """
        places = {place: number for number, place in enumerate(fed.asked)}
        new: list[int] = []
        place = -1
        while True:
            place += 1
            number = places.get(place)
            if place < len(fed.imposed):
                id_ = fed.imposed[place]
            else:
                assert number is not None
                id_ = chosen[number]
            known = None if number is None else chances[number]
            self.lists.put(id_, len(self.ids), known)
            if self.constraint is not None:
                self.constraint.take(id_)
            if id_ == self.stop_id:
                self.ended = True
                return place, new
            self.ids.append(id_)
            new.append(id_)
            if self.guesses is not None:
                self.guesses.put(id_)
            if number is not None and id_ in self.lists.tokens.tags:
                self.tag_probabilities.append(sure[number])
            if self.over or place == len(fed.ids) or id_ != fed.ids[place]:
                return place, new

    def done(self) -> Generation:
        """What it wrote."""
        return Generation(
            tuple(self.ids), tuple(self.tag_probabilities), self.ended, self.lists.done()
        )

    def _matters(self, start: Sequence[int], place: int) -> bool:
        """Whether anybody wants to know what the model thinks of an imposed token."""
        return self.lists.would_want(start[:place]) or start[place] in self.lists.tokens.tags


def repeats_itself(ids: Sequence[int]) -> bool:
    """Whether the last `REPEATED_TOKENS` ids have a period of at most `LONGEST_REPEAT`."""
    if len(ids) < REPEATED_TOKENS or len(ids) % _LOOKED_EVERY:
        return False
    tail = ids[-REPEATED_TOKENS:]
    return any(tail[n:] == tail[:-n] for n in range(1, LONGEST_REPEAT + 1))
