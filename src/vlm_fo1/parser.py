"""Model text and regions in, `Answer` out. Total: model output is data and never raises."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.markup import RELEASED, Scan, Vocabulary, scan
from vlm_fo1.regions import Floats, Regions
from vlm_fo1.scores import ListScore
from vlm_fo1.tasks import Question, Task

ARTICLES = ("a", "an", "the")
_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_DIGITS = re.compile(r"(?<!\w)(?<!\d\.)(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,9})(?!\w|\.\d)")
_WORDS = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(_TENS)})(?:[- ](?P<ones>{'|'.join(_UNITS[1:10])}))?"
    rf"|(?P<units>{'|'.join(_UNITS)}))\b"
)


def parse(
    text: str,
    regions: Regions,
    question: Question,
    *,
    vocabulary: Vocabulary = RELEASED,
    tag_confidence: Sequence[float] | None = None,
    lists: Mapping[int, ListScore] | None = None,
    cut: str = "",
) -> Answer:
    """Tie a model's text to the regions it was shown.

    Args:
        text: What the model wrote, special tokens kept, the end-of-turn token removed.
        regions: The regions the model was shown, in order of their numbers.
        question: What was asked.
        vocabulary: How the checkpoint spells its markup.
        tag_confidence: One probability per region tag in ``text``, in order; None if not recorded.
        lists: What the lists of regions in ``text`` say of every region, by the number of their
            opening, from 0; None leaves scores out.
        cut: Why the text ended before the model did, empty when it did not.

    Returns:
        The answer. ``problems`` lists regions that do not exist, repeats, unclosed or stray markup,
        truncation, labels that nobody asked for, and a stated count that differs from the regions
        chosen. A label that was asked for is spelt as it was asked, whatever article, number or
        case the text gives it. An empty text is an answer without mentions.
    """
    found = scan(text, vocabulary)
    problems = [*question.notes, *found.problems]
    if cut:
        problems.append(cut)
    if tag_confidence is not None and len(tag_confidence) != found.tags:
        problems.append(
            f"{len(tag_confidence)} region scores for {found.tags} region tags: scores left out"
        )
        tag_confidence = None
    said = _mentions(found, len(regions), question.labels, tag_confidence, problems)
    mentions = tuple(mention for mention, _ in said)
    scores, presence = None, {}
    if lists is not None:
        scores, presence = _scored(said, lists, question.labels, len(regions))
    plain, thought = split_thought(found.plain, vocabulary)
    count = _count(plain, mentions, question, problems)
    return Answer(
        text=text,
        regions=regions,
        mentions=mentions,
        task=str(question.task),
        labels=question.labels,
        spelt=question.spelt,
        plain=plain,
        thought=thought,
        count=count,
        scores=scores,
        presence=presence,
        problems=tuple(problems),
    )


def split_thought(plain: str, vocabulary: Vocabulary = RELEASED) -> tuple[str, str]:
    """Part what was thought aloud from what was answered.

    Args:
        plain: Text without region markup.
        vocabulary: How the checkpoint spells thinking.

    Returns:
        The answer, without ``<answer>`` tags, and the thought. A thought that never ends is all
        thought; text without thinking tags is all answer.
    """
    opening, closing = vocabulary.think
    before, opened, rest = plain.partition(opening)
    if not opened:
        return plain, ""
    thought, _, after = rest.partition(closing)
    answer = before.strip() + " " + re.sub(r"</?answer>", "", after).strip()
    return answer.strip(), thought.strip()


def _mentions(
    found: Scan,
    offered: int,
    asked: Sequence[str],
    tag_confidence: Sequence[float] | None,
    problems: list[str],
) -> list[tuple[Mention, int | None]]:
    """What the text mentions, and the opening of each list."""
    spelt = {_form(label): label for label in reversed(asked)}
    mentions: list[tuple[Mention, int | None]] = []
    for scanned in found.mentions:
        label = scanned.label
        if asked and label and label not in asked:
            label = spelt.get(_form(label), label)
            if label not in asked:
                problems.append(f"label {label!r} was not asked for")
        indices: list[int] = []
        confidence: list[float] = []
        for position, number in enumerate(scanned.numbers):
            if number >= offered:
                problems.append(
                    f"label {label!r}: region {number} does not exist, {offered} were offered"
                )
            elif number in indices:
                if label:
                    problems.append(f"label {label!r}: region {number} named twice")
            else:
                indices.append(number)
                if tag_confidence is not None:
                    confidence.append(float(tag_confidence[scanned.first_tag + position]))
        if not label and not indices:
            continue
        sure = None if tag_confidence is None else tuple(confidence)
        mentions.append((Mention(label, tuple(indices), sure), scanned.opened))
    return mentions


def _scored(
    said: Sequence[tuple[Mention, int | None]],
    lists: Mapping[int, ListScore],
    asked: Sequence[str],
    offered: int,
) -> tuple[Floats, dict[str, float]]:
    """The scores of every label and region, and the presence of labels where it is known.

    Of several lists of one label the larger number counts.
    """
    rows = [*dict.fromkeys([*asked, *(mention.label for mention, _ in said)])]
    scores = np.full((len(rows), offered), np.nan, np.float32)
    presence: dict[str, float] = {}
    for mention, opened in said:
        found = None if opened is None else lists.get(opened)
        if found is not None:
            row = rows.index(mention.label)
            scores[row] = np.fmax(scores[row], found.scores)
            known = np.fmax(presence.get(mention.label, np.nan), found.presence)
            presence |= {} if np.isnan(known) else {mention.label: float(known)}
    return scores, presence


def _form(label: str) -> str:
    """What two spellings of one label have in common: "an orange", "Oranges"."""
    words = label.casefold().split()
    if len(words) > 1 and words[0] in ARTICLES:
        words = words[1:]
    return " ".join(words).removesuffix("s")


def _count(
    plain: str, mentions: Sequence[Mention], question: Question, problems: list[str]
) -> int | None:
    """The number a counting answer states, checked against the regions it chose.

    Asked for several labels, an answer states several numbers: then the regions are counted.
    """
    if question.task != Task.COUNTING:
        return None
    chosen = len({index for mention in mentions for index in mention.indices})
    stated = _stated_number(plain, question.labels) if len(question.labels) == 1 else None
    if stated is None:
        return chosen
    if stated != chosen:
        problems.append(f"the answer says {stated} but names {chosen} regions")
    return stated


def _stated_number(plain: str, labels: Sequence[str]) -> int | None:
    """The last number in the text, labels (which may hold digits) left aside.

    Digits go before words, and "one" is a number only where no other stands ("the last one").
    """
    for label in labels:
        plain = re.sub(rf"(?<!\w){re.escape(label)}(?:e?s)?(?!\w)", " ", plain, flags=re.IGNORECASE)
    digits = _DIGITS.findall(plain)
    if digits:
        return int(digits[-1].replace(",", ""))
    words = [_word_value(match) for match in _WORDS.finditer(plain.lower())]
    return next((value for value in reversed(words) if value != 1), words[-1] if words else None)


def _word_value(match: re.Match[str]) -> int:
    if match["units"]:
        return _UNITS.index(match["units"])
    tens = 10 * (2 + _TENS.index(match["tens"]))
    return tens + (_UNITS.index(match["ones"]) if match["ones"] else 0)
