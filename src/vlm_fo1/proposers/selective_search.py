"""Selective search, ranked and thinned: boxes on photographs from no weights at all."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vlm_fo1._extras import require
from vlm_fo1.boxes import nms
from vlm_fo1.errors import ConfigError, MissingExtraError
from vlm_fo1.proposers.base import Selection, check_queries, ranked
from vlm_fo1.proposers.digest import digest_of
from vlm_fo1.regions import Regions

Boxes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

_LEAST_SIDE = 8
"""Pixels of the shrunken image below which nothing is looked for."""
_EVERY = 2
"""Boxes are ranked on every second pixel."""
_SMOOTHING = 0.8
_SCALES = ((100.0, 30), (300.0, 60), (800.0, 120))
"""Merging threshold and least pixels of the segmentations that a good box does not cut through."""
_RING = 0.35
"""Width of the ring around a box that its colours are compared with, both sides together, as a
share of the box."""
_WHOLE = 0.1
"""Contrast of a box of the whole image, which nothing lies around."""
_SHADES = (4, 6, 6)
"""Levels of lightness and of the two colour axes of Lab when colours are compared."""
_AREA_POWER = 0.2
"""How much larger boxes go before smaller ones."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How many boxes are made, and from what."""

    keep: int | None = 100
    """Greatest number of boxes; None keeps all of several hundreds, overlapping ones too."""
    nms_iou: float = 0.65
    """Of two boxes that overlap more than this one goes, unless ``keep`` is None."""
    long_side: int = 400
    """Larger images are shrunk to so many pixels first."""

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: No box to keep, an overlap outside [0, 1], or a side below 8 pixels.
        """
        if self.keep is not None and self.keep < 1:
            raise ConfigError(f"keep = {self.keep}: at least 1 box, or None for all")
        if not 0 <= self.nms_iou <= 1:
            raise ConfigError(f"nms_iou = {self.nms_iou} must be an IoU: from 0 to 1")
        if self.long_side < _LEAST_SIDE:
            raise ConfigError(f"long_side = {self.long_side}: at least {_LEAST_SIDE} pixels")


class SelectiveSearch:
    """Boxes of segments that were merged by likeness, ranked by how much they look like a thing.

    Selective search gives many hundreds of boxes in no useful order, so that this proposer, alone
    among all, ranks and thins them itself. The score is a product of three numbers from 0 to 1:
    the share of the box that is not cut off from segments reaching out of it (Alexe et al. 2012,
    superpixels straddling), the chi-square distance of its colours to those of a ring around it,
    and a weak preference for size. It orders the boxes of one image and means nothing else.

    Source: Uijlings et al., Selective Search for Object Recognition, IJCV 2013, as OpenCV has it.
    """

    name = "selective"
    requires_labels = False
    selection = Selection(nms_iou=0.8, limit=100)
    """No score is too low: scores only order the boxes of one image."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Look for OpenCV's contributed modules.

        Raises:
            MissingExtraError: The extra ``photo`` is not installed, or another OpenCV lies over it.
        """
        self.settings = settings or Settings()
        self._cv2 = require("cv2", extra="photo")
        segmentation = getattr(getattr(self._cv2, "ximgproc", None), "segmentation", None)
        if not hasattr(segmentation, "createSelectiveSearchSegmentation"):
            raise MissingExtraError(
                f"this OpenCV ({self._cv2.__version__}) has no selective search: another build "
                "was installed over opencv-contrib-python-headless. Install that one last: pip "
                "install --force-reinstall --no-deps opencv-contrib-python-headless"
            )
        self._segmentation: Any = segmentation
        self.fingerprint = digest_of(self.name, self._cv2.__version__, asdict(self.settings))

    @classmethod
    def from_pretrained(
        cls,
        argument: str = "",
        *,
        device: str | torch.device | None = None,  # noqa: ARG003 - it runs on the CPU
        dtype: str | torch.dtype | None = None,  # noqa: ARG003 - there are no weights
        keep: int | None = Settings.keep,
        nms_iou: float = Settings.nms_iou,
        long_side: int = Settings.long_side,
    ) -> "SelectiveSearch":
        """Make one by name: ``"selective"``.

        Args:
            argument: Has to be empty: there is nothing to load.
            device: Has no effect: it runs on the CPU.
            dtype: Has no effect.
            keep: Greatest number of boxes; None keeps all.
            nms_iou: Of two boxes that overlap more than this one goes.
            long_side: Larger images are shrunk to so many pixels first.

        Raises:
            ConfigError: Something to load was named, or a setting that cannot be.
            MissingExtraError: The extra ``photo`` is not installed, or another OpenCV lies over it.
        """
        if argument:
            raise ConfigError(
                f"selective:{argument}: selective search loads nothing, write 'selective' alone"
            )
        return cls(Settings(keep=keep, nms_iou=nms_iou, long_side=long_side))

    def propose(
        self, images: Sequence[Image.Image], *, queries: Sequence[str] | None = None
    ) -> list[Regions]:
        """The most thing-like boxes of each image; the same image always gives the same ones.

        Args:
            images: Upright RGB images.
            queries: Has to be None.

        Returns:
            One `Regions` per image; empty for an image less than 8 pixels wide or high.

        Raises:
            PromptError: Queries were given.
        """
        check_queries(self.name, queries, needed=False)
        return [self._boxes(image) for image in images]

    def _boxes(self, image: Image.Image) -> Regions:
        shrink = min(1.0, self.settings.long_side / max(*image.size, 1))
        width, height = round(image.width * shrink), round(image.height * shrink)
        if min(width, height) < _LEAST_SIDE:
            return ranked([], [], image.size, name=self.name)
        small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        bgr_HW3 = np.ascontiguousarray(np.asarray(small)[..., ::-1])
        xyxy = self._search(bgr_HW3)
        scores = self._closed(bgr_HW3, xyxy) * self._contrast(bgr_HW3, xyxy)
        scores *= ((xyxy[:, 2:] - xyxy[:, :2]).prod(1) / (width * height)) ** _AREA_POWER
        if self.settings.keep is not None:
            best = nms(xyxy, scores, self.settings.nms_iou)[: self.settings.keep]
            xyxy, scores = xyxy[best], scores[best]
        back = np.array([image.width / width, image.height / height] * 2)
        return ranked(xyxy * back, scores, image.size, name=self.name)

    def _search(self, bgr_HW3: Pixels) -> Boxes:
        """(N, 4) boxes, each once, sorted: OpenCV's own order is partly random."""
        search = self._segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(bgr_HW3)
        search.switchToSelectiveSearchFast()
        xywh = np.unique(np.asarray(search.process(), np.int64).reshape(-1, 4), axis=0)
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)

    def _closed(self, bgr_HW3: Pixels, xyxy: Boxes) -> Floats:
        """1 where no segment crosses the border of the box, towards 0 where all do; (N,)."""
        total = np.zeros(len(xyxy))
        corners = _on_grid(xyxy, bgr_HW3)
        for threshold, least in _SCALES:
            graph = self._segmentation.createGraphSegmentation(_SMOOTHING, threshold, least)
            segments = graph.processImage(bgr_HW3)[::_EVERY, ::_EVERY]
            count = int(segments.max()) + 1
            sizes = np.bincount(segments.ravel(), minlength=count)
            for index, (x1, y1, x2, y2) in enumerate(corners):
                inside = np.bincount(segments[y1:y2, x1:x2].ravel(), minlength=count)
                straddling = np.minimum(inside, sizes - inside).sum()
                total[index] += max(0.0, 1 - straddling / ((x2 - x1) * (y2 - y1)))
        return total / len(_SCALES)

    def _contrast(self, bgr_HW3: Pixels, xyxy: Boxes) -> Floats:
        """Chi-square distance, 0 to 1, of the colours in each box to those in a ring around it."""
        lab_HW3 = self._cv2.cvtColor(bgr_HW3, self._cv2.COLOR_BGR2LAB)[::_EVERY, ::_EVERY]
        counts = _counts(_shades(lab_HW3.astype(np.int64)))
        height, width = counts.shape[0] - 1, counts.shape[1] - 1
        corners = _on_grid(xyxy, bgr_HW3)
        margin = ((corners[:, 2:] - corners[:, :2]) * _RING / 2).astype(np.int64).clip(2)
        wide = np.concatenate([corners[:, :2] - margin, corners[:, 2:] + margin], axis=1)
        wide = np.clip(wide, 0, [width, height, width, height])
        inside = _within(counts, corners)
        around = _within(counts, wide) - inside
        seen = around.sum(1) > 0
        inside /= inside.sum(1, keepdims=True).clip(1)
        around /= around.sum(1, keepdims=True).clip(1)
        distance = ((inside - around) ** 2 / (inside + around).clip(1e-9)).sum(1) / 2
        return np.where(seen, distance, _WHOLE)


