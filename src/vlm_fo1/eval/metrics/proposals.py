"""What the offered boxes allow: recall whatever things are called, and the best answer."""

from collections.abc import Iterable, Sequence
from typing import Any

from vlm_fo1.eval.metrics.matching import SLACK, Grouped, claims, overlap_iou
from vlm_fo1.eval.metrics.records import BoxLists, field, listed, overlaps, read_boxes
from vlm_fo1.eval.metrics.tally import Score, share


def proposal_recall(
    images: Iterable[Any], at: Sequence[float] = (0.5, 0.75, 0.95), most: int | None = None
) -> Score:
    """Share of objects that a proposal accounts for, each proposal for one, best first.

    Args:
        images: Mappings with ``truth``, the boxes of all objects, and ``proposals``, boxes best
            first; None where the proposer failed: it offered nothing.
        at: IoU that suffices.
        most: Proposals of an image that are looked at; None for all.

    Returns:
        ``recall@.5`` and so on; None without objects.

    Raises:
        EvaluationError: No images, one without ``truth`` or ``proposals``, or an IoU not in (0, 1].
        BoxError: A box is not four finite numbers, or is reversed.
    """
    at = overlaps(at)
    truths, proposals = BoxLists(), BoxLists()
    for index, image in enumerate(listed(images, "images")):
        boxes = field(image, "proposals", index)
        proposals.add([] if boxes is None else boxes[:most], f"image {index}", "proposals")
        truths.add(field(image, "truth", index), f"image {index}", "truth")
    truth = Grouped(*truths.stacked())
    found_NT = claims(Grouped(*proposals.stacked()), truth, at, later_on_tie=True) >= 0
    return {
        f"recall@{f'{least:g}'.lstrip('0')}": share(float(found_T), float(len(truth)))
        for least, found_T in zip(at, found_NT.sum(0), strict=True)
    }


def reachable(truth: Any, proposals: Any, least: float = 0.5) -> list[int]:
    """The proposals that the best possible answer names: the best one of each object.

    A metric of these boxes is the best that any answer could reach with what was offered.

    Args:
        truth: (M, 4) objects that are asked for.
        proposals: (N, 4) boxes.
        least: An object whose best proposal overlaps less is given up.

    Returns:
        Indices of proposals in the order of the objects, each once.

    Raises:
        BoxError: A box is not four finite numbers, or is reversed.
    """
    truth_M4, proposals_N4 = read_boxes(truth, "truth"), read_boxes(proposals, "proposals")
    if not len(truth_M4) or not len(proposals_N4):
        return []
    overlap_MN = overlap_iou(truth_M4[:, None], proposals_N4[None])
    reached_M = overlap_MN.max(1) >= least - SLACK
    return list(dict.fromkeys(overlap_MN.argmax(1)[reached_M].tolist()))
