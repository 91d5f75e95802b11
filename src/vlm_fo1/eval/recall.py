"""What ceiling proposals set: how much of the truth is among them, whatever it is called.

An object that no box covers cannot be pointed at, so recall of the proposals bounds that of the
answers. Average recall is COCO's: over IoU 0.5, 0.55, ..., 0.95, at most 10, 50 or 100 boxes an
image, by the area of the objects; each box accounts for one object, the best first.

Shapes: N boxes of an image, best first; M objects of it; T thresholds; K limits.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.boxes import areas, iou
from vlm_fo1.config import read_json
from vlm_fo1.errors import BoxError
from vlm_fo1.formats.coco import CocoFile
from vlm_fo1.formats.identity import shown_boxes
from vlm_fo1.formats.records import parse_records
from vlm_fo1.images import Frame
from vlm_fo1.regions import Regions

LIMITS = (10, 50, 100)
"""Boxes an image that are counted."""
SIZES = {
    "all": (0.0, float("inf")),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, float("inf")),
}
"""Least and greatest area of an object, in pixels; one on the border counts on both sides."""
_THRESHOLDS_T = np.linspace(0.5, 0.95, 10)
_ROUNDING = 1e-6
"""IoU is kept in float32: 0.7 would miss its own threshold."""


@dataclass(frozen=True, kw_only=True)
class RecallReport:
    """What `RecallMeter` measured."""

    images: int
    objects: dict[str, int]
    """Number of objects by size."""
    average_recall: dict[str, dict[int, float | None]]
    """By size, then by limit; None where there are no objects of that size."""
    recall_at_iou_50: dict[str, dict[int, float | None]]
    """The same at IoU 0.5 alone."""
    images_without: float | None
    """Share of images that got no box."""
    boxes_per_image: float | None
    latency_s: float | None
    """Median seconds an image, of those that were not in a cache."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "images": self.images,
            "objects": dict(self.objects),
            "average_recall": _plain(self.average_recall),
            "recall_at_iou_50": _plain(self.recall_at_iou_50),
            "images_without": _short(self.images_without),
            "boxes_per_image": _short(self.boxes_per_image),
            "latency_s": _short(self.latency_s),
        }


@dataclass
class RecallMeter:
    """Adds up images one by one; `report` may be asked for at any time."""

    _found: dict[str, npt.NDArray[np.int64]] = field(
        default_factory=lambda: {
            size: np.zeros((len(LIMITS), len(_THRESHOLDS_T)), np.int64) for size in SIZES
        }
    )
    _objects: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIZES, 0))
    _boxes: list[int] = field(default_factory=list[int])
    _latency_s: list[float] = field(default_factory=list[float])

    def add(
        self,
        regions: Regions,
        objects_xyxy: npt.ArrayLike,
        object_areas: npt.ArrayLike | None = None,
        *,
        latency_s: float | None = None,
    ) -> None:
        """Count one image.

        Args:
            regions: What was offered, best first.
            objects_xyxy: (M, 4) pixels of that image.
            object_areas: (M,) square pixels, by which objects are small or large; by default those
                of their boxes.
            latency_s: Seconds that the proposer took; None where it was not asked.
        """
        objects_M4 = np.asarray(objects_xyxy, np.float32).reshape(-1, 4)
        areas_M = np.asarray(areas(objects_M4) if object_areas is None else object_areas)
        overlap_NM = iou(regions.xyxy[: max(LIMITS)], objects_M4)
        for size, (least, greatest) in SIZES.items():
            those = (areas_M >= least) & (areas_M <= greatest)
            self._objects[size] += int(those.sum())
            right_NT = matches(overlap_NM[:, those], _THRESHOLDS_T)
            self._found[size] += np.stack([right_NT[:limit].sum(0) for limit in LIMITS])
        self._boxes.append(len(regions))
        if latency_s is not None:
            self._latency_s.append(latency_s)

    def report(self) -> RecallReport:
        """What was measured so far."""
        images = len(self._boxes)
        average: dict[str, dict[int, float | None]] = {}
        at_50: dict[str, dict[int, float | None]] = {}
        for size, found_KT in self._found.items():
            count = self._objects[size]
            shares_KT = (found_KT / count).tolist() if count else None
            rows = dict(zip(LIMITS, shares_KT or [[None]] * len(LIMITS), strict=True))
            average[size] = {limit: _mean(row) for limit, row in rows.items()}
            at_50[size] = {limit: row[0] for limit, row in rows.items()}
        return RecallReport(
            images=images,
            objects=dict(self._objects),
            average_recall=average,
            recall_at_iou_50=at_50,
            images_without=self._boxes.count(0) / images if images else None,
            boxes_per_image=sum(self._boxes) / images if images else None,
            latency_s=float(np.median(self._latency_s)) if self._latency_s else None,
        )


