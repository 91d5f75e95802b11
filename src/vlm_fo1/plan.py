"""A request as prompts, and the answer as it is read from what the model wrote for them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import TextStreamer

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.engine import Generation, Grammar
from vlm_fo1.errors import PromptError
from vlm_fo1.grammar import grammar_of
from vlm_fo1.markup import renumbered
from vlm_fo1.merging import fill_scores, merge_answers, merge_groups
from vlm_fo1.parser import parse
from vlm_fo1.processing import FO1Processor
from vlm_fo1.regions import Regions
from vlm_fo1.scores import ListScore, Over, list_scores, presence
from vlm_fo1.tasks import Question, Request, Task, in_groups, questions_of
from vlm_fo1.tiling import Window

LEAST_ROOM = 64
"""A prompt that leaves fewer tokens of the model's context for the answer is refused, unless the
answer may not be that long anyway."""

Scoring = Literal["joint", "branches"] | None
"""How each label and region gets a number: *joint* asks one question about all labels and reads the
lists of its answer, then the list of each label that it did not mention, which is begun for it;
*branches* asks about each label by itself, its list begun for it, side by side; None leaves scores
out. What the numbers are stands in `vlm_fo1.scores`."""

OnText = Callable[[str], None]
"""Gets the text of an answer as it is written."""


@dataclass(frozen=True)
class Draft:
    """One prompt before anything is encoded."""

    window: Window
    question: Question
    ids: tuple[int, ...]
    """Token ids after image and regions."""
    limit: int
    """Greatest number of new tokens."""
    head: str
    """What stands before its answer in the text of the whole."""
    start: tuple[int, ...] = ()
    """Token ids that the answer shall begin with."""
    grammar: Grammar | None = None
    """What the answer may be."""
    scores: int | None = None
    """The draft whose answer gets the scores that its list gives, while its words are no part of
    the whole; None for one whose words are."""


@dataclass(frozen=True)
class Plan:
    """What is asked of which part of an image."""

    request: Request
    processor: FO1Processor
    regions: Regions
    """All that were offered."""
    drafts: tuple[Draft, ...]
    """Window by window; in each, question by question."""
    questions: int
    """How many a window is asked."""
    notes: tuple[str, ...]
    """What the answer's ``problems`` shall say first."""
    max_new_tokens: int
    context: int | None = None
    """Tokens that prompt and answer may have together; None where nobody says."""
    more_images: tuple[Image.Image, ...] = ()
    """Further images of each prompt."""
    constrain: bool = True
    scores: Scoring = None
    over: Over = "largest"
    """How the steps of a list become one score a region."""

    def with_branches(self, done: Sequence[Generation]) -> "Plan":
        """The same plan with one more draft for each label asked for that no list speaks of.

        Args:
            done: What the model wrote, a generation a draft.
        """
        if self.scores is None or not self.request.labels or self._list_start is None:
            return self
        more: list[Draft] = []
        for number, (draft, written) in enumerate(zip(self.drafts, done, strict=True)):
            if not draft.window.indices:
                continue
            part = self._part(draft, written)
            for question in in_groups(draft.question, 1):
                if np.isnan(part.scores_of(question.labels[0])).all():
                    with suppress(PromptError):  # no room for it: its scores stay unknown
                        branch = self.draft(draft.window, question, begun=True)
                        more.append(replace(branch, limit=_listing(branch), scores=number))
        return replace(self, drafts=(*self.drafts, *more))

    def draft(
        self, window: Window, question: Question, head: str = "", *, begun: bool = False
    ) -> Draft:
        """One prompt of the plan.

        Args:
            window: What it is asked of.
            question: What is asked.
            head: See `Draft.head`.
            begun: Whether the list of its one label is begun for the model.

        Raises:
            PromptError: A region that is not shown, or a prompt that is too long.
        """
        ids, before = _ids_of(
            question, self.processor, self.regions, window, self.more_images, self.request.system
        )
        start: tuple[int, ...] = ()
        if begun:
            start = tuple(self.processor.encode_list_start(question.labels[0]))
        room = room_for(before + len(ids) + len(start), self.max_new_tokens, self.context)
        shown = len(window.indices)
        grammar = None
        if self.constrain:
            grammar = grammar_of(question, self.processor, shown, begun=begun)
        return Draft(window, question, ids, len(start) + room, head, start, grammar)

    @property
    def _list_start(self) -> int | None:
        """The token that opens a list of regions; None where that is not one token."""
        return self.processor.whole_id(self.processor.vocabulary.objects[0])

    def read(self, done: Sequence[Generation]) -> Answer:
        """The answer.

        Args:
            done: What the model wrote, a generation a draft.

        Returns:
            About all of `regions`, with their numbers in its text; times are left out.
        """
        pairs = [*zip(self.drafts, done, strict=True)]
        parts = [self._part(*pair) for pair in pairs if pair[0].scores is None]
        for number, part in enumerate(parts):
            branches = [self._part(*pair) for pair in pairs if pair[0].scores == number]
            parts[number] = fill_scores(part, branches) if branches else part
        if self.request.spec.per_region:
            return self._about_each(parts)
        counting = self.request.task == Task.COUNTING
        groups = [parts[number :: self.questions] for number in range(self.questions)]
        if len(groups) > 1:
            merged = [merge_answers(part) if len(part) > 1 else part[0] for part in groups]
            return merge_groups(merged, notes=self.notes, counting=counting)
        if len(parts) > 1:
            return merge_answers(parts, notes=self.notes, counting=counting)
        return replace(parts[0], problems=(*self.notes, *parts[0].problems))

    def with_offered_numbers(self, text: str, window: Window) -> str:
        """A text of the model with its numbers turned into positions in `regions`."""
        numbers = window.indices
        shown, beyond = len(numbers), len(self.regions) - len(numbers)
        return renumbered(
            text,
            lambda own: numbers[own] if own < shown else own + beyond,  # stays beyond the last
            self.processor.vocabulary,
        )

    def _part(self, draft: Draft, done: Generation) -> Answer:
        return parse(
            self.with_offered_numbers(self.processor.decode(done.ids), draft.window),
            self.regions,
            draft.question,
            vocabulary=self.processor.vocabulary,
            tag_confidence=done.tag_probabilities,
            lists=self._lists(draft, done),
            cut=_cut(done, draft, self.max_new_tokens),
        )

    def _lists(self, draft: Draft, done: Generation) -> dict[int, ListScore] | None:
        """What the lists of an answer say of all regions, by their opening in its text."""
        if self.scores is None or self._list_start is None:
            return None
        found: dict[int, ListScore] = {}
        for steps in done.lists:
            scores = np.full(len(self.regions), np.nan, np.float32)
            scores[list(draft.window.indices)] = list_scores(steps.tags_SN, self.over)
            opened = done.ids[: steps.at].count(self._list_start) - 1
            found[opened] = ListScore(scores, presence(steps.tags_SN[0], steps.none))
        return found

    def _about_each(self, parts: Sequence[Answer]) -> Answer:
        """The words about each region become its label."""
        words = [part.plain for part in parts]
        asked = self.request.regions
        problems = [
            f"region {index}: {problem}"
            for index, part in zip(asked, parts, strict=True)
            for problem in part.problems
        ]
        heads = [draft.head for draft in self.drafts]
        return Answer(
            text="".join(head + part.text for head, part in zip(heads, parts, strict=True)),
            regions=self.regions,
            mentions=tuple(
                Mention(word, (index,)) for word, index in zip(words, asked, strict=True)
            ),
            task=self.request.task,
            plain="\n".join(words),
            problems=(*self.notes, *problems),
        )


