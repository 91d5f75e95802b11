"""Answers in words: names of regions, read text, counts, and what a judge said of them."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.metrics.records import field, is_number, listed, same_length
from vlm_fo1.eval.metrics.tally import Score, Tally, mean, share

_REGION = re.compile(r"<region\d+>")
_NUMBER = re.compile(r"(?<!region)\d+")
_DIGITS = 4000
"""More of one number are not read: Python refuses to, and no count has them."""
_HALLUSION_KEYS = ("category", "set", "figure", "question", "right")


def clean_category(text: str) -> str:
    """A category as Osprey's scorer compares it: ``_`` and ``:`` become spaces.

    Args:
        text: ``"baseball_bat"``, ``"dog:ear"``. Parentheses stay.

    Raises:
        EvaluationError: It is no text.
    """
    return _text(text, "category").replace("_", " ").replace(":", " ")


def clean_prediction(text: str) -> str:
    """An answer as Osprey's scorer compares it; case and ``_`` stay.

    Of a text with a colon only the piece between the first and the second is kept; then ``.``,
    ``:`` and ``,`` become spaces. Outer spaces are stripped, which neither score looks at.

    Args:
        text: ``"It is: a dog."`` gives ``"a dog"``.

    Raises:
        EvaluationError: It is no text.
    """
    pieces = _text(text, "prediction").strip().split(":")
    kept = pieces[1] if len(pieces) > 1 else pieces[0]
    return re.sub(r"[.,]", " ", kept).strip()


def semantic_iou(prediction: str | None, category: str) -> float:
    """S-IoU of LVIS and PACO region classification: words in both over words in either.

    Both are cleaned first (again does no harm), put in lower case and split at white space; a word
    counts once. The benchmark's figure is the mean over objects, not images, times 100.

    Args:
        prediction: The answer; None (the item failed) and an empty one give 0.
        category: The true name.

    Raises:
        EvaluationError: One of them is no text.
    """
    true = set(clean_category(category).lower().split())
    said = set() if prediction is None else set(clean_prediction(prediction).lower().split())
    return len(said & true) / len(said | true) if said else 0.0


def official_count(text: str | None) -> int:
    """The number that the official counting scripts read in an answer.

    Every ``<regionN>`` is deleted; then the first run of digits counts that ``region`` does not
    stand right before; 0 if there is none. So "2 door car ... There are 3" gives 2, number words
    are not read, and "region12" without brackets gives 2: print the number of regions beside it.
    Digits are those of any script.

    Args:
        text: The answer with its tags; None (the item failed) gives 0: count it as wrong even
            where 0 is the truth.

    Raises:
        EvaluationError: It is no text.
    """
    if text is None:
        return 0
    match = _NUMBER.search(_REGION.sub("", _text(text, "answer")))
    return int(match[0][:_DIGITS]) if match else 0


def text_accuracy(answers: Iterable[Any], truths: Iterable[Any]) -> float:
    """Share of regions whose text is right: COCO-Text.

    Compared after lower-casing and, ours, stripping outer white space; punctuation counts.

    Args:
        answers: One text a region; None where it is missing or failed.
        truths: The true texts.

    Raises:
        EvaluationError: No regions, lists of different length, or an entry that is no text.
    """
    value = text_accuracy_tally(answers, truths).score()["accuracy"]
    assert value is not None  # there is a region
    return value


def text_accuracy_tally(answers: Iterable[Any], truths: Iterable[Any]) -> Tally:
    """The tally of `text_accuracy`.

    Raises:
        EvaluationError: As there.
    """
    answers, truths = listed(answers, "answers"), listed(truths, "truths")
    same_length(answers, truths, "answers and truths")
    rows = [
        (answer is not None and _folded(answer, "answer") == _folded(truth, "truth"), 1)
        for answer, truth in zip(answers, truths, strict=True)
    ]
    return Tally.of_items(rows, lambda sums_1K: {"accuracy": share(*sums_1K[0])})


def ferret_score(pairs: Iterable[Any]) -> dict[str, Any]:
    """Ferret-Bench: our ratings over the reference's, in per cent.

    100 x mean(ours) / mean(reference), both means rounded to three decimals first, the result to
    one. The official script averages an unreadable judgement in as (-1, -1); here it is left out
    and counted. Scores of different judges are not comparable.

    Args:
        pairs: (rating of the reference, rating of our answer), each from 0 to 10; None or (-1, -1)
            for a judgement that could not be read. An answer of ours that failed is rated 0.

    Returns:
        ``score``, None where nothing could be read, and ``unreadable``, their number.

    Raises:
        EvaluationError: No pairs, or one that is none or rates outside 0 to 10.
    """
    judged = [_rating(pair, index) for index, pair in enumerate(listed(pairs, "pairs"))]
    readable = [pair for pair in judged if pair is not None]
    score = None
    if readable:
        reference, ours = (round(mean(ratings), 3) for ratings in zip(*readable, strict=True))
        score = round(100 * ours / reference, 1) if reference else None
    return {"score": score, "unreadable": len(judged) - len(readable)}


def hallusionbench(rows: Iterable[Any]) -> Score:
    """HallusionBench in per cent: of questions, of figures, of questions over figures, their mean.

    Args:
        rows: (category, set, figure, question, right) each, or mappings with these keys; ``right``
            is a truth value, or None for an item that failed, which is wrong.

    Returns:
        ``aAcc``, the share of right rows; ``fAcc``, of figures (category, set, figure) with every
        row right; ``qAcc``, of questions (category, set, question) right on every figure; ``mean``
        of the three, which leaderboards show.

    Raises:
        EvaluationError: No rows, or one of another form.
    """
    read = [_hallusion_row(row, index) for index, row in enumerate(listed(rows, "rows"))]
    every = [100.0 * bool(row[4]) for row in read]
    score: Score = {
        "aAcc": mean(every),
        "fAcc": _all_right(read, lambda row: (row[0], row[1], row[2])),
        "qAcc": _all_right(read, lambda row: (row[0], row[1], row[3])),
    }
    return {**score, "mean": mean([value for value in score.values() if value is not None])}


def _all_right(rows: list[tuple[Any, ...]], key: Callable[[tuple[Any, ...]], Any]) -> float:
    groups: dict[Any, bool] = {}
    for row in rows:
        groups[key(row)] = groups.get(key(row), True) and bool(row[4])
    return mean([100.0 * right for right in groups.values()])


def _hallusion_row(row: Any, index: int) -> tuple[Any, ...]:
    if isinstance(row, Mapping):
        row = [field(row, key, index) for key in _HALLUSION_KEYS]
    if not isinstance(row, list | tuple) or len(row) != len(_HALLUSION_KEYS):
        raise EvaluationError(f"row {index} is {row!r}: ({', '.join(_HALLUSION_KEYS)}) is needed")
    if row[4] not in (True, False, None):
        raise EvaluationError(f"row {index} has {row[4]!r} as 'right': True or False is needed")
    return tuple(row)


def _rating(pair: Any, index: int) -> tuple[float, float] | None:
    if pair is None:
        return None
    if isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2:
        raise EvaluationError(f"pair {index} is {pair!r}: (reference, ours) or None is needed")
    reference, ours = pair
    if (reference, ours) == (-1, -1):
        return None
    if not all(is_number(value) and 0 <= value <= 10 for value in pair):
        raise EvaluationError(
            f"pair {index} is {pair!r}: ratings lie between 0 and 10; None is an unreadable one"
        )
    return float(reference), float(ours)


def _folded(text: Any, what: str) -> str:
    return _text(text, what).strip().lower()


def _text(text: Any, what: str) -> str:
    if not isinstance(text, str):
        raise EvaluationError(f"{what} is {text!r}: a text is needed")
    return text
