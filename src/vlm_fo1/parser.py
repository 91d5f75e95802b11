"""Model text and regions in, `Answer` out. Total: model output is data and never raises."""

import re
from collections.abc import Sequence

from vlm_fo1.markup import RELEASED, Scan, Vocabulary, scan
from vlm_fo1.prompts import Question, Task
from vlm_fo1.structures import Answer, Mention, Regions

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()


def parse(
    text: str,
    regions: Regions,
    question: Question,
    *,
    vocabulary: Vocabulary = RELEASED,
    tag_confidence: Sequence[float] | None = None,
    finished: bool = True,
) -> Answer:
    """Tie a model's text to the regions it was shown.

    Args:
        text: What the model wrote, special tokens kept, the end-of-turn token removed.
        regions: The regions the model was shown, in order of their numbers.
        question: What was asked.
        vocabulary: How the checkpoint spells its markup.
        tag_confidence: One probability per region tag in ``text``, in order; None if not recorded.
        finished: False when the text was cut at the token limit.

    Returns:
        The answer. ``problems`` lists regions that do not exist, repeats, unclosed or stray markup,
        truncation, and a stated count that differs from the regions chosen. An empty text is an
        answer without mentions.
    """
    found = scan(text, vocabulary)
    problems = [*question.notes, *found.problems]
    if not finished:
        problems.append("the answer was cut at max_new_tokens: raise it to get the rest")
    tags_in_text = len(vocabulary.tag_pattern().findall(text))
    if tag_confidence is not None and len(tag_confidence) != tags_in_text:
        problems.append(
            f"{len(tag_confidence)} region scores for {tags_in_text} region tags: scores left out"
        )
        tag_confidence = None
    mentions = tuple(_mentions(found, len(regions), tag_confidence, problems))
    count = _count(found.plain, mentions, question, problems)
    return Answer(
        text=text,
        regions=regions,
        mentions=mentions,
        task=str(question.task),
        labels=question.labels,
        plain=found.plain,
        count=count,
        problems=tuple(problems),
    )


def _mentions(
    found: Scan, offered: int, tag_confidence: Sequence[float] | None, problems: list[str]
) -> list[Mention]:
    mentions: list[Mention] = []
    for scanned in found.mentions:
        indices: list[int] = []
        confidence: list[float] = []
        for position, number in enumerate(scanned.numbers):
            if number >= offered:
                problems.append(
                    f"label {scanned.label!r}: region {number} does not exist, "
                    f"{offered} were offered"
                )
            elif number in indices:
                problems.append(f"label {scanned.label!r}: region {number} named twice")
            else:
                indices.append(number)
                if tag_confidence is not None:
                    confidence.append(float(tag_confidence[scanned.first_tag + position]))
        mentions.append(
            Mention(
                scanned.label,
                tuple(indices),
                None if tag_confidence is None else tuple(confidence),
            )
        )
    return mentions


def _count(
    plain: str, mentions: Sequence[Mention], question: Question, problems: list[str]
) -> int | None:
    """The number a counting answer states, checked against the regions it chose."""
    if question.task is not Task.COUNTING:
        return None
    chosen = len({index for mention in mentions for index in mention.indices})
    stated = _stated_number(plain, question.labels)
    if stated is None:
        return chosen
    if stated != chosen:
        problems.append(f"the answer says {stated} but names {chosen} regions")
    return stated


def _stated_number(plain: str, labels: Sequence[str]) -> int | None:
    """The last number in the text, labels (which may hold digits) left aside."""
    for label in labels:
        plain = plain.replace(label, " ")
    numbers = re.findall(r"(?<![\w.])\d{1,6}(?![\w])|" + _WORDS.pattern, plain.lower())
    if not numbers:
        return None
    last = numbers[-1]
    return int(last) if last.isdigit() else _NUMBER_WORDS.index(last)


_WORDS = re.compile(r"\b(?:" + "|".join(_NUMBER_WORDS) + r")\b")
