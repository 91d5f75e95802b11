"""More regions than a question holds, in an image of noise."""

import numpy as np

from vlm_fo1.regions import Regions

SIZE = (300, 200)


PIXELS = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


def grid(count, side=8):
    """Boxes next to each other, row by row, none touching another."""
    columns = SIZE[0] // (side + 2)
    rows, places = np.divmod(np.arange(count), columns)
    corners = np.stack([places, rows], 1) * (side + 2)
    return np.concatenate([corners, corners + side], 1).astype(np.float32)


def regions(boxes, scores=None, size_wh=SIZE):
    known = None if scores is None else np.array(scores, np.float32)
    return Regions(np.array(boxes, np.float32).reshape(-1, 4), size_wh, known)
