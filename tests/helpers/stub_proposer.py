"""A proposer that offers what a test wants, wherever a thing is in the image."""

from typing import ClassVar

import numpy as np

from vlm_fo1.proposers.base import check_queries, ranked
from vlm_fo1.regions import Regions

BOXES = [[2, 3, 40, 50], [30, 20, 100, 80]]


class Stub:
    """Finds `BOXES` with scores 0.9 and 0.4 in every image they fit into.

    Args:
        named: Whether it looks for named things.
    """

    asked: ClassVar[list] = []
    """The queries of every call, one entry an image."""
    name = "stub"

    def __init__(self, *, named=False):
        self.requires_labels = named
        self.fingerprint = f"stub {named}"

    @classmethod
    def from_pretrained(cls, argument, *, device=None, dtype=None):
        del device, dtype
        return cls(named=argument == "named")

    def propose(self, images, *, queries=None):
        check_queries(self.name, queries, needed=self.requires_labels)
        self.asked.extend([queries] * len(images))
        return [ranked(BOXES, [0.9, 0.4], image.size, name=self.name) for image in images]


class Painted:
    """Finds every patch of one pure colour, as one box, in images made by `painted`."""

    name = "painted"
    fingerprint = "painted"
    requires_labels = False

    def __init__(self):
        self.seen: list[tuple[int, int]] = []

    def propose(self, images, *, queries=None):
        check_queries(self.name, queries, needed=False)
        self.seen += [image.size for image in images]
        return [self._find(np.asarray(image), image.size) for image in images]

    def _find(self, pixels, size_wh):
        boxes = []
        for colour in sorted(set(map(tuple, pixels.reshape(-1, 3).tolist())) - {(0, 0, 0)}):
            ys, xs = np.nonzero((pixels == colour).all(-1))
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        if not boxes:
            return Regions.empty(size_wh)
        return ranked(boxes, np.linspace(0.9, 0.5, len(boxes)), size_wh, name=self.name)


def painted(size_wh, boxes):
    """A black image with a patch of its own colour in each box."""
    pixels = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(np.asarray(boxes).astype(int).tolist(), start=1):
        pixels[y1:y2, x1:x2] = (number, 255 - number % 200, 7)
    return pixels