def make_plan(
    request: Request,
    processor: FO1Processor,
    regions: Regions,
    windows: Sequence[Window],
    *,
    notes: Sequence[str],
    more_images: Sequence[Image.Image] = (),
    max_new_tokens: int,
    constrain: bool = True,
    scores: Scoring = None,
    context: int | None,
) -> Plan:
    """Which prompts a request is; nothing is encoded yet.

    Args:
        request: Its region numbers are positions in ``regions``.
        processor: Writes the prompts.
        regions: All that were offered.
        windows: Which of them, and which part of the image, go together.
        notes: What the answer's ``problems`` shall say first.
        more_images: Further images of the prompt.
        max_new_tokens: Length limit of each answer.
        constrain: See `vlm_fo1.fo1.FO1`.
        scores: See `vlm_fo1.fo1.FO1`.
        context: Tokens that prompt and answer may have together; None where nobody says.

    Returns:
        The plan: a draft for each window and question, more questions where there are more labels
        than one holds.

    Raises:
        PromptError: A region that is not there or not shown, or a prompt that is too long.
    """
    check_scoring(scores)
    vocabulary = processor.vocabulary
    begun = False
    asked = questions_of(request, len(regions), vocabulary, processor.reserved_tokens())
    if len(asked) == 1 and asked[0].labels:
        notes = [*notes, *asked[0].notes]
        labels = len(asked[0].labels)
        begun = scores == "branches" and request.spec.takes == "labels"
        asked = in_groups(replace(asked[0], notes=()), 1 if begun else vocabulary.max_labels)
        if len(asked) > 1 and not begun:
            said = (
                f"{labels} labels were asked for, one question holds {vocabulary.max_labels}: "
                f"{len(asked)} questions were asked and their answers merged"
            )
            notes = [*notes, said]
    plan = Plan(
        request,
        processor,
        regions,
        (),
        len(asked),
        tuple(notes),
        max_new_tokens,
        context,
        tuple(more_images),
        constrain,
        scores,
    )
    drafts: list[Draft] = []
    for window in windows:
        for number, question in enumerate(asked):
            head = "\n" if drafts else ""
            if request.spec.per_region:
                head += f"{vocabulary.tag(request.regions[number])}: "
            drafts.append(plan.draft(window, question, head, begun=begun))
    return replace(plan, drafts=tuple(drafts))


