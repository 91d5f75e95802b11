"""Answers that obey a grammar: which ids may come next, row by row.

A grammar says what kinds of token follow each other; that no region stands twice in one list is no
matter of grammar, and is kept here.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
import numpy.typing as npt

from vlm_fo1.engine.lists import ListTokens

logger = logging.getLogger(__name__)

_KEPT = 64
"""Compiled grammars that are kept: images of a data set are often asked the same."""

Mask = npt.NDArray[np.int32]
"""A bit an id, whether it may come next."""


@dataclass(frozen=True)
class Grammar:
    """What an answer may be, and what is likely in it."""

    text: str
    """In llguidance's dialect of Lark; ``<[7]>`` is the token with id 7."""
    heads: tuple[tuple[int, ...], ...] = ()
    """Ids that likely mentions begin with, up to the opening of their list, in likely order."""
    between: tuple[int, ...] = ()
    """Ids that likely stand between mentions."""
    nothing: tuple[int, ...] = ()
    """Ids in the list of a label that nothing has."""
    tails: tuple[tuple[int, ...], ...] = ()
    """Ids that likely end an answer, by how many regions its last list names."""
    follows: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """From an id to the one that likely follows."""


class Matchers:
    """Makes the constraints of rows; one object for a tokenizer, threads may share it.

    Args:
        tokenizer: Of transformers.
        vocab_size: How many ids the model chooses among.
        tokens: How lists are spelt.
        stop_id: Ends an answer.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, tokens: ListTokens, stop_id: int) -> None:
        self.vocab_size = vocab_size
        self._hf, self._tokens, self._stop_id = tokenizer, tokens, stop_id
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._told = False
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def constraint(self, grammar: Grammar) -> "Constraint | None":
        """A row's own; None, with a warning once, where answers cannot be constrained."""
        with self._lock:
            base = self._compile(grammar.text) if self._usable() else None
            return (
                None
                if base is None
                else Constraint(base.deep_copy(), self.vocab_size, self._tokens)
            )

    def _usable(self) -> bool:
        if self._tokenizer is None and not self._told:
            try:
                if self._tokens.start is None or self._tokens.end is None:
                    raise ValueError("its markup is not one token each")
                self._tokenizer = llguidance.hf.from_tokenizer(
                    self._hf, n_vocab=self.vocab_size, eos_token=self._stop_id
                )
                self._check()
            except Exception as error:  # noqa: BLE001 - the library raises what its parser raises
                _warn("with this tokenizer", error)
                self._told = True
        return not self._told

    def _compile(self, text: str) -> Any:
        """None where this one grammar is beyond the library; others are not held against it."""
        if text not in self._compiled:
            try:
                self._compiled[text] = self._matcher(text)
            except Exception as error:  # noqa: BLE001 - the same
                _warn("to this question", error)
                self._compiled[text] = None
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(text)
        return self._compiled[text]

    def _matcher(self, text: str) -> Any:
        matcher = llguidance.LLMatcher(
            self._tokenizer, llguidance.LLMatcher.grammar_from_lark(text), log_level=0
        )
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def _check(self) -> None:
        """Refuse a tokenizer whose markup the library takes for text.

        Raises:
            ValueError: It is one.
        """
        ids = [self._tokens.start, self._tokens.tags[0], self._tokens.end]
        matcher = self._matcher("start: " + " ".join(f"<[{id_}]>" for id_ in ids))
        if matcher.try_consume_tokens(ids) != len(ids):
            raise ValueError("its markup counts as text")


def _warn(where: str, error: Exception) -> None:
    logger.warning(
        "answers %s cannot be constrained, they are what the model writes by itself "
        "(constrain=False says so): %s",
        where,
        str(error).partition("\n")[0],
    )


@dataclass
class Constraint:
    """What may come next in one row.

    Args:
        matcher: Follows the grammar.
        vocab_size: How many ids there are.
        tokens: How lists are spelt.
    """

    matcher: Any
    vocab_size: int
    tokens: ListTokens
    _used: tuple[int, ...] | None = None
    """Regions of the list that is open."""
    broken: bool = False
    """Whether something was written that the grammar does not know; then all is allowed."""

    def ahead(self, ids: Sequence[int], imposed: int) -> tuple[list[int], list[Mask]]:
        """What may follow each of some tokens that are about to be fed.

        Args:
            ids: They; cut before the first that may not be.
            imposed: So many of them are, whether they may or not.

        Returns:
            The ids, and a mask for what follows the tokens so far and then each of them.
        """
        before, taken = (self._used, self.broken), 0
        masks = [self._mask()]
        stand: list[int] = []
        for place, id_ in enumerate(ids):
            if place >= imposed and not _bit(masks[-1], id_):
                break
            taken += self._consume(id_)
            stand.append(id_)
            masks.append(self._mask())
        if taken:
            self.matcher.rollback(taken)
        self._used, self.broken = before
        return stand, masks

    def take(self, id_: int) -> None:
        """Note what was written."""
        self._consume(id_)

    def _consume(self, id_: int) -> int:
        """How many tokens the matcher took, one or none."""
        if id_ == self.tokens.start:
            self._used = ()
        elif id_ == self.tokens.end:
            self._used = None
        elif self._used is not None and id_ in self.tokens.tags:
            self._used = (*self._used, id_)
        if self.broken or self.matcher.is_stopped():
            return 0
        if self.matcher.try_consume_tokens([id_]) == 1:
            return 1
        self.broken = True
        return 0

    def _mask(self) -> Mask:
        words = -(-self.vocab_size // 32)
        if not (self.broken or self.matcher.is_error() or self.matcher.is_stopped()):
            mask = np.zeros((1, words), np.int32)
            llguidance.numpy.fill_next_token_bitmask(self.matcher, mask, 0)
            for id_ in self._used or ():
                mask[0, id_ // 32] &= ~np.int32(np.uint32(1 << id_ % 32).view(np.int32))
            if mask.any():
                return mask[0]
        return np.full(words, -1, np.int32)


def _bit(mask: Mask, id_: int) -> bool:
    return bool(mask[id_ // 32] >> (id_ % 32) & 1)
