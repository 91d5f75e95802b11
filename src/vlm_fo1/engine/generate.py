"""Greedy decoding of any number of prompts: rows start, write, stream and end by themselves.

Each pass feeds every row the last token it wrote and what is likely to follow (`Guesses`), and asks
the model at each of these places: what it says is what stands, so the guess saves passes and
changes nothing. Where a row ends, the next prompt takes its place with the following pass.

Shapes: B lanes, Q new columns, T columns, D width, R places that are asked, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from vlm_fo1.engine.choice import choose
from vlm_fo1.engine.constraints import Matchers
from vlm_fo1.engine.feeding import Fed
from vlm_fo1.engine.guesses import Guesses
from vlm_fo1.engine.lanes import Lane, Lanes, Sharing, sharing_of
from vlm_fo1.engine.lists import ListRecorder, ListTokens
from vlm_fo1.engine.prefix import Prefix
from vlm_fo1.engine.rows import Generation, OnId, Prompt, Row
from vlm_fo1.engine.static import StaticLanes
from vlm_fo1.engine.steps import Steps
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.splice import cut_prompt


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much goes into one pass."""

    lanes: int = 16
    """Prefixes side by side; each holds its keys and values."""
    rows: int = 128
    """Rows in all of them."""
    tokens: int = 2048
    """Tokens of prompts that begin together."""
    asked: int = 256
    """Places at which the model is asked; what rows and their guesses share."""
    ahead: int = 24
    """Longest guess of a row."""


