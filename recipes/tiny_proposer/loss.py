"""What the bundled proposer is trained to do, and how well it does it.

B is the batch, S the side of an image in pixels, C its cells, N the things in it.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from vlm_fo1.boxes import iou
from vlm_fo1.eval.recall import matches
from vlm_fo1.proposers.bundled import STRIDE, cell_centres
from vlm_fo1.regions import Regions

_NOTHING, _IGNORED = -1, -2
_LEAST_LEFT = 0.45  # share of a cut thing from which on it counts


def losses(network: nn.Module, pixels: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Loss of the scores (quality focal loss against the overlap) and of the boxes (1 - GIoU).

    Args:
        network: A `BoxNetwork` in training mode.
        pixels: (B, 3, S, S) levels.
        boxes: B arrays (N, 5): xyxy and the share that `altered` left of each thing.
    """
    logits, predicted = network(pixels.contiguous(memory_format=torch.channels_last))
    centres = cell_centres(pixels.shape[2] // STRIDE, pixels.shape[3] // STRIDE)
    owners = torch.stack([assigned(centres, each) for each in boxes])
    image, cell = torch.nonzero(owners >= 0, as_tuple=True)
    counts = torch.tensor([0, *(len(each) for each in boxes)]).cumsum(0)
    truth = torch.cat(list(boxes))[counts[image] + owners[image, cell], :4]
    overlap, giou = _overlaps(predicted[image, cell], truth)
    target = torch.zeros_like(logits)
    target[image, cell] = overlap.detach()
    share = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weights = (share.detach() - target).abs().square() * (owners != _IGNORED)
    count = max(1, len(cell))
    return (weights * entropy).sum() / count, (1 - giou).sum() / count


def assigned(centres: Tensor, boxes: Tensor) -> Tensor:
    """Which thing each cell stands for.

    Args:
        centres: (C, 2) middles of the cells in pixels.
        boxes: (N, 5) xyxy and the share left of the thing.

    Returns:
        (C,) index of a box around whose middle the cell lies, the nearest in terms of its sides; -1
        for none; -2 for cells in what is left of a thing that is mostly cut away.
    """
    if not len(boxes):
        return torch.full((len(centres),), _NOTHING)
    low, high, left = boxes[:, :2], boxes[:, 2:4], boxes[:, 4]
    sides = high - low
    apart = (centres[:, None] - (low + high) / 2).abs()
    near = (apart <= (0.2 * sides).clamp(min=0.55 * STRIDE)).all(-1)
    whole = left >= _LEAST_LEFT
    distance = (apart / sides.clamp(min=1)).amax(-1).masked_fill(~(near & whole), math.inf)
    nearest, owner = distance.min(1)
    inside = ((centres[:, None] >= low) & (centres[:, None] < high)).all(-1)
    other = torch.where((inside & ~whole).any(1), _IGNORED, _NOTHING)
    return torch.where(nearest.isfinite(), owner, other)


def _overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of (P, 4) boxes with (P, 4) boxes, pair by pair."""
    shared = torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])
    around = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    inner = shared.clamp(min=0).prod(1)
    union = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1) - inner
    iou = inner / union.clamp(min=1e-6)
    hull = around.prod(1).clamp(min=1e-6)
    return iou, iou - (hull - union) / hull


def recall_and_precision(
    found: Sequence[Regions], truths: Sequence[npt.NDArray[np.float32]], limit: int = 50
) -> dict[str, float]:
    """Recall and average precision at IoU 0.5, whatever things are called.

    Args:
        found: Per image, best first; without scores the rank counts.
        truths: (N, 4) xyxy per image.
        limit: Boxes per image that count.

    Returns:
        ``recall`` (share of things with a box of their own), ``ap`` (area under the precision that
        is reached at each recall), ``boxes`` (mean number offered) and ``things`` (mean number).
    """
    scores: list[npt.NDArray[np.float64]] = []
    right: list[npt.NDArray[np.bool_]] = []
    for regions, truth in zip(found, truths, strict=True):
        best = regions[:limit]
        ranks = -np.arange(len(best), dtype=np.float64)
        scores.append(ranks if best.scores is None else best.scores.astype(np.float64))
        right.append(matches(iou(best.xyxy, truth), [0.5])[:, 0])
    things = sum(len(truth) for truth in truths)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.cumsum(np.concatenate(right)[order])
    precision = hits / np.arange(1, len(hits) + 1)
    reached = np.maximum.accumulate(precision[::-1])[::-1]
    gained = np.diff(hits, prepend=0) / max(things, 1)
    return {
        "recall": float(hits[-1]) / max(things, 1) if len(hits) else 0.0,
        "ap": float((reached * gained).sum()),
        "boxes": sum(len(regions) for regions in found) / max(len(found), 1),
        "things": things / max(len(truths), 1),
    }
