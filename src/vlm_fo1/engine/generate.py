"""Greedy decoding of any number of prompts: rows start, write, stream and end by themselves.

Each pass feeds every row the last token it wrote and what is likely to follow (`Guesses`), and asks
the model at each of these places: what it says is what stands, so the guess saves passes and
changes nothing. Where a row ends, the next prompt takes its place with the following pass.

Shapes: B lanes, Q new columns, T columns, D width, R places that are asked, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_fo1.engine.choice import choose
from vlm_fo1.engine.constraints import Matchers
from vlm_fo1.engine.guesses import Guesses
from vlm_fo1.engine.lanes import BLANK, NOBODY, Lane, Lanes, Owners, Sharing, sharing_of
from vlm_fo1.engine.lists import ListRecorder, ListTokens
from vlm_fo1.engine.prefix import Prefix
from vlm_fo1.engine.rows import Ahead, Generation, OnId, Prompt, Row
from vlm_fo1.model.generation import CACHE
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.splice import EmbeddedPrompt, cut_prompt


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


@dataclass
class Fed:
    """What one row is fed in one pass."""

    row: Row
    ids: tuple[int, ...]
    """The last token it wrote, or the rest of its prompt, without what is ahead."""
    ahead: Ahead
    position: int
    """Of the first of them."""
    embedded: EmbeddedPrompt | None = None
    """Of a prompt that places images: what `ids` are."""

    def __len__(self) -> int:
        return len(self.ids) + len(self.ahead.ids)


class Decoder:
    """Decodes prompts on one model.

    Args:
        model: The network.
        tokens: How lists of regions are spelt.
        stop_id: Ends a row.
        matchers: Make the constraints of prompts that have a grammar.
        limits: How much goes into one pass.
        sharing: How rows share passes; by default as the model allows.
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
        on_id: OnId | None = None,
    ) -> None:
        self.model, self.tokens, self.stop_id = model, tokens, stop_id
        self.matchers, self.limits, self.on_id = matchers, limits, on_id
        self.lanes = Lanes(sharing_of(model) if sharing is None else sharing)
        if self.lanes.sharing == "alone":
            self.limits = replace(limits, lanes=1, rows=1, ahead=0)
        self._new: set[int] = set()
        """Numbers of the rows that have not been fed their prompts."""

    def run(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Continue prompts; they are read as rows are free.

        Yields:
            Number and generation of each, as they end.
        """
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
        owners_BQ, inputs = self._inputs(fed)
        mask = self.lanes.mask(owners_BQ, self.model)
        columns, places = _asked_at(fed, owners_BQ.shape[1])
        output = self.model(
            **inputs,
            **{CACHE: self.lanes.cache},
            attention_mask=mask,
            use_cache=True,
            logits_to_keep=torch.tensor(columns, device=self.model.device),
        )
        lanes_R, kept_R = (
            torch.tensor(part, device=output.logits.device) for part in zip(*places, strict=True)
        )
        every = [one for lane in fed for one in lane]
        ids, sure, chances = choose(
            output.logits[lanes_R, kept_R].float(), [(one.row, one.ahead) for one in every],
            self.tokens,
        )  # fmt: skip
        first = 0
        for lane, some in enumerate(fed):
            column = owners_BQ.shape[1] - sum(map(len, some))
            for one in some:
                part = slice(first, first + len(one.ahead.asked))
                first = part.stop
                stand, new = one.row.take(one.ahead, ids[part], sure[part], chances[part])
                owners_BQ[lane, column + len(one.ids) + stand : column + len(one)] = NOBODY
                column += len(one)
                self._tell(one.row, new)
        self.lanes.fed(output[CACHE], owners_BQ)
        over = [row for row in rows if row.over]
        self.lanes.leave(over)
        return over

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

    def _inputs(self, fed: Sequence[Sequence[Fed]]) -> tuple[Owners, dict[str, Any]]:
        """The new columns' owners, and what the model gets; tokens stand at the right."""
        columns = max(sum(map(len, lane)) for lane in fed)
        owners_BQ = np.full((len(fed), columns), BLANK, np.int64)
        ids_BQ = np.zeros((len(fed), columns), np.int64)
        positions_BQ = np.zeros((len(fed), columns), np.int64)
        images: list[tuple[int, slice, EmbeddedPrompt]] = []
        for lane, some in enumerate(fed):
            column = columns - sum(map(len, some))
            for one in some:
                part = slice(column, column + len(one))
                owners_BQ[lane, part] = one.row.number + 1
                ids_BQ[lane, part] = (*one.ids, *one.ahead.ids)
                positions_BQ[lane, part] = np.arange(one.position, one.position + len(one))
                if one.embedded is not None:
                    own = slice(column, column + len(one.ids))
                    images.append((lane, own, one.embedded))
                column = part.stop
        device = self.model.device
        axes = self.lanes.lanes[0].known.axes
        positions = torch.from_numpy(positions_BQ).to(device)
        if axes:
            positions = positions.expand(axes, -1, -1)
        ids = torch.from_numpy(ids_BQ).to(device)
        embeds = self.model.get_input_embeddings()(ids)
        inputs: dict[str, Any] = {"inputs_embeds": embeds, "position_ids": positions}
        if images:
            inputs |= _with_images(embeds, positions, images)
        return owners_BQ, inputs


def _with_images(
    embeds_BQD: Tensor,
    positions: Tensor,
    images: Sequence[tuple[int, slice, EmbeddedPrompt]],
) -> dict[str, Any]:
    """Put prompts that place images where they stand among the others."""
    embeds_BQD, positions = embeds_BQD.clone(), positions.clone()
    inputs: dict[str, Any] = {"inputs_embeds": embeds_BQD, "position_ids": positions}
    for lane, part, prompt in images:
        embeds_BQD[lane, part] = prompt["inputs_embeds"][0]
        positions[..., lane, part] = prompt["position_ids"][..., 0, :]
        if "deepstack_embeds" in prompt:
            deep = prompt["deepstack_embeds"]
            blank = deep.new_zeros(*embeds_BQD.shape[:2], *deep.shape[2:])
            inputs.setdefault("deepstack_embeds", blank)[lane, part] = deep[0]
    return inputs


def _asked_at(
    fed: Sequence[Sequence[Fed]], columns: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """The columns whose logits are needed, and lane and place among them of each that is asked."""
    found: list[tuple[int, int]] = []
    for lane, some in enumerate(fed):
        column = columns - sum(map(len, some))
        for one in some:
            last = column + len(one.ids) - 1
            found += [(lane, last + place) for place in one.ahead.asked]
            column += len(one)
    needed = sorted({column for _, column in found})
    place_of = {column: place for place, column in enumerate(needed)}
    return needed, [(lane, place_of[column]) for lane, column in found]