def matches(
    overlap_NM: npt.NDArray[np.float32], thresholds_T: npt.ArrayLike
) -> npt.NDArray[np.bool_]:
    """Which boxes account for an object: each, best first, for the best that is left.

    Args:
        overlap_NM: IoU of boxes, best first, with objects.
        thresholds_T: Least IoU, each looked at by itself.

    Returns:
        (N, T), True where a box has an object of its own.
    """
    least_T1 = np.asarray(thresholds_T, np.float64)[:, None] - _ROUNDING
    rows_T = np.arange(len(least_T1))
    right_NT = np.zeros((len(overlap_NM), len(least_T1)), np.bool_)
    if not overlap_NM.size:
        return right_NT
    free_TM = np.ones((len(least_T1), overlap_NM.shape[1]), np.bool_)
    for overlap_M, right_T in zip(overlap_NM, right_NT, strict=True):
        fits_TM = free_TM & (overlap_M >= least_T1)
        best_T = np.where(fits_TM, overlap_M, -1).argmax(1)
        right_T[:] = fits_TM[rows_T, best_T]
        free_TM[rows_T, best_T] &= ~right_T
    return right_NT


@dataclass(frozen=True, eq=False)
class Objects:
    """What is in an image."""

    xyxy: npt.NDArray[np.float32]
    """(M, 4) pixels of the image as shown."""
    areas: npt.NDArray[np.float32]
    """(M,) square pixels."""
    note: str | None = None
    """What was done to the boxes of the file for the user to know."""


class CocoTruth:
    """Objects of the images of a COCO file; crowds are left out, as COCO's recall does.

    Args:
        path: A COCO data set: ``images`` and ``annotations``.

    Raises:
        BoxError: The file cannot be read, or is none.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        values = read_json(path, BoxError)
        try:
            if not isinstance(values, dict):
                raise BoxError(f"it holds {type(values).__name__}")
            self._file = CocoFile(values)
            self.strays = self._file.strays
            """What is to be told of annotations that belong to no image, if there are any."""
            boxes = [record for record in values["annotations"] if not record.get("iscrowd")]
            parse_records(boxes)
        except BoxError as error:
            raise BoxError(
                f"truth file {path} is no COCO data set ({error}): 'images' with 'id' and "
                "'file_name', and 'annotations' with 'image_id' and 'bbox' are needed"
            ) from error

    def __len__(self) -> int:
        return self._file.size

    def objects(self, image: str | Path, frame: Frame | tuple[int, int]) -> Objects:
        """The objects of one image.

        Args:
            image: Its path; file name and folders have to fit those of the data set.
            frame: How it is shown and stored, or only its size as shown, in pixels. Boxes of the
                stored size are turned along.

        Raises:
            BoxError: The data set does not hold it, or with another size.
        """
        frame = frame if isinstance(frame, Frame) else Frame(frame, frame)
        try:
            found = self._file.image(image)
            records = [record for record in found.annotations if not record.get("iscrowd")]
            boxes, note = shown_boxes(parse_records(records)["xyxy"], found.stated_wh, frame)
        except BoxError as error:
            raise BoxError(f"the truth {self.path.name}: {error}") from error
        stated = [_number(record.get("area")) for record in records]
        own = areas(boxes).tolist()
        known = [area if said is None else said for said, area in zip(stated, own, strict=True)]
        return Objects(boxes, np.array(known, np.float32), note)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _mean(row: list[float] | list[None]) -> float | None:
    known = [value for value in row if value is not None]
    return sum(known) / len(known) if known else None


def _plain(table: dict[str, dict[int, float | None]]) -> dict[str, dict[str, float | None]]:
    return {
        size: {str(limit): _short(value) for limit, value in row.items()}
        for size, row in table.items()
    }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
