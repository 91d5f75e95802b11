"""Exercises without the wording of tasks: a label to its tags, a tag to its words or its like.

Each draws from a generator in a fixed order: which exercise, then what it is about.
"""

import numpy as np

from vlm_fo1.data.answers import NOTHING
from vlm_fo1.data.scenes.kinds import SIGN
from vlm_fo1.data.scenes.referring import phrases
from vlm_fo1.data.scenes.view import Item, View
from vlm_fo1.markup import RELEASED
from vlm_fo1.train.tiny.packing import Packer, Row

Exercise = tuple[str, str, str]
"""What is asked, the answer, and the name of the exercise."""
_OBJECTS, _END = "<objects>", "</objects>"


def drill(
    packer: Packer,
    view: View,
    grid_hw: tuple[int, int],
    count: int,
    rng: np.random.Generator,
    *,
    refer: float,
    absent: float,
) -> Row:
    """Exercises on one scene in a row.

    Args:
        packer: Writes them.
        view: The scene; at least one region holds a thing.
        grid_hw: Patches of the primary picture.
        count: How many exercises.
        rng: Decides everything.
        refer: Share of referring phrases.
        absent: Share of look-ups for something that is not there.
    """
    forms = phrases(view) if refer else {}
    if len(forms) > 1:
        forms.pop("only", None)
    asked: list[Exercise] = []
    for _ in range(count):
        dice = rng.random()
        item = view.items[rng.integers(len(view.items))]
        if forms and rng.random() < refer:
            form = forms[list(forms)[rng.integers(len(forms))]]
            phrase, item = form[rng.integers(len(form))]
            asked.append((_ground(phrase), _tags(item) + _END, "refer"))
        else:
            asked.append(_look_up(view, item, dice, absent, rng))
    pairs = [(packer.ids_of(question), packer.ids_of(answer)) for question, answer, _ in asked]
    tasks = tuple(name for _, _, name in asked)
    return packer.pack(len(view.regions.truth), pairs, tasks, grid_hw)


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
