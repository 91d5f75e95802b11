"""An image as its regions show it: what a question may speak of and which tag answers it."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.kinds import KINDS, SIGN, kind_of, with_article
from recipes.synthetic.render import RenderedImage, Thing
from vlm_fo1.data.regions import BuiltRegions, covered
from vlm_fo1.markup import RELEASED

Rng = np.random.Generator


@dataclass(frozen=True)
class Item:
    """A thing and the number of its region."""

    thing: Thing
    region: int

    @property
    def x(self) -> float:
        """Middle, from the left, in pixels."""
        return self.thing.centre_xy[0]

    @property
    def y(self) -> float:
        """Middle, from the top, in pixels."""
        return self.thing.centre_xy[1]

    @property
    def box_area(self) -> float:
        """Area of the box in square pixels."""
        x1, y1, x2, y2 = self.thing.box_xyxy
        return (x2 - x1) * (y2 - y1)


@dataclass(frozen=True, eq=False)
class View:
    """An image, its regions, and how questions are to be put."""

    rendered: RenderedImage
    regions: BuiltRegions
    config: SyntheticConfig

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Things that have a region, by its number."""
        objects = self.rendered.objects
        return tuple(
            Item(objects[truth], region)
            for region, truth in enumerate(self.regions.truth.tolist())
            if truth >= 0
        )

    @cached_property
    def by_name(self) -> dict[str, tuple[Item, ...]]:
        """Kind to its things, in the order of their regions."""
        groups: dict[str, list[Item]] = {}
        for item in self.items:
            groups.setdefault(item.thing.name, []).append(item)
        return {name: tuple(group) for name, group in groups.items()}

    @cached_property
    def names(self) -> Counter[str]:
        """How many of each kind the picture shows, with or without a region."""
        return Counter(item.name for item in self.rendered.objects)

    @cached_property
    def empty(self) -> tuple[int, ...]:
        """Regions that hold next to nothing."""
        boxes = self.rendered.boxes_xyxy
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = np.maximum(sides.prod(axis=1), 1)
        result: list[int] = []
        for region in np.flatnonzero(self.regions.truth < 0).tolist():
            box = self.regions.xyxy[region]
            share = covered(box, boxes)
            lost = share * (box[2:] - box[:2]).prod() / areas
            if not len(boxes) or (share.sum() < 0.08 and lost.max() < 0.12):
                result.append(region)
        return tuple(result)

    def absent(self, rng: Rng, near: str | None = None) -> str | None:
        """A kind that the picture does not show, perhaps of the category of another."""
        choices = [name for name in (*self.rendered.kinds, SIGN) if not self.names[name]]
        if near is not None:
            alike = [name for name in choices if category(name) == category(near)]
            choices = alike or choices
        return choices[rng.integers(len(choices))] if choices else None


def category(name: str) -> str:
    """``animal``, ``food``, ...; ``shape`` for a drawn shape."""
    kind = kind_of(name)
    return KINDS[kind][0] if kind in KINDS else "sign" if name == SIGN else "shape"


def mention(label: str, items: tuple[Item, ...] | list[Item]) -> str:
    """A label with the regions of some things, lowest number first."""
    return RELEASED.mention(label, sorted(item.region for item in items))


def brief(thing: Thing) -> str:
    """``a red car``, ``a dog``, ``a sign that says OPEN``."""
    if thing.text is not None:
        return f"a {SIGN} that says {thing.text}"
    return with_article(f"{thing.colour} {thing.name}" if thing.colour else thing.name)
