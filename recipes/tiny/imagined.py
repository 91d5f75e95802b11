"""Images nobody drew: boxes with names, colours and words, for a host that learns to look up."""

from collections.abc import Sequence

import numpy as np

from recipes.synthetic.colours import COLOURS
from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.kinds import COLOURABLE, SIGN
from recipes.synthetic.render import RenderedImage, Thing
from recipes.synthetic.view import View
from recipes.tiny.features import blank
from vlm_fo1.data.regions import BuiltRegions

_COLOURS = tuple(COLOURS)


def imagine(
    kinds: Sequence[str],
    words: Sequence[str],
    regions: int,
    rng: np.random.Generator,
) -> View:
    """So many regions, some of nothing, some signs, several of a kind often.

    Args:
        kinds: Names that may appear.
        words: What signs may say, each once.
        regions: How many.
        rng: Decides everything.
    """
    width, height = (int(v) for v in rng.integers(256, 321, 2))
    empty = int(rng.binomial(regions, 0.15)) if regions > 2 else 0
    signs = int(rng.binomial(regions - empty, 0.3)) if rng.random() < 0.7 else 0
    signs = min(signs, len(words))
    things = max(1, regions - empty - signs)
    distinct = int(np.clip(round(things * rng.uniform(0.25, 0.8)), 1, len(kinds)))
    chosen = [kinds[int(i)] for i in rng.choice(len(kinds), distinct, replace=False)]
    names = chosen + [chosen[int(rng.integers(distinct))] for _ in range(things - distinct)]
    names += [SIGN] * signs
    texts = [words[int(i)] for i in rng.choice(len(words), signs, replace=False)]
    boxes = _boxes(len(names) + empty, width, height, rng)
    palette = rng.choice(_COLOURS, int(rng.integers(2, 5)), replace=False).tolist()
    natural = {name: str(rng.choice(palette)) for name in chosen}
    painted = {name for name in chosen if name in COLOURABLE and rng.random() < 0.6}
    objects: list[Thing] = []
    for index, name in enumerate(names):
        text = texts[index - things] if name == SIGN else None
        colour = str(rng.choice(palette)) if name in painted else natural.get(name)
        x1, y1, x2, y2 = boxes[index].tolist()
        objects.append(
            Thing(name=name, box_xyxy=(x1, y1, x2, y2), colour=colour, text=text, area=1.0)
        )
    order = rng.permutation(len(boxes))
    truth = np.where(order < len(names), order, -1)
    xyxy = boxes[order].astype(np.float32)
    rendered = RenderedImage(
        image=blank(width, height), objects=tuple(objects), background=None, kinds=tuple(kinds)
    )
    built = BuiltRegions(xyxy, truth, np.ones(len(truth), np.float32))
    return View(rendered, built, SyntheticConfig())


def _boxes(count: int, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    high = min(112.0, 1.6 * (width * height / max(count, 1)) ** 0.5)
    long = np.exp(rng.uniform(np.log(30), np.log(max(high, 31)), count))
    aspect = np.exp(rng.normal(0, 0.35, count))
    w, h = long * np.minimum(1, aspect), long * np.minimum(1, 1 / aspect)
    x, y = rng.uniform(0, 1, count) * (width - w), rng.uniform(0, 1, count) * (height - h)
    return np.stack([x, y, x + w, y + h], axis=1).round(1)