def _on_grid(xyxy: Boxes, image: Pixels) -> Boxes:
    """Boxes on every second pixel, none of them empty."""
    height, width = -(-image.shape[0] // _EVERY), -(-image.shape[1] // _EVERY)
    start = np.minimum(xyxy[:, :2] // _EVERY, [width - 1, height - 1])
    end = np.clip(-(-xyxy[:, 2:] // _EVERY), start + 1, [width, height])
    return np.concatenate([start, end], axis=1)


def _shades(lab_HW3: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(H, W) number of the colour of each pixel, counted from 0 over the colours that appear."""
    light = lab_HW3[..., 0] * _SHADES[0] // 256
    # photographs use the middle of the colour axes: 80 to 176
    a, b = ((lab_HW3[..., i] - 80) * _SHADES[i] // 96 for i in (1, 2))
    colours = light * _SHADES[1] + a.clip(0, _SHADES[1] - 1)
    colours = colours * _SHADES[2] + b.clip(0, _SHADES[2] - 1)
    return np.unique(colours, return_inverse=True)[1].reshape(light.shape)


def _counts(shades_HW: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(H + 1, W + 1, shades): how often each appears above and left of a corner."""
    height, width = shades_HW.shape
    shades = int(shades_HW.max()) + 1
    counts = np.zeros((height + 1, width + 1, shades), np.float32)
    counts[1:, 1:] = np.eye(shades, dtype=np.float32)[shades_HW]
    return counts.cumsum(0).cumsum(1)


def _within(counts: npt.NDArray[np.float32], xyxy: Boxes) -> Floats:
    """(N, shades): how often each appears within a box."""
    x1, y1, x2, y2 = xyxy.T
    return (counts[y2, x2] - counts[y1, x2] - counts[y2, x1] + counts[y1, x1]).astype(np.float64)
