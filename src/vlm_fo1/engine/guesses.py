"""What an answer is likely to go on with, so that it can be fed before it is known.

A guess costs a few columns of a pass and saves a pass for each token that is right. A wrong one
changes nothing: the model is asked at every place, and what it says stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vlm_fo1.engine.constraints import Grammar
from vlm_fo1.engine.lists import ListTokens


@dataclass
class Guesses:
    """Follows one answer.

    Args:
        grammar: Says how mentions begin.
        tokens: How lists are spelt.
    """

    grammar: Grammar
    tokens: ListTokens
    _written: list[int] = field(default_factory=list[int])
    """Since the last list, or in the list that is open."""
    _inside: bool = False
    _next: int = 0
    """The mention that is expected next."""
    _between: tuple[int, ...] = ()
    _lists: int = 0
    _named: int = 0
    """How many regions the last list names."""

    def __post_init__(self) -> None:
        self._between = self.grammar.between

    def copy(self) -> "Guesses":
        """The same state, to look ahead with."""
        twin = Guesses(self.grammar, self.tokens, list(self._written), self._inside, self._next)
        twin._between, twin._lists, twin._named = self._between, self._lists, self._named
        return twin

    def put(self, id_: int) -> None:
        """Take the next token of the answer."""
        self._written.append(id_)
        if self._inside and id_ == self.tokens.end:
            self._named = sum(written in self.tokens.tags for written in self._written)
            self._inside, self._lists = False, self._lists + 1
            self._written = []
        elif not self._inside and id_ == self.tokens.start:
            written = tuple(self._written)
            for number, head in enumerate(self.grammar.heads):
                if written[-len(head) :] == head:
                    if self._lists:
                        self._between = written[: -len(head)]
                    self._next = number + 1
                    break
            self._inside, self._written = True, []

    def after(self, start: Sequence[int], most: int) -> list[int]:
        """At most so many tokens that may follow what is written and ``start``."""
        state = self.copy()
        for id_ in start:
            state.put(id_)
        found: list[int] = []
        while len(found) < most:
            part = state.part()
            if not part:
                break
            found += part
            for id_ in part:
                state.put(id_)
        return found[:most]

    def part(self) -> Sequence[int]:
        """The next few tokens; none where nothing is likely."""
        written = tuple(self._written)
        return self._in_list(written) if self._inside else self._in_text(written)

    def _in_list(self, written: tuple[int, ...]) -> Sequence[int]:
        assert self.tokens.end is not None
        if any(id_ in self.tokens.tags for id_ in written):
            return [self.tokens.end]
        nothing, absent = self.grammar.nothing, self._lists > 0 and not self._named
        if (written or absent) and written == nothing[: len(written)]:
            return [*nothing[len(written) :], self.tokens.end]
        return []

    def _in_text(self, written: tuple[int, ...]) -> Sequence[int]:
        grammar = self.grammar
        if written and written[-1] in grammar.follows:
            return [grammar.follows[written[-1]]]
        if self._next < len(grammar.heads):
            for head in (*grammar.heads[self._next :], *grammar.heads[: self._next]):
                for length in range(min(len(written), len(head) - 1), 0, -1):
                    if written[-length:] == head[:length]:  # a mention that is begun
                        return head[length:]
            expected = (*(self._between if self._lists else ()), *grammar.heads[self._next])
            return expected[len(written) :] if written == expected[: len(written)] else ()
        if self._lists and self._named < len(grammar.tails):
            tail = grammar.tails[self._named]
            if not written:
                return tail
            if written[-1] in tail:  # what the model words otherwise may come back to it
                return tail[tail.index(written[-1]) + 1 :]
        return ()
