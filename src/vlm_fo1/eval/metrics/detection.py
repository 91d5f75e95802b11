"""Named boxes against named boxes: F1 pooled over images, F1 of each image, and hallucination.

Shapes: N answered boxes, M objects, G groups (one label of one image), I images, C labels,
T thresholds.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from vlm_fo1.eval.metrics.images import Images, read_images, sums_by_group
from vlm_fo1.eval.metrics.matching import AT_50, AT_95, THRESHOLDS, Grouped, claims
from vlm_fo1.eval.metrics.published import published_f1
from vlm_fo1.eval.metrics.records import Array, choice
from vlm_fo1.eval.metrics.tally import Score, Tally, f1, mean, share


def pooled_f1(
    images: Iterable[Any],
    variant: str = "all",
    *,
    labels: Sequence[Hashable] = (),
    most: int | None = 100,
) -> Score:
    """F1 of labels whose counts are pooled over images: the table of Rex-Omni and VLX-Seek.

    Answers are matched by COCO's rule in answer order. For each label with an object that is no
    crowd: P(t) = TP / (TP + FP), 0 without an answer, and R(t) = TP / objects. Then plain means of
    P and of R over those labels, and F1 = 2PR / (P + R). ``f1_mean`` takes the means over the ten
    thresholds too before it forms F1: it is **not** the mean of ten F1.

    Args:
        images: Mappings with ``truth`` and ``answer``, each boxes by label in order, and perhaps
            ``crowd``, boxes by label that may swallow any number of answers, which then count
            neither way (overlap: share of the answer inside).
        variant: ``all`` counts an answer whose label the image has no object of as false.
            ``present`` drops it first, as the published tables do. ``published`` repeats Rex-Omni's
            scorer with its faults, see `vlm_fo1.eval.metrics.published`.
        labels: For ``published`` only: order of the categories (by id); by default that in which
            they occur. It matters there.
        most: For ``published`` only: answers of a label of an image that are looked at; None for
            all of them, as on LVIS.

    Returns:
        ``f1@.5``, ``f1@.95`` and ``f1_mean``; None where no label has an object. An image that
        failed (``answer`` None) has found nothing; without objects there is nothing that it could
        lower, so list failures beside the score.

    Raises:
        EvaluationError: No images, one without ``truth`` or ``answer``, or an unknown variant.
        BoxError: A box is not four finite numbers, or is reversed.
    """
    choice(variant, ("all", "present", "published"), "variant")
    if variant == "published":
        return published_f1(images, labels, most)
    return _pooled_tally(read_images(images), present=variant == "present").score()


def pooled_f1_tally(images: Iterable[Any] | Images, variant: str = "all") -> Tally:
    """The tally of `pooled_f1`; a resample recomputes P and R of every label from its images.

    Args:
        images: As there, or what `read_images` made of them.
        variant: As there.

    Raises:
        EvaluationError: As there; also for ``published``, which is no function of sums.
        BoxError: As there.
    """
    choice(variant, ("all", "present"), "variant")
    return _pooled_tally(read_images(images), present=variant == "present")


def per_image_f1(images: Iterable[Any], labels: str = "aware") -> Score:
    """F1 of mean precision and mean recall of images: Rex-Omni's VisDrone, Dense200 and RefCOCOg.

    Objects in order each take the best answer that is left; with m of them served, P = m / answers
    and R = m / objects. Without objects (1, 1) if nothing is answered, else (0, 0); nothing
    answered of objects, or a failed image: (0, 0). P(t), R(t) are means over images, F1(t) is
    formed of them, and ``f1_mean`` **is** here the mean of the ten F1(t).

    Args:
        images: Mappings with ``truth`` and ``answer``, each boxes by label in order. There are no
            crowds here: leave ignored areas out.
        labels: ``blind`` is the published scorer, which takes a truck called car for found.
            ``aware`` adds up the matches within each label, over the same denominators.

    Returns:
        ``f1@.5``, ``f1@.95`` and ``f1_mean``.

    Raises:
        EvaluationError: No images, one without ``truth`` or ``answer``, or another word in
            ``labels``.
        BoxError: A box is not four finite numbers, or is reversed.
    """
    return per_image_f1_tally(images, labels).score()


def per_image_f1_tally(images: Iterable[Any] | Images, labels: str = "aware") -> Tally:
    """The tally of `per_image_f1`.

    Raises:
        EvaluationError: As there.
        BoxError: As there.
    """
    choice(labels, ("aware", "blind"), "labels")
    read = read_images(images)
    answer, truth = read.answer, read.truth
    if labels == "blind":
        answer = Grouped(answer.boxes_N4, read.image_G[answer.group_N])
        truth = Grouped(truth.boxes_N4, read.image_G[truth.group_N])
    served_MT = claims(truth, answer, THRESHOLDS, later_on_tie=False) >= 0
    groups_to_I = np.arange(read.images) if labels == "blind" else read.image_G
    matched_IT = sums_by_group(served_MT, groups_to_I[truth.group_N], read.images)
    answered_I = np.bincount(groups_to_I[answer.group_N], minlength=read.images)
    objects_I = np.bincount(groups_to_I[truth.group_N], minlength=read.images)
    right_I = (objects_I == 0) & (answered_I == 0) & ~read.failed_I
    precision_IT = np.where(right_I[:, None], 1, matched_IT / np.maximum(answered_I, 1)[:, None])
    recall_IT = np.where(right_I[:, None], 1, matched_IT / np.maximum(objects_I, 1)[:, None])
    ones_I1 = np.ones((read.images, 1))
    return Tally.of_items(np.hstack([precision_IT, recall_IT, ones_I1]), _per_image_formula)


def false_positives_per_truth(images: Iterable[Any]) -> Score:
    """False boxes per hundred objects, pooled over images: object hallucination; lower is better.

    The figure that VLX-Seek prints is not defined there; this is ours, and same-named figures need
    not be equal. A failed image counts as one false box, so that it is worse than no answer.

    Args:
        images: Mappings with ``truth`` and ``answer``, each boxes by label, and perhaps ``crowd``.

    Returns:
        ``absent``: boxes answered for labels that the image has no object of; ``all``: also boxes
        of present labels that COCO's rule matches to no object at IoU 0.5. Both over the number of
        objects, times 100; None without objects.

    Raises:
        EvaluationError: No images, or one without ``truth`` or ``answer``.
        BoxError: A box is not four finite numbers, or is reversed.
    """
    return false_positives_tally(images).score()


def false_positives_tally(images: Iterable[Any] | Images) -> Tally:
    """The tally of `false_positives_per_truth`.

    Raises:
        EvaluationError: As there.
        BoxError: As there.
    """
    read = read_images(images)
    right_NT, ignored_NT = read.matched
    image_N = read.image_G[read.answer.group_N]
    absent_N = ~read.present()[read.answer.group_N]
    unmatched_N = ~(right_NT | ignored_NT)[:, AT_50]
    counts = [
        np.bincount(image_N[absent_N], minlength=read.images) + read.failed_I,
        np.bincount(image_N[absent_N | unmatched_N], minlength=read.images) + read.failed_I,
        np.bincount(read.image_G[read.truth.group_N], minlength=read.images),
    ]
    return Tally.of_items(np.stack(counts, axis=1), _false_positives_formula)


def _pooled_tally(read: Images, *, present: bool) -> Tally:
    if present:
        read = read.answering(read.present()[read.answer.group_N])
    groups = len(read.image_G)
    right_NT, ignored_NT = read.matched
    right_GT = sums_by_group(right_NT, read.answer.group_N, groups)
    counted_GT = sums_by_group(~ignored_NT, read.answer.group_N, groups)
    objects_G1 = read.truth.counts(groups)[:, None]
    rows_GK = np.hstack([right_GT, counted_GT, objects_G1]).astype(np.float64)
    objects_C = np.bincount(read.label_G, objects_G1[:, 0], minlength=len(read.names))
    counting_G = (objects_C[read.label_G] > 0) & rows_GK.any(1)  # no other row enters the formula
    order_R = np.flatnonzero(counting_G)[np.argsort(read.label_G[counting_G], kind="stable")]
    return Tally(
        rows_GK[order_R],
        read.image_G[order_R],
        read.label_G[order_R],
        read.images,
        len(read.names),
        _pooled_formula,
    )


def _pooled_formula(sums_CK: Array) -> Score:
    counts_CK = sums_CK[sums_CK[:, -1] > 0]
    if not len(counts_CK):
        return {"f1@.5": None, "f1@.95": None, "f1_mean": None}
    right_CT, counted_CT = counts_CK[:, : len(THRESHOLDS)], counts_CK[:, len(THRESHOLDS) : -1]
    precision_CT = np.divide(
        right_CT, counted_CT, out=np.zeros_like(right_CT), where=counted_CT > 0
    )
    recall_CT = right_CT / counts_CK[:, -1:]
    precision_T, recall_T = precision_CT.mean(0), recall_CT.mean(0)
    return {
        "f1@.5": f1(precision_T[AT_50], recall_T[AT_50]),
        "f1@.95": f1(precision_T[AT_95], recall_T[AT_95]),
        "f1_mean": f1(precision_T.mean(), recall_T.mean()),
    }


def _per_image_formula(sums_1K: Array) -> Score:
    precision_T, recall_T = np.split(sums_1K[0, :-1] / sums_1K[0, -1], 2)
    scores = [f1(p, r) for p, r in zip(precision_T, recall_T, strict=True)]
    return {"f1@.5": scores[AT_50], "f1@.95": scores[AT_95], "f1_mean": mean(scores)}


def _false_positives_formula(sums_1K: Array) -> Score:
    absent, every, objects = sums_1K[0]
    return {"absent": share(100 * absent, objects), "all": share(100 * every, objects)}
