"""Boxes in one image, with what is known about each: `Regions`, frozen and validated.

Boxes are float32 xyxy in pixels of the image as displayed (orientation applied).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.boxes import well_formed
from vlm_fo1.errors import BoxError
from vlm_fo1.masks import decode_rle, encode_rle

Floats = npt.NDArray[np.float32]
Selector = int | slice | Sequence[int] | npt.NDArray[np.int64] | npt.NDArray[np.bool_]


def _floats(values: npt.ArrayLike, count: int, name: str) -> Floats:
    """One finite number a region, or NaN where it is unknown; read-only.

    Raises:
        BoxError: Another number of values than boxes, or an infinite one.
    """
    array = np.array(values, np.float32)
    if array.shape != (count,):
        raise BoxError(f"{name} has shape {array.shape} for {count} boxes: pass one value per box")
    if np.isinf(array).any():
        raise BoxError(
            f"{name} of box {int(np.argmax(np.isinf(array)))} is infinite: NaN is unknown"
        )
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Regions:
    """Boxes in one image, with what is known about each; best first when a proposer made them.

    Args:
        xyxy: (N, 4) pixels of the image.
        size_wh: Width and height of that image in pixels.
        scores: (N,) the proposer's own score, or None.
        confidence: (N,) the model's probability of its region token while decoding, or None; NaN
            for a region the model did not choose.
        labels: N names, or None.
        masks: (N, H, W) bool at image size, or None.
    """

    xyxy: Floats
    size_wh: tuple[int, int]
    scores: Floats | None = None
    confidence: Floats | None = None
    labels: tuple[str, ...] | None = None
    masks: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Coerce, copy and freeze.

        Raises:
            BoxError: A box that is not finite or is reversed, or a field without one entry per box.
        """
        xyxy = well_formed(self.xyxy)
        xyxy.setflags(write=False)
        object.__setattr__(self, "xyxy", xyxy)
        width, height = self.size_wh
        object.__setattr__(self, "size_wh", (int(width), int(height)))
        for name in ("scores", "confidence"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _floats(value, len(xyxy), name))
        if self.labels is not None:
            labels: tuple[str, ...] = tuple(self.labels)
            if len(labels) != len(xyxy):
                raise BoxError(f"{len(labels)} labels for {len(xyxy)} boxes: pass one per box")
            object.__setattr__(self, "labels", labels)
        if self.masks is not None:
            masks = np.array(self.masks, np.bool_)
            if masks.shape != (len(xyxy), height, width):
                raise BoxError(
                    f"masks have shape {masks.shape}, ({len(xyxy)}, {height}, {width}) is needed: "
                    "one mask per box at image size"
                )
            masks.setflags(write=False)
            object.__setattr__(self, "masks", masks)

    @classmethod
    def empty(cls, size_wh: tuple[int, int]) -> "Regions":
        """No regions in an image of this size."""
        return cls(np.zeros((0, 4), np.float32), size_wh)

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, which: Selector) -> "Regions":
        """A subset, in the given order: an index, a slice, indices or a boolean mask.

        Raises:
            IndexError: An index beyond the regions, or a mask of another length.
        """
        if isinstance(which, tuple):
            which = list(which)  # NumPy reads a tuple as one index per axis
        indices: npt.NDArray[np.int64] = np.atleast_1d(np.arange(len(self))[which])
        labels = self.labels
        return Regions(
            self.xyxy[indices],
            self.size_wh,
            None if self.scores is None else self.scores[indices],
            None if self.confidence is None else self.confidence[indices],
            None if labels is None else tuple(labels[int(i)] for i in indices),
            None if self.masks is None else self.masks[indices],
        )

    def order(self) -> npt.NDArray[np.int64]:
        """(N,) indices, best first: by score, unknown ones last; as they stand without scores."""
        if self.scores is None:
            return np.arange(len(self))
        return np.argsort(-self.scores, kind="stable")

    def to_dict(self, *, masks: bool = False) -> dict[str, Any]:
        """Plain values, one list per field.

        Args:
            masks: Write masks too, as COCO's run lengths; without masks nothing is added.
        """
        result: dict[str, Any] = {"xyxy": [[rounded(v) for v in box] for box in self.xyxy.tolist()]}
        for name, values in (("scores", self.scores), ("confidence", self.confidence)):
            if values is not None:
                result[name] = [rounded_score(value) for value in values.tolist()]
        if self.labels is not None:
            result["labels"] = list(self.labels)
        if masks and self.masks is not None:
            result["masks"] = [encode_rle(mask) for mask in self.masks]
        return result

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], size_wh: tuple[int, int]) -> "Regions":
        """What `to_dict` gave as regions again, rounded as it wrote them.

        Args:
            values: Of `to_dict`.
            size_wh: Width and height of the image in pixels.

        Raises:
            BoxError: Boxes that cannot be, or a field without one entry per box.
        """

        def floats(name: str) -> Floats | None:
            found = values.get(name)
            if found is None:
                return None
            return np.array([np.nan if value is None else value for value in found], np.float32)

        labels, masks = values.get("labels"), values.get("masks")
        return cls(
            np.array(values["xyxy"], np.float32).reshape(-1, 4),
            size_wh,
            floats("scores"),
            floats("confidence"),
            None if labels is None else tuple(labels),
            None if masks is None else np.array([decode_rle(mask) for mask in masks]),
        )


@dataclass(frozen=True, eq=False)
class Offer:
    """Regions that a question may point at, and what the user should know of them."""

    regions: Regions
    notes: tuple[str, ...] = ()
    """For the ``problems`` of every answer: what was assumed, turned or left out."""
    tile: int | None = None
    """Side in pixels of the tiles through which the image is looked at; None for the whole."""
    seconds: float = 0.0
    """What it took to find them."""

    def __len__(self) -> int:
        return len(self.regions)


def rounded(value: float, digits: int = 2) -> float:
    """Round for files: two decimals for pixels, six for scores; never a negative zero."""
    return round(float(value), digits) + 0.0


def rounded_score(score: float) -> float | None:
    """A score for files, None where it is NaN: JSON has no NaN."""
    return None if np.isnan(score) else rounded(score, 6)
