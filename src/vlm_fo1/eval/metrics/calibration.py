"""Whether a score of 0.8 is right eight times in ten."""

from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.errors import EvaluationError


def reliability_bins(
    scores: npt.ArrayLike, right: npt.ArrayLike, bins: int = 10
) -> list[dict[str, Any]]:
    """Mean score and share of right answers by equal bins of the score.

    Args:
        scores: (N,) in [0, 1].
        right: (N,) truth values.
        bins: How many; each holds its lower end and not its upper, the last both.

    Returns:
        A mapping a bin, ascending: ``low``, ``high``, ``count``, ``score`` and ``accuracy``, the
        last two None in an empty bin.

    Raises:
        EvaluationError: No scores, one outside [0, 1], or not one truth value each.
    """
    scores_N, right_N = np.asarray(scores), np.asarray(right)
    if scores_N.ndim != 1 or not len(scores_N) or scores_N.shape != right_N.shape:
        raise EvaluationError(
            f"scores of shape {scores_N.shape} and truth values of shape {right_N.shape}: two "
            "lists of equal length, not empty, are needed"
        )
    if scores_N.dtype.kind not in "iuf" or not ((scores_N >= 0) & (scores_N <= 1)).all():
        raise EvaluationError("calibration needs scores that are numbers in [0, 1]")
    if not np.isin(right_N, (0, 1)).all():
        raise EvaluationError("whether an answer is right must be True or False, or 0 or 1")
    if bins < 1:
        raise EvaluationError(f"bins is {bins}: at least one is needed")
    edges = np.linspace(0, 1, bins + 1)
    bin_N = np.minimum(np.searchsorted(edges, scores_N, side="right") - 1, bins - 1)
    rows: list[dict[str, Any]] = []
    for number in range(bins):
        those_N = bin_N == number
        row: dict[str, Any] = {"low": float(edges[number]), "high": float(edges[number + 1])}
        row |= {"count": int(those_N.sum()), "score": None, "accuracy": None}
        if row["count"]:
            row["score"] = float(scores_N[those_N].mean())
            row["accuracy"] = float(right_N[those_N].mean())
        rows.append(row)
    return rows


def expected_calibration_error(
    scores: npt.ArrayLike, right: npt.ArrayLike, bins: int = 10
) -> float:
    """Mean over answers of the gap between score and accuracy of their bin, in [0, 1].

    Source: Naeini et al. 2015; Guo et al. 2017.

    Args:
        scores: (N,) in [0, 1].
        right: (N,) truth values.
        bins: Of equal width.

    Raises:
        EvaluationError: As `reliability_bins`.
    """
    rows = [row for row in reliability_bins(scores, right, bins) if row["count"]]
    total = sum(row["count"] for row in rows)
    return sum(row["count"] * abs(row["score"] - row["accuracy"]) for row in rows) / total
