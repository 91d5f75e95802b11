"""The proposers that the contract is held against: how a case is written, and where they are.

A module of this package has a module-level ``CASES: list[ProposerCase]``; every
module is found by itself. A case builds a REAL proposer class at tiny random size:

    def build(folder: Path) -> Proposer:
        torch.manual_seed(0)
        ...save tiny random weights in `folder` (fresh and empty), load them as a user would...

    CASES = [ProposerCase(name="upn", build=build, queries=None, other=build_with_other_weights)]

`build` gives equal proposers, fingerprint included, whenever and in whatever folder it is called.
Keep it under two seconds. The weights should be such that boxes come out: a contract over empty
lists shows little, so `test_something_is_found` asks for some on the images below.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vlm_fo1.proposers.base import Proposer


@dataclass(frozen=True)
class ProposerCase:
    """One proposer under contract."""

    name: str
    build: Callable[[Path], Proposer]
    """Makes it; gets a scratch folder to save tiny weights in."""
    queries: list[str] | None
    """What it looks for; None for a proposer that takes no queries."""
    other: Callable[[Path], Proposer] | None = None
    """The same class with other settings or weights: another fingerprint."""
    needs: str | None = None
    """Import name of an optional package without which the case is skipped."""


def all_cases() -> list[ProposerCase]:
    """Cases of every module of this package, in the order of file names."""
    modules = sorted(found.name for found in pkgutil.iter_modules(__path__))
    return [
        case for name in modules for case in importlib.import_module(f"{__name__}.{name}").CASES
    ]


def scene(seed: int = 0, size_wh: tuple[int, int] = (96, 64)) -> Image.Image:
    """An image with a few plain things and a word on a soft background."""
    random = np.random.default_rng(seed)
    width, height = size_wh
    slope = np.linspace(150, 210, width)[None, :, None] + np.zeros((height, 1, 3))
    image = Image.fromarray((slope + random.normal(0, 2, (height, width, 3))).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        side = int(random.integers(max(2, height // 6), max(3, height // 3)))
        x, y = int(random.integers(0, width - side)), int(random.integers(0, height - side))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        shape((x, y, x + side, y + side), fill=colour)
    draw.text((width // 8, height // 8), "FO1", fill=(0, 0, 0), font_size=max(8, height // 4))
    return image
