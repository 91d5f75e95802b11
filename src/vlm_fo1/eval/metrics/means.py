"""Scores of many sets in one figure, as the papers average them."""

from collections.abc import Iterable, Mapping
from typing import Any

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.metrics.records import by_label
from vlm_fo1.eval.metrics.tally import Score, mean

_ASPECTS = (
    ("logo", "landmark", "celebrity"),
    ("color", "material"),
    ("position",),
    ("relationship",),
    ("negation",),
)
"""Of OVDEval: proper noun, attribute, position, relationship, negation."""


def mean_of(scores: Mapping[str, Any], names: Iterable[str]) -> float:
    """Plain mean of named sets: ODinW13's thirteen, RefCOCO's eight splits.

    Args:
        scores: By set; every one of the names, and no other.
        names: The sets that the figure is about.

    Raises:
        EvaluationError: A set is missing (that is an error, not a smaller mean), unknown, or has
            no number.
    """
    names = list(names)
    missing = [name for name in names if by_label(scores, "scores").get(name) is None]
    if missing or not names:
        raise EvaluationError(
            f"no score of {', '.join(missing) or 'any set'}: the mean is over {len(names)} sets "
            f"({', '.join(names)}); score what is missing"
        )
    unknown = [str(name) for name in scores if name not in names]
    if unknown:
        raise EvaluationError(f"unknown sets {', '.join(unknown)}: known are {', '.join(names)}")
    return mean([float(scores[name]) for name in names])


def ovdeval_means(scores: Mapping[str, Any]) -> Score:
    """Both averages of OVDEval that are in print, which are not comparable.

    Args:
        scores: NMS-AP of logo, landmark, celebrity, color, material, position, relationship and
            negation, and perhaps of coco.

    Returns:
        ``nine_mean``: plain mean with coco, None without; ``five_aspect``: mean of proper noun
        (the mean of three), attribute (of two), position, relationship and negation, without coco.

    Raises:
        EvaluationError: A subset other than coco is missing, or one is unknown.
    """
    subsets = [name for aspect in _ASPECTS for name in aspect]
    by_label(scores, "scores")
    eight = {name: score for name, score in scores.items() if name != "coco"}
    mean_of(eight, subsets)  # all there
    aspects = [mean([float(scores[name]) for name in aspect]) for aspect in _ASPECTS]
    coco = scores.get("coco")
    nine = None if coco is None else mean_of(scores, ["coco", *subsets])
    return {"nine_mean": nine, "five_aspect": mean(aspects)}
