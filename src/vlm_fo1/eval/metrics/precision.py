"""Average precision by COCO's and by LVIS's rules; how often each image counts may be chosen.

Answers of equal score are taken in the order of images, and within one in that of the answer, so AP
of a model without scores depends on both: say which score was used.

An answer is matched once, whatever is drawn afterwards: of each threshold the right answers are
kept, with how many answers stand before them, and a resample only adds up how often their images
were drawn. The interpolated precision at a recall is that of a right answer, so no other is needed.

Shapes: N answers, by label and falling score; M objects, G groups (a label of an image), I images,
C labels, T thresholds; P right answers, one for each threshold at which it is right; K segments of
them, a threshold and label each; S answers that count at every threshold, D at some.

Source: COCO's and LVIS's scorers; equal to pycocotools and, with LVIS's limit, faster-coco-eval.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.metrics.images import Images, read_images
from vlm_fo1.eval.metrics.matching import (
    AT_50,
    SLACK,
    THRESHOLDS,
    Bools,
    Ints,
    best_overlap,
    box_areas,
    claims,
    overlap_crowd,
)
from vlm_fo1.eval.metrics.records import Array, choice
from vlm_fo1.eval.metrics.tally import Score, checked_weights

SIZES = {
    "": (0, np.inf),
    "_small": (0, 32**2),
    "_medium": (32**2, 96**2),
    "_large": (96**2, np.inf),
}
"""Least and greatest area of an object, in square pixels; one on a border is of both sizes."""
FREQUENCIES = ("r", "c", "f")
_AT_75 = THRESHOLDS.index(0.75)
_MOST = {"coco": 100, "lvis": 300}
_RECALLS = np.linspace(0, 1, 101)
Draws = npt.NDArray[np.int32]


def average_precision(
    images: Iterable[Any] | Images,
    style: str = "coco",
    *,
    frequency: Mapping[Any, str] | None = None,
) -> Score:
    """Mean over labels and ten IoU of the interpolated precision at 101 recalls.

    LVIS's rules: the 300 best answers of an image over **all** labels are looked at; an answer
    whose label the image neither holds nor names ``negative`` is dropped; in a label that it names
    ``not_exhaustive`` unmatched ones are not counted. COCO: the 100 best of each label.

    Args:
        images: In the order of the data set, mappings with ``truth``, ``answer`` (boxes by label)
            and ``scores`` (numbers by label, one per answered box). Perhaps ``crowd`` (boxes by
            label; COCO), ``areas`` (of the objects by label, in pixels, by which they are small or
            large: COCO's are those of the masks; by default those of the boxes), ``negative`` and
            ``not_exhaustive`` (labels; LVIS). ``answer`` is None for a failed image: it found
            nothing. Or what `read_images` made of them.
        style: Whose rules.
        frequency: ``r``, ``c`` or ``f`` of each label, for LVIS.

    Returns:
        ``ap``, ``ap@.5``, ``ap@.75``, ``ap_small``, ``ap_medium``, ``ap_large``; with a frequency
        also ``ap_r``, ``ap_c``, ``ap_f``. None where there is no object of the kind.

    Raises:
        EvaluationError: No images, one of another form, or a label without a frequency.
        BoxError: A box is not four finite numbers, or is reversed.
    """
    return precision_tally(images, style, frequency=frequency).score()


def precision_tally(
    images: Iterable[Any] | Images,
    style: str = "coco",
    *,
    frequency: Mapping[Any, str] | None = None,
) -> "PrecisionTally":
    """What scores any weighting of the images of `average_precision`.

    Raises:
        EvaluationError: As there.
        BoxError: As there.
    """
    choice(style, tuple(_MOST), "style")
    read = read_images(images, scored=True)
    objects_C = np.bincount(read.label_G[read.truth.group_N], minlength=len(read.names))
    if frequency is not None:
        _check_frequency([read.names[c] for c in np.flatnonzero(objects_C)], frequency)
    read = _ranked(read, objects_C > 0, style)
    curves = {name: _curve(read, *limits, lvis=style == "lvis") for name, limits in SIZES.items()}
    words = None
    if frequency is not None:
        words = np.array([frequency.get(name, "") for name in read.names], np.str_)
    return PrecisionTally(read.images, curves, words)


@dataclass(frozen=True)
class PrecisionTally:
    """Matched answers of all images."""

    items: int
    curves: Mapping[str, "Curve"]
    """By the ending of ``ap``."""
    frequency_C: npt.NDArray[np.str_] | None

    def score(self, weights_I: npt.ArrayLike | None = None) -> Score:
        """AP when each image counts so many times, by default once.

        Args:
            weights_I: (I,) whole numbers, not negative, not all zero.

        Raises:
            EvaluationError: There is not one whole number per image, or none above zero.
        """
        weights = checked_weights(weights_I, self.items)
        draws_I = weights.astype(np.int32)  # their sums take a seventh of the time of floats'
        if (draws_I != weights).any():
            raise EvaluationError("weights must be whole numbers: how often each image was drawn")
        found = {name: curve.precision(draws_I) for name, curve in self.curves.items()}
        whole_TC = found[""]
        score: Score = {
            "ap": _mean(whole_TC),
            "ap@.5": _mean(whole_TC[AT_50]),
            "ap@.75": _mean(whole_TC[_AT_75]),
        }
        score |= {f"ap{name}": _mean(found[name]) for name in SIZES if name}
        if self.frequency_C is not None:
            for word in FREQUENCIES:
                score[f"ap_{word}"] = _mean(whole_TC[:, self.frequency_C == word])
        return score


@dataclass(frozen=True)
class Curve:
    """What the precision of objects of one size follows from."""

    object_image_M: Ints
    object_label_M: Ints
    labels: int
    image_S: Ints
    """Of answers that count at every threshold, in order."""
    image_D: Ints
    """Of answers that count at some only, by threshold and in order."""
    image_P: Ints
    before_P: Ints
    """How many of the first kind stand up to a right answer."""
    before_K: Ints
    """How many of them stand before the first answer of the label."""
    more_P: Ints
    """The same of the second kind."""
    more_K: Ints
    segment_P: Ints
    """Threshold times the number of labels, and label; ascending."""

    def precision(self, draws_I: Draws) -> Array:
        """Interpolated precision, (T, C); NaN for a label without an object."""
        objects_C = np.bincount(
            self.object_label_M, draws_I[self.object_image_M], minlength=self.labels
        )
        table_TC = np.zeros((len(THRESHOLDS), self.labels))
        if len(self.segment_P):
            start_K, size_K = self._segments
            segment_K = self.segment_P[start_K]
            sum_S, sum_D = _sums(draws_I[self.image_S]), _sums(draws_I[self.image_D])
            counted_P = sum_S[self.before_P] - np.repeat(sum_S[self.before_K], size_K)
            if len(sum_D) > 1:
                counted_P += sum_D[self.more_P] - np.repeat(sum_D[self.more_K], size_K)
            sum_P = _sums(draws_I[self.image_P])
            right_P = sum_P[1:] - np.repeat(sum_P[start_K], size_K)
            # An answer whose image was not drawn stands at 0 of 0, or repeats what was before it.
            precision_P = right_P / np.maximum(counted_P, 1)
            goal_KR = sum_P[start_K, None] + _needed(objects_C)[segment_K % self.labels]
            reached_KR = np.searchsorted(sum_P[1:], goal_KR)
            table_TC.ravel()[segment_K] = _best_after(precision_P, reached_KR, start_K + size_K)
        table_TC[:, objects_C == 0] = np.nan
        return table_TC

    @cached_property
    def _segments(self) -> tuple[Ints, Ints]:
        """Where each begins, and its size."""
        start_K = np.flatnonzero(np.diff(self.segment_P, prepend=-1))
        return start_K, np.diff(start_K, append=len(self.segment_P))


def _needed(objects_C: Ints) -> npt.NDArray[np.int32]:
    """How many right answers reach each of COCO's recalls, (C, R); 0 is reached by the first."""
    objects_C1 = np.maximum(objects_C, 1)[:, None]
    needed_CR = np.ceil(_RECALLS * objects_C1 - 1e-6)
    needed_CR += needed_CR / objects_C1 < _RECALLS
    return np.maximum(needed_CR, 1).astype(np.int32)


def _best_after(precision_P: Array, reached_KR: Ints, end_K: Ints) -> Array:
    """Mean over recalls of the best precision from where each is reached, 0 if it is not; (K,)."""
    edges = np.hstack([np.minimum(reached_KR, end_K[:, None]), end_K[:, None]])
    best_KR = np.maximum.reduceat(np.append(precision_P, 0), edges.ravel())
    best_KR = best_KR.reshape(edges.shape)[:, :-1] * (reached_KR < end_K[:, None])
    return np.maximum.accumulate(best_KR[:, ::-1], axis=1).mean(1)


def _ranked(read: Images, known_C: Bools, style: str) -> Images:
    """The answers that are looked at, by image, label and falling score."""
    group_N = read.answer.group_N
    kept_N = known_C[read.label_G[group_N]]
    if style == "lvis":
        kept_N &= (read.present() | read.negative_G)[group_N]
    read = read.answering(kept_N)
    assert read.score_N is not None
    group_N = read.answer.group_N
    owner_N = group_N if style == "coco" else read.image_G[group_N]
    best_first_N = np.lexsort((-read.score_N, owner_N))
    owner_N = owner_N[best_first_N]
    rank_N = np.arange(len(owner_N)) - np.searchsorted(owner_N, owner_N)
    chosen_N = best_first_N[rank_N < _MOST[style]]
    group_N = group_N[chosen_N]
    order_N = np.lexsort((-read.score_N[chosen_N], group_N))
    return read.answering(chosen_N[order_N])


def _curve(read: Images, least: float, most: float, *, lvis: bool) -> Curve:
    """Match the answers to objects of one size; what is of another counts neither way."""
    own_M = (read.area_M >= least) & (read.area_M <= most)
    right_NT = claims(read.answer, read.truth.where(own_M), THRESHOLDS, later_on_tie=True) >= 0
    inside_N = best_overlap(read.answer, read.crowd, overlap_crowd)
    ignored_NT = inside_N[:, None] >= np.array(THRESHOLDS) - SLACK
    if not own_M.all():
        other = claims(
            read.answer, read.truth.where(~own_M), THRESHOLDS, later_on_tie=True,
            idle_NT=~right_NT, above_N=inside_N,
        )  # fmt: skip
        ignored_NT |= other >= 0
    area_N = box_areas(read.answer.boxes_N4)
    ignored_NT |= ((area_N < least) | (area_N > most))[:, None]
    if lvis:
        ignored_NT |= read.spared_G[read.answer.group_N][:, None]
    label_N = read.label_G[read.answer.group_N]
    assert read.score_N is not None
    order_N = np.lexsort((-read.score_N, label_N))
    right_NT, counted_NT = right_NT[order_N], (right_NT | ~ignored_NT)[order_N]
    label_N = label_N[order_N]
    image_N = read.image_G[read.answer.group_N][order_N]
    return _as_curve(read, own_M, image_N, label_N, right_NT, counted_NT)


def _as_curve(
    read: Images, own_M: Bools, image_N: Ints, label_N: Ints, right_NT: Bools, counted_NT: Bools
) -> Curve:
    always_N: Bools = np.all(counted_NT, axis=1, keepdims=True)[:, 0]
    before_N, count = _sums(always_N), len(label_N)
    at_D, place_D = np.nonzero((counted_NT & ~always_N[:, None]).T)
    at_P, place_P = np.nonzero(right_NT.T)
    segment_P = at_P * len(read.names) + label_N[place_P]
    new_P = np.diff(segment_P, prepend=-1) > 0
    first_K = np.searchsorted(label_N, label_N[place_P[new_P]])
    order_D = at_D * count + place_D
    group_M = read.truth.group_N[own_M]
    return Curve(
        object_image_M=read.image_G[group_M],
        object_label_M=read.label_G[group_M],
        labels=len(read.names),
        image_S=image_N[always_N],
        image_D=image_N[place_D],
        image_P=image_N[place_P],
        before_P=before_N[place_P + 1],
        before_K=before_N[first_K],
        more_P=np.searchsorted(order_D, at_P * count + place_P, side="right"),
        more_K=np.searchsorted(order_D, at_P[new_P] * count + first_K),
        segment_P=segment_P,
    )


def _sums(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sums of the first 0, 1, 2, ... values."""
    sums = np.zeros(len(values) + 1, np.int64 if values.dtype.kind == "b" else values.dtype)
    np.cumsum(values, out=sums[1:])
    return sums


def _mean(precision: Array) -> float | None:
    known = precision[~np.isnan(precision)]
    return float(known.mean()) if known.size else None


def _check_frequency(labels: Iterable[Hashable], frequency: Mapping[Any, str]) -> None:
    for label in labels:
        if frequency.get(label) not in FREQUENCIES:
            raise EvaluationError(
                f"the frequency of {label!r} is {frequency.get(label)!r}: one of "
                f"{', '.join(FREQUENCIES)} is needed for every label with an object"
            )
