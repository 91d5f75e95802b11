"""Videos of white squares that move, and what stands in for the networks that follow them."""

import json
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.masks import mask_boxes
from vlm_fo1.regions import Regions
from vlm_fo1.video.frames import Frame, write_video

WH = (64, 48)


SIDE = 12


def scene(step, things=1):
    """White squares on grey; each moves two pixels a frame."""
    image = Image.new("RGB", WH, (60, 60, 60))
    for thing in range(things):
        left, top = 2 + 2 * step, 4 + 24 * thing
        image.paste((255, 255, 255), (left, top, left + SIDE, top + SIDE))
    return image


def squares_of(image):
    """Masks of the white squares, upper first."""
    white = np.asarray(image).mean(2) > 150
    rows = [slice(0, 24), slice(24, 48)]
    masks = np.zeros((2, *white.shape), bool)
    for mask, row in zip(masks, rows, strict=True):
        mask[row] = white[row]
    return masks[masks.any((1, 2))]


def same(first, second):
    """Masks that are there and equal."""
    return first is not None and second is not None and np.array_equal(first, second)


class SquareTracker:
    """Sees the squares that it was told of, and counts how often it was told."""

    def __init__(self):
        self.starts = 0

    def start(self, image: Any, regions: Any) -> Any:
        self.starts += 1
        middles = (regions.xyxy[:, 1] + regions.xyxy[:, 3]) / 2
        self.rows = [int(middle > 24) for middle in middles]
        return self

    def follow(self, image: Any) -> tuple[Any, Any]:
        masks = np.zeros((len(self.rows), *image.size[::-1]), bool)
        for mask, row in zip(masks, self.rows, strict=True):
            for square in squares_of(image):
                if int(mask_boxes(square[None])[0, 1] >= 24) == row:
                    mask[:] = square
        return masks, masks.any((1, 2)).astype(np.float32)


def choose_all(image, *, masks=True):
    found = squares_of(image)
    if not len(found):
        return Answer("", Regions.empty(image.size), labels=("square",))
    regions = Regions(mask_boxes(found), image.size, masks=found if masks else None)
    return Answer("", regions, (Mention("square", tuple(range(len(found)))),), plain="found")


def frames_of(images, start=0):
    return [Frame(start + i, (start + i) / 10, image) for i, image in enumerate(images)]


def save_folder(folder, count, things=1):
    folder.mkdir(exist_ok=True)
    for index in range(count):
        scene(index, things).save(folder / f"frame{index}.png")
    return folder


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def cut_short(path, share=0.5, suffix=".mkv"):
    """A video of twenty frames of noise, cut off in the middle of the file."""
    noise = (
        Image.fromarray(np.random.default_rng(step).integers(0, 256, (48, 64, 3), np.uint8))
        for step in range(40)
    )
    whole = path.with_name("whole" + suffix)
    write_video(whole, noise, Fraction(10))
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
