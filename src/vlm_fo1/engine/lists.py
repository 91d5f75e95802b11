"""Lists of regions in what a row writes, and what each of their steps thought.

Shapes: B rows, V vocabulary, N offered regions, S steps of a list.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class ListTokens:
    """How a list of regions is spelt in ids."""

    tags: tuple[int, ...]
    """By region number."""
    start: int | None = None
    """Opens a list; None where that is not one token, so that no list is followed."""
    end: int | None = None
    """Closes it."""
    none: tuple[int, ...] = ()
    """First tokens of what stands in the list of a label that nothing has."""


@dataclass(frozen=True)
class ListSteps:
    """One list of regions that a row wrote."""

    at: int
    """Position in the row's ids of the first token after the one that opens the list."""
    tags_SN: npt.NDArray[np.float32]
    """Probability of each offered region's tag at each step, over the whole vocabulary, whatever
    constraint held: at the step that writes the first token, and at one after each tag, up to the
    step that closes the list. What stands between regions counts as no step."""
    none: float
    """Probability at the first step that nothing is there."""


@dataclass
class ListRecorder:
    """Follows the lists of one row, token by token.

    Args:
        tokens: How lists are spelt.
        regions: How many of the tags are offered.
    """

    tokens: ListTokens
    regions: int
    _steps: list[tuple[int, list[Tensor]]] = field(default_factory=list[tuple[int, list[Tensor]]])
    _inside: bool = False
    _over: bool = False
    """Whether the open list is one of nothing."""
    _between: bool = False
    """Whether the last step wrote what stands between regions."""

    @property
    def wants_step(self) -> bool:
        """Whether the next token is written by a step of a list."""
        return self._inside and not self._over

    def would_want(self, ids: Sequence[int]) -> bool:
        """What `wants_step` will be after some more tokens."""
        inside, over = self._inside, self._over
        for id_ in ids:
            over = over or (inside and (id_ == self.tokens.end or id_ in self.tokens.none))
            if id_ == self.tokens.end:
                inside = False
            elif id_ == self.tokens.start and not inside:
                inside, over = True, False
        return inside and not over

    def put(self, id_: int, at: int, chances: Tensor | None) -> None:
        """Take the next token.

        Args:
            id_: Its id.
            at: Its position in the row's ids.
            chances: What `chances_of` gave for its step; needed where `wants_step` was true.
        """
        if self.wants_step:
            assert chances is not None
            steps = self._steps[-1][1]
            if self._between and steps:
                steps.pop()
            steps.append(chances)
            ended = id_ == self.tokens.end
            self._over = ended or id_ in self.tokens.none
            self._between = not self._over and id_ not in self.tokens.tags
        if id_ == self.tokens.end:
            self._inside = False
        elif id_ == self.tokens.start and not self._inside:
            self._inside, self._over, self._between = True, False, False
            self._steps.append((at + 1, []))

    def done(self) -> tuple[ListSteps, ...]:
        """The lists so far, in order; those without a step are left out."""
        found: list[ListSteps] = []
        for at, steps in self._steps:
            if steps:
                table = torch.stack(steps).float().cpu().numpy()
                found.append(ListSteps(at, table[:, : self.regions], float(table[0, -1])))
        return tuple(found)


def chances_of(log_total_R: Tensor, logits_RV: Tensor, tokens: ListTokens) -> Tensor:
    """Probability of each tag, and last of nothing being there: (R, tags + 1).

    Args:
        log_total_R: Logarithm of the sum over the vocabulary.
        logits_RV: What the model gave at each of R places.
        tokens: How lists are spelt.
    """
    every = [*tokens.tags, *tokens.none]
    wanted = torch.tensor(every, dtype=torch.long, device=logits_RV.device)
    chances = (logits_RV[:, wanted] - log_total_R[:, None]).exp()
    tags = len(tokens.tags)
    return torch.cat([chances[:, :tags], chances[:, tags:].sum(-1, keepdim=True)], dim=-1)
