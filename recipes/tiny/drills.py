"""Exercises without the wording of tasks: a label to its tags, a tag to its words or its like.

Each draws from a generator in a fixed order: which exercise, then what it is about.
"""

import numpy as np

from recipes.synthetic.kinds import SIGN
from recipes.synthetic.referring import Found, distance, phrases
from recipes.synthetic.view import Item, View
from recipes.tiny.recipe import Lesson
from vlm_fo1.data.answers import NOTHING
from vlm_fo1.markup import RELEASED

Exercise = tuple[str, str]
"""What is asked, and the answer."""
Rng = np.random.Generator
_ABSENT = 0.35  # share of look-ups for something that is not there
_OBJECTS, _END = "<objects>", "</objects>"
_NEAR_MARGIN = 1.35  # distance of the next nearest over the nearest
_CLEAR = 0.02  # of the picture's side, or about a sixth more area: by how much the most is ahead


def drill(view: View, count: int, rng: Rng, lesson: Lesson) -> list[Exercise]:
    """So many exercises on an image in which at least one region holds a thing."""
    forms = phrases(view) if lesson.refer else {}
    if len(forms) > 1:
        forms.pop("only", None)
    asked: list[Exercise] = []
    for _ in range(count):
        if forms and rng.random() < lesson.refer:
            asked.append(_refer(view, forms, rng, lesson))
        else:
            asked.append(_look_up(view, view.items[rng.integers(len(view.items))], rng))
    return asked


def most_extreme(view: View, rng: Rng) -> tuple[str, Item] | None:
    """A phrase such as ``the leftmost`` and the thing of all that it means, if one is clear."""
    items = view.items
    if len(items) < 2:
        return None
    width, height = view.rendered.image.size
    x = np.array([item.x / width for item in items])
    y = np.array([item.y / height for item in items])
    size = np.log([item.box_area for item in items]) / 8
    values = {"leftmost": -x, "rightmost": x, "topmost": -y, "lowest": y}
    values |= {"largest": size, "smallest": -size}
    word = list(values)[rng.integers(len(values))]
    first, second = np.argsort(values[word])[::-1][:2].tolist()
    clear = values[word][first] - values[word][second] > _CLEAR
    return (f"the {word} ", items[first]) if clear else None


def nearest_to_tag(view: View, rng: Rng) -> tuple[str, Item] | None:
    """A phrase such as ``the dog nearest <region3>`` and the dog, if one is clear."""
    groups = [group for group in view.by_name.values() if len(group) > 1]
    if not groups:
        return None
    group = groups[rng.integers(len(groups))]
    anchors = [item for item in view.items if item.thing.name != group[0].thing.name]
    if not anchors:
        return None
    anchor = anchors[rng.integers(len(anchors))]
    first, second = sorted(group, key=lambda item: distance(item, anchor))[:2]
    if distance(second, anchor) < _NEAR_MARGIN * distance(first, anchor):
        return None
    return f"the {first.thing.name} nearest {_tags(anchor)}", first


def _refer(view: View, forms: dict[str, Found], rng: Rng, lesson: Lesson) -> Exercise:
    """A phrase to its tag."""
    further = {"extreme": most_extreme, "tagged": nearest_to_tag}
    weights = dict.fromkeys(forms, 1.0) | lesson.refer_forms
    names = [name for name in weights if name in forms or name in further]
    shares = np.array([weights[name] for name in names])
    name = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    found = further[name](view, rng) if name in further else None
    if found is None:
        own = forms.get(name) or forms[list(forms)[rng.integers(len(forms))]]
        phrase, item = own[rng.integers(len(own))]
        if rng.random() >= lesson.refer_short:
            return _ground(phrase), _tags(item) + _END
        found = phrase, item
    return f"<ground>{found[0]}", _tags(found[1])


def _look_up(view: View, item: Item, rng: Rng) -> Exercise:
    dice = rng.random()
    single = [group for group in view.by_name.values() if len(group) == 1]
    if dice < 0.2 and single:
        [only] = single[rng.integers(len(single))]
        return f"<ground>{only.thing.name}", _tags(only)
    if dice < 0.55:
        missing = view.absent(rng) if rng.random() < _ABSENT else None
        name = missing or item.thing.name
        return _ground(name), (_tags(*view.by_name.get(name, ())) or NOTHING) + _END
    if dice < 0.8:
        signs = view.by_name.get(SIGN, ())
        read = signs[rng.integers(len(signs))] if signs and dice < 0.7 else item
        if dice < 0.7 and read.thing.text is not None:
            return f"Please provide the ocr results of {_tags(read)}", read.thing.text
        return f"Provide a brief description for {_tags(read)}", read.thing.name
    others = [other for other in view.by_name[item.thing.name] if other is not item]
    return (
        f"Using the provided object {_tags(item)}{_OBJECTS}",
        (_tags(*others) or NOTHING) + _END,
    )


def _ground(phrase: str) -> str:
    return f"<ground>{phrase}</ground>{_OBJECTS}"


def _tags(*items: Item) -> str:
    return "".join(RELEASED.tag(item.region) for item in items)
