"""Images nobody drew: boxes with names, colours and words, for a host that learns to look up."""

from collections.abc import Sequence

import numpy as np

from recipes.synthetic.colours import COLOURS
from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.kinds import COLOURABLE, SIGN
from recipes.synthetic.render import Thing
from recipes.synthetic.view import View
from recipes.tiny.shards import without_pixels
from vlm_fo1.data.regions import BuiltRegions

_COLOURS = tuple(COLOURS)


def imagine(
    config: SyntheticConfig,
    kinds: Sequence[str],
    words: Sequence[str],
    regions: int,
    rng: np.random.Generator,
) -> View:
    """So many regions, some of nothing, some signs, several of a kind often.

    Args:
        config: Of the questions to be asked.
        kinds: Names that may appear.
        words: What signs may say, each once.
        regions: How many.
        rng: Decides everything.
    """
    width, height = (int(v) for v in rng.integers(256, 321, 2))
    blank = int(rng.binomial(regions, 0.15)) if regions > 2 else 0
    signs = int(rng.binomial(regions - blank, 0.3)) if rng.random() < 0.7 else 0
    signs = min(signs, len(words))
    things = max(1, regions - blank - signs)
    distinct = int(np.clip(round(things * rng.uniform(0.25, 0.8)), 1, len(kinds)))
    chosen: list[str] = [
        kinds[int(i)] for i in rng.choice(len(kinds), distinct, replace=False).tolist()
    ]
    names = chosen + [chosen[int(rng.integers(distinct))] for _ in range(things - distinct)]
    names += [SIGN] * signs
    texts: list[str] = [
        words[int(i)] for i in rng.choice(len(words), signs, replace=False).tolist()
    ]
    boxes = _boxes(len(names) + blank, width, height, rng)
    palette = rng.choice(len(_COLOURS), int(rng.integers(2, 5)), replace=False)
    natural = {name: _COLOURS[palette[int(rng.integers(len(palette)))]] for name in chosen}
    painted = {name for name in chosen if name in COLOURABLE and rng.random() < 0.6}
    objects: list[Thing] = []
    for index, name in enumerate(names):
        text = texts[index - things] if name == SIGN else None
        colour = None if text else natural.get(name)
        if text is None and name in painted:
            colour = _COLOURS[palette[int(rng.integers(len(palette)))]]
        x1, y1, x2, y2 = boxes[index].tolist()
        box = (x1, y1, x2, y2)
        objects.append(Thing(name=name, box_xyxy=box, colour=colour, text=text, area=1.0))
    rendered = without_pixels((width, height), objects, None, kinds)
    order = rng.permutation(len(boxes))
    truth = np.where(order < len(names), order, -1)
    built = BuiltRegions(boxes[order].astype(np.float32), truth, np.ones(len(boxes), np.float32))
    return View(rendered, built, config)


def _boxes(count: int, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    high = min(112.0, 1.6 * (width * height / max(count, 1)) ** 0.5)
    long = np.exp(rng.uniform(np.log(30), np.log(max(high, 31)), count))
    aspect = np.exp(rng.normal(0, 0.35, count))
    w, h = long * np.minimum(1, aspect), long * np.minimum(1, 1 / aspect)
    x, y = rng.uniform(0, 1, count) * (width - w), rng.uniform(0, 1, count) * (height - h)
    return np.stack([x, y, x + w, y + h], axis=1).round(1)