def _ids_of(
    question: Question,
    processor: FO1Processor,
    regions: Regions,
    window: Window,
    more_images: Sequence[Image.Image],
    system: str | None,
) -> tuple[tuple[int, ...], int]:
    """A question as ids, and how many ids stand before them.

    Raises:
        PromptError: The window lacks a region of the question.
    """
    own = {number: place for place, number in enumerate(window.indices)}

    def own_number(number: int) -> int:
        if number not in own:
            raise PromptError(
                f"region {number} is not among the {len(own)} of {len(regions)} regions that one "
                "question holds: offer fewer regions"
            )
        return own[number]

    left, top, right, bottom = window.area
    tokens_of = processor.image_processor.tokens_of
    before = processor.encode_prefix(
        len(own), tokens_of((right - left, bottom - top)), system=system
    )
    ids = processor.encode_question(
        renumbered(question.text, own_number, processor.vocabulary),
        len(own),
        more_images=[tokens_of(image.size) for image in more_images],
    )
    return tuple(ids), len(before)


def room_for(prompt_tokens: int, max_new_tokens: int, context: int | None) -> int:
    """How many tokens an answer may have.

    Args:
        prompt_tokens: Tokens of the prompt.
        max_new_tokens: What was asked for.
        context: Tokens that the model holds; None where nobody says.

    Raises:
        PromptError: The prompt leaves too little of the context.
    """
    if context is None:
        return max_new_tokens
    least = min(max_new_tokens, LEAST_ROOM)
    if prompt_tokens + least > context:
        raise PromptError(
            f"the prompt has {prompt_tokens} tokens, and the model's context of {context} "
            f"holds at most {context - least} with room for an answer: ask in fewer words, or "
            "show fewer regions or a smaller image"
        )
    return min(max_new_tokens, context - prompt_tokens)


def _listing(branch: Draft) -> int:
    """Tokens for a list that names every region once, closes, and ends the answer."""
    return min(branch.limit, len(branch.start) + len(branch.window.indices) + 2)


def _cut(done: Generation, draft: Draft, max_new_tokens: int) -> str:
    """Why an answer ended before the model did; empty when it did not."""
    if done.ended:
        return ""
    if len(done.ids) < draft.limit:
        return f"the answer repeated itself and was ended after {len(done.ids)} tokens"
    room = draft.limit - len(draft.start)
    if room < max_new_tokens:
        return (
            f"the answer was cut after {room} tokens, where the model's context ends: "
            "ask in fewer words, or show fewer regions"
        )
    return "the answer was cut at max_new_tokens: raise it to get the rest"


class PlanWriter:
    """Hands the text of a plan on as it is written, draft by draft in their order.

    Args:
        plan: What is written.
        on_text: Gets the text; together the pieces are that of the answer.
    """

    def __init__(self, plan: Plan, on_text: OnText) -> None:
        self._on_text = on_text
        self._waiting = [[draft.head] for draft in plan.drafts]
        self._rows = [self._row(plan, number) for number in range(len(plan.drafts))]
        self._first = 0
        """The draft whose text is handed on; later ones wait."""

    def put(self, number: int, id_: int | None) -> None:
        """Take the next token of a draft, None when it is over."""
        if id_ is None:
            self._rows[number].end()
        else:
            self._rows[number].put(torch.tensor([id_]))

    def _row(self, plan: Plan, number: int) -> "_TextPieces":
        window = plan.drafts[number].window

        def take(text: str, *, over: bool) -> None:
            self._waiting[number].append(plan.with_offered_numbers(text, window))
            if over:
                self._rows[number].over = True
            self._hand_on()

        return _TextPieces(plan.processor, take)

    def _hand_on(self) -> None:
        while self._first < len(self._rows):
            for piece in self._waiting[self._first]:
                if piece:
                    self._on_text(piece)
            self._waiting[self._first].clear()
            if not self._rows[self._first].over:
                return
            self._first += 1


class _TextPieces(TextStreamer):
    """The text of one row, cut at spaces: tags come whole, the stop token is left out."""

    def __init__(self, processor: FO1Processor, take: Callable[..., None]) -> None:
        super().__init__(
            processor.tokenizer, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        self.over = False
        self._take = take

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by the parent with each finished piece."""
        self._take(text, over=stream_end)


def check_writing(max_new_tokens: Any, on_text: Any, scores: Any = None) -> None:
    """Refuse what no answer can be written with.

    Raises:
        PromptError: A limit that is no whole number from 1, nothing to call, or no way to score.
    """
    check_scoring(scores)
    whole = isinstance(max_new_tokens, int) and not isinstance(max_new_tokens, bool)
    if not whole or max_new_tokens < 1:
        raise PromptError(
            f"max_new_tokens is {max_new_tokens!r}, at least 1 is needed: a whole number"
        )
    if on_text is not None and not callable(on_text):
        raise PromptError(f"on_text is {on_text!r}: something to call with text is needed")


def check_scoring(scores: Any) -> None:
    """Refuse a way to score that does not exist.

    Raises:
        PromptError: It is none of `Scoring`.
    """
    if scores not in ("joint", "branches", None):
        raise PromptError(f"scores is {scores!r}: 'joint', 'branches' or None is needed")