class Decoder:
    """Decodes prompts on one model.

    Args:
        model: The network.
        tokens: How lists of regions are spelt.
        stop_id: Ends a row.
        matchers: Make the constraints of prompts that have a grammar.
        limits: How much goes into one pass.
        sharing: How rows share passes; by default as the model allows.
        steps: Memory for captured passes, where rows are packed and no other decoder has it.
        on_id: See `OnId`; what it raises ends all rows and frees what they hold.
    """

    def __init__(
        self,
        model: FO1ForConditionalGeneration,
        *,
        tokens: ListTokens,
        stop_id: int,
        matchers: Matchers | None,
        limits: Limits,
        sharing: Sharing | None = None,
        steps: Steps | None = None,
        on_id: OnId | None = None,
    ) -> None:
        self.model, self.tokens, self.stop_id = model, tokens, stop_id
        self.matchers, self.limits, self.on_id = matchers, limits, on_id
        self.steps = steps
        self.lanes: Lanes | StaticLanes = Lanes(
            model, sharing_of(model) if sharing is None else sharing
        )
        if self.lanes.sharing == "alone":
            self.limits = replace(limits, lanes=1, rows=1, ahead=0)
        self._new: set[int] = set()
        """Numbers of the rows that have not been fed their prompts."""

    def run(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Continue prompts; they are read as rows are free.

        Yields:
            Number and generation of each, as they end.
        """
        if self.steps is None or self.lanes.sharing != "packed" or not self.steps.borrow():
            yield from self._run(prompts)
            return
        try:
            self.lanes = StaticLanes(self.steps)
            yield from self._run(prompts)
        finally:
            self.steps.give_back()

    def _run(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Generation]]:
        waiting = enumerate(prompts)
        following = next(waiting, None)
        while following is not None or self.lanes.lanes:
            fresh: list[Lane] = []
            tokens = 0
            while following is not None and self._has_room(following[1], fresh, tokens):
                tokens += len(following[1].ids)
                self._admit(*following, fresh)
                following = next(waiting, None)
            for row in self._pass(fresh):
                yield row.number, row.done()

    def _has_room(self, prompt: Prompt, fresh: Sequence[Lane], tokens: int) -> bool:
        lanes = [*self.lanes.lanes, *fresh]
        rows = sum(len(lane.rows) for lane in lanes)
        if rows == 0:
            return True
        if rows >= self.limits.rows or tokens + len(prompt.ids) > self.limits.tokens:
            return False
        return self._lane(prompt.prefix, fresh) is not None or len(lanes) < self.limits.lanes

    def _lane(self, prefix: Prefix, fresh: Sequence[Lane]) -> Lane | None:
        lanes = [*self.lanes.lanes, *fresh] if self.lanes.sharing == "packed" else []
        return next((lane for lane in lanes if lane.prefix is prefix), None)

    @torch.inference_mode()
    def _admit(self, number: int, prompt: Prompt, fresh: list[Lane]) -> None:
        lane = self._lane(prompt.prefix, fresh)
        if lane is None:
            lane = Lane(prompt.prefix, prompt.prefix.known(prompt.ids))
            fresh.append(lane)
        constraint = guesses = None
        if prompt.grammar is not None and self.matchers is not None:
            constraint = self.matchers.constraint(prompt.grammar)
        if constraint is not None and prompt.grammar is not None:
            guesses = Guesses(prompt.grammar, self.tokens)
        recorder = ListRecorder(self.tokens, prompt.regions)
        row = Row(number, prompt, recorder, self.stop_id, constraint, guesses)
        lane.rows.append(row)
        self._new.add(number)

    @torch.inference_mode()
    def _pass(self, fresh: Sequence[Lane]) -> list[Row]:
        """Feed all rows, let them take what the model says, and part from those that are over.

        Args:
            fresh: Lanes that begin with it.

        Returns:
            The rows that are over.
        """
        self.lanes.add(fresh)
        rows = self.lanes.rows
        most = min(self.limits.ahead, self.limits.asked // len(rows) - 1)
        fed = [[self._fed(row, lane, most) for row in lane.rows] for lane in self.lanes.lanes]
        every = [one for lane in fed for one in lane]
        steps = self._steps(every)
        logits_RV, chosen_R = self.lanes.feed(fed, steps)
        if chosen_R is not None:
            for one in every:
                one.ahead = replace(one.ahead, asked=tuple(range(steps)))
        asked = [(one.row, one.ahead) for one in every]
        ids, sure, chances = choose(logits_RV, asked, self.tokens, chosen_R)
        stands: list[int] = []
        first = 0
        for one in every:
            part = slice(first, first := first + len(one.ahead.asked))
            if chosen_R is not None:
                one.ahead = replace(one.ahead, ids=tuple(ids[part][:-1]))
            stand, new = one.row.take(one.ahead, ids[part], sure[part], chances[part])
            stands.append(stand)
            self._tell(one.row, new)
        self.lanes.keep(stands)
        over = [row for row in rows if row.over]
        self.lanes.leave(over)
        return over

    def _steps(self, every: Sequence[Fed]) -> int:
        """How many passes may follow each other before the host looks at what was written."""
        if any(
            one.row.constraint is not None or one.ahead.imposed or len(one) > 1 for one in every
        ):
            return 1
        room = max(one.row.prompt.max_new_tokens - len(one.row.ids) for one in every)
        return max(min(self.lanes.burst, room, self.limits.asked // len(every)), 1)

    def _tell(self, row: Row, new: Sequence[int]) -> None:
        if self.on_id is not None:
            for id_ in new:
                self.on_id(row.number, id_)
            if row.over:
                self.on_id(row.number, None)

    def _fed(self, row: Row, lane: Lane, most: int) -> Fed:
        ahead = row.ahead(most)
        if row.number not in self._new:
            return Fed(row, (row.ids[-1],), ahead, row.position + len(row.ids) - 1)
        self._new.remove(row.number)
        ids, prefix = row.prompt.ids, row.prompt.prefix
        config = self.model.config
        if config.image_token_id not in ids:
            row.position = lane.known.position + len(ids)
            return Fed(row, ids, ahead, lane.known.position)
        embedded = cut_prompt(prefix.embed(ids), len(prefix.ids), None)
        row.position = int(embedded["position_ids"][..., -1].max()) + 1
        return Fed(row, ids, ahead, row.position - len(ids), embedded)
