"""Phrases that mean exactly one thing in an image, by a clear margin."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from recipes.synthetic.kinds import SIGN
from recipes.synthetic.view import Item, Rng, View

Found = list[tuple[str, Item]]

_SIZE_MARGIN = 1.5  # area of the largest over the next
_NEAR_MARGIN = 1.35  # distance of the next nearest over the nearest


def phrases(view: View) -> dict[str, Found]:
    """Every phrase by its form, each with the one thing it means.

    Forms are "size", "end", "colour", "negation", "side", "near", "text" and "only".
    """
    found = {form: find(view) for form, find in _FORMS.items()}
    return {form: pairs for form, pairs in found.items() if pairs}


def nothing(view: View, rng: Rng) -> str | None:
    """A phrase that means no thing in the image: a kind or a colour that is not there."""
    if rng.random() < 0.5:
        absent = view.absent(rng)
        return None if absent is None else f"the {absent}"
    candidates: list[str] = []
    for name, group in view.by_name.items():
        colours = {item.thing.colour for item in group}
        if None not in colours and len(group) == view.names[name]:
            others = sorted(_seen_colours(view) - colours)
            candidates += [f"the {colour} {name}" for colour in others]
    return candidates[rng.integers(len(candidates))] if candidates else None


def _seen_colours(view: View) -> set[str]:
    basic = {"black", "white", "red", "blue", "green", "yellow"}
    return basic | {item.thing.colour for item in view.items if item.thing.colour}


def _groups(view: View, least: int) -> list[tuple[str, tuple[Item, ...]]]:
    """Kinds of which at least so many are there, all of them with a region."""
    return [
        (name, group)
        for name, group in view.by_name.items()
        if len(group) >= least and len(group) == view.names[name]
    ]


def _sizes(view: View) -> Found:
    found: Found = []
    for name, group in _groups(view, 2):
        if min(item.thing.visible for item in group) < 0.7:
            continue
        ordered = sorted(group, key=lambda item: item.box_area)
        if ordered[-1].box_area >= _SIZE_MARGIN * ordered[-2].box_area:
            found.append((f"the largest {name}", ordered[-1]))
        if ordered[1].box_area >= _SIZE_MARGIN * ordered[0].box_area:
            found.append((f"the smallest {name}", ordered[0]))
    return found


def _margin(view: View) -> float:
    return 0.06 * min(view.rendered.image.size)


def _ends(view: View) -> Found:
    found: Found = []
    for name, group in _groups(view, 2):
        for axis, low, high in (("x", "leftmost", "rightmost"), ("y", "topmost", "lowest")):
            ordered = sorted(group, key=lambda item: getattr(item, axis))
            places = [getattr(item, axis) for item in ordered]
            if places[1] - places[0] >= _margin(view):
                found.append((f"the {low} {name}", ordered[0]))
            if places[-1] - places[-2] >= _margin(view):
                found.append((f"the {high} {name}", ordered[-1]))
    return found


def _coloured(view: View) -> list[tuple[str, tuple[Item, ...], list[str]]]:
    """Kinds of which there are several, all of a known colour."""
    groups = [(n, g, [item.thing.colour for item in g]) for n, g in _groups(view, 2)]
    return [(name, group, [c for c in cs if c]) for name, group, cs in groups if None not in cs]


def _colours(view: View) -> Found:
    return [
        (f"the {colour} {name}", item)
        for name, group, colours in _coloured(view)
        for item, colour in zip(group, colours, strict=True)
        if colours.count(colour) == 1
    ]


def _negations(view: View) -> Found:
    """The one of another colour, where all others share theirs."""
    return [
        (f"the {name} that is not {other}", item)
        for name, group, colours in _coloured(view)
        for item, colour in zip(group, colours, strict=True)
        for other in set(colours) - {colour}
        if len(set(colours)) == 2 and colours.count(colour) == 1
    ]


def _anchors(view: View, name: str) -> list[Item]:
    """Things that are the only ones of their kind, to speak of others by."""
    return [group[0] for other, group in _groups(view, 1) if len(group) == 1 and other != name]


def _sides(view: View) -> Found:
    found: Found = []
    margin = _margin(view)
    for name, group in _groups(view, 2):
        for anchor in _anchors(view, name):
            by = f"the {anchor.thing.name}"
            for words, offsets in (
                ("left of", [anchor.x - item.x for item in group]),
                ("right of", [item.x - anchor.x for item in group]),
                ("above", [anchor.y - item.y for item in group]),
                ("below", [item.y - anchor.y for item in group]),
            ):
                on_side = [i for i, offset in zip(group, offsets, strict=True) if offset >= margin]
                if len(on_side) == 1 and all(abs(offset) >= margin for offset in offsets):
                    found.append((f"the {name} {words} {by}", on_side[0]))
    return found


def _nearest(view: View) -> Found:
    found: Found = []
    for name, group in _groups(view, 2):
        for anchor in _anchors(view, name):
            ordered = sorted(group, key=lambda item: distance(item, anchor))
            first, second = (distance(item, anchor) for item in ordered[:2])
            if second >= max(_NEAR_MARGIN * first, first + _margin(view)):
                found.append((f"the {name} nearest the {anchor.thing.name}", ordered[0]))
    return found


def distance(first: Item, second: Item) -> float:
    """Between the middles, in pixels."""
    return ((first.x - second.x) ** 2 + (first.y - second.y) ** 2) ** 0.5


def _texts(view: View) -> Found:
    signs = view.by_name.get(SIGN, ())
    texts = [item.thing.text for item in signs]
    return [
        (f"the {SIGN} that says {item.thing.text}", item)
        for item in signs
        if texts.count(item.thing.text) == 1
    ]


def _only(view: View) -> Found:
    return [(f"the {name}", group[0]) for name, group in _groups(view, 1) if len(group) == 1]


_FORMS: Mapping[str, Callable[[View], Found]] = MappingProxyType(
    {"size": _sizes, "end": _ends, "colour": _colours, "negation": _negations, "side": _sides,
     "near": _nearest, "text": _texts, "only": _only}
)  # fmt: skip
