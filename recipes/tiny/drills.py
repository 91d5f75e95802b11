"""Exercises without the wording of tasks: a label to its tags, a tag to its words or its like.

Each draws from a generator in a fixed order: which exercise, then what it is about.
"""

import numpy as np

from recipes.synthetic.kinds import SIGN
from recipes.synthetic.referring import distance, phrases
from recipes.synthetic.view import Item, View
from recipes.tiny.packing import Packer, Row
from recipes.tiny.recipe import Phase
from vlm_fo1.data.answers import NOTHING
from vlm_fo1.markup import RELEASED

Exercise = tuple[str, str, str]
"""What is asked, the answer, and the name of the exercise."""
_OBJECTS, _END = "<objects>", "</objects>"
_NEAR_MARGIN = 1.35  # distance of the next nearest over the nearest
_CLEAR = 0.02  # of the picture's side, or about a sixth more area: by how much the most is ahead


def drill(
    packer: Packer,
    view: View,
    grid_hw: tuple[int, int],
    count: int,
    rng: np.random.Generator,
    phase: Phase,
) -> Row:
    """Exercises on one image in a row.

    Args:
        packer: Writes them.
        view: The image; at least one region holds a thing.
        grid_hw: Patches of the primary picture.
        count: How many exercises.
        rng: Decides everything.
        phase: Gives the shares.
    """
    forms = phrases(view) if phase.refer else {}
    if len(forms) > 1:
        forms.pop("only", None)
    asked: list[Exercise] = []
    for _ in range(count):
        dice = rng.random()
        item = view.items[rng.integers(len(view.items))]
        if forms and rng.random() < phase.refer:
            asked.append(_refer(view, forms, rng, phase))
        else:
            asked.append(_look_up(view, item, dice, phase.drill_absent, rng))
    pairs = [(packer.ids_of(question), packer.ids_of(answer)) for question, answer, _ in asked]
    tasks = tuple(name for _, _, name in asked)
    return packer.pack(len(view.regions.truth), pairs, tasks, grid_hw)


def most_extreme(view: View, rng: np.random.Generator) -> tuple[str, Item] | None:
    """A word such as ``leftmost`` and the thing of all that it means; None without a clear one."""
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
    return (word, items[first]) if clear else None


def nearest_to_tag(view: View, rng: np.random.Generator) -> tuple[str, Item] | None:
    """A phrase such as ``the dog nearest <region3>`` and the dog; None without a clear one."""
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


def _refer(
    view: View,
    forms: dict[str, list[tuple[str, Item]]],
    rng: np.random.Generator,
    phase: Phase,
) -> Exercise:
    """A phrase to its tag."""
    dice = rng.random() if phase.refer_extreme or phase.refer_short else 1.0
    extreme = most_extreme(view, rng) if dice < phase.refer_extreme else None
    if extreme is not None:
        word, item = extreme
        return f"<ground>the {word} ", _tags(item), "extreme"
    if phase.refer_nearest and rng.random() < phase.refer_nearest:
        nearest = nearest_to_tag(view, rng)
        if nearest is not None:
            phrase, item = nearest
            return f"<ground>{phrase}", _tags(item), "nearest"
    names = list(forms)
    if phase.refer_forms:
        weights = np.array([phase.refer_forms.get(name, 1.0) for name in names])
        name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    else:
        name = names[rng.integers(len(names))]
    phrase, item = forms[name][rng.integers(len(forms[name]))]
    if dice < phase.refer_extreme + phase.refer_short:
        return f"<ground>{phrase}", _tags(item), name
    return _ground(phrase), _tags(item) + _END, name


def _look_up(
    view: View, item: Item, dice: float, absent: float, rng: np.random.Generator
) -> Exercise:
    single = [group for group in view.by_name.values() if len(group) == 1]
    if dice < 0.2 and single:
        [only] = single[rng.integers(len(single))]
        return f"<ground>{only.thing.name}", _tags(only), "pin"
    if dice < 0.55:
        missing = view.absent(rng) if rng.random() < absent else None
        name = missing or item.thing.name
        return _ground(name), (_tags(*view.by_name.get(name, ())) or NOTHING) + _END, "point"
    if dice < 0.7:
        signs = view.by_name.get(SIGN, ())
        return _read(signs[rng.integers(len(signs))] if signs else item)
    if dice < 0.8:
        return _name(item)
    others = [other for other in view.by_name[item.thing.name] if other is not item]
    question = f"Using the provided object {_tags(item)}{_OBJECTS}"
    return question, (_tags(*others) or NOTHING) + _END, "match"


def _read(item: Item) -> Exercise:
    if item.thing.text is None:
        return _name(item)
    return f"Please provide the ocr results of {_tags(item)}", item.thing.text, "read"


def _name(item: Item) -> Exercise:
    return f"Provide a brief description for {_tags(item)}", item.thing.name, "name"


def _ground(phrase: str) -> str:
    return f"<ground>{phrase}</ground>{_OBJECTS}"


def _tags(*items: Item) -> str:
    return "".join(RELEASED.tag(item.region) for item in items)
