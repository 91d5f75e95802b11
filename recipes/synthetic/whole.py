"""Questions about the whole picture: plain ones without regions, and short reasoning with them."""

from collections.abc import Callable, Sequence

from recipes.synthetic.kinds import SIGN, plural, with_article
from recipes.synthetic.referring import distance
from recipes.synthetic.view import Item, Rng, View, category, mention
from vlm_fo1.data.example import Turn
from vlm_fo1.tasks import Task, ask_text

Pair = tuple[str, str]


def ask_whole(view: View, rng: Rng) -> Turn:
    """A question whose answer needs the picture and no region."""
    forms: Sequence[Callable[[View, Rng], Pair | None]] = (
        *(_is_there, _is_there, _how_many_kinds, _how_many_things, _what_on_side),
        *(_which_more, _background, _sign),
    )
    for index in rng.permutation(len(forms)):
        pair = forms[index](view, rng)
        if pair is not None:
            break
    else:
        pair = ("How many things are there?", str(len(view.rendered.objects)))
    question = ask_text(Task.FREE, pair[0])
    return Turn(question=question.text, answer=pair[1], task=str(question.task))


def _is_there(view: View, rng: Rng) -> Pair | None:
    yes = rng.random() < 0.5
    names = sorted(view.names)
    if not names:
        return None
    name = names[rng.integers(len(names))]
    if not yes:
        absent = view.absent(rng, name if rng.random() < 0.5 else None)
        if absent is None:
            return None
        name = absent
    return f"Is there {with_article(name)} in this image?", "yes" if yes else "no"


def _how_many_kinds(view: View, rng: Rng) -> Pair | None:
    del rng
    return "How many kinds of things are there in this image?", str(len(view.names))


def _how_many_things(view: View, rng: Rng) -> Pair | None:
    del rng
    return "How many things are there in this image?", str(len(view.rendered.objects))


def _what_on_side(view: View, rng: Rng) -> Pair | None:
    """Names on one half, from the left to the right; only if nothing lies near the middle."""
    width = view.rendered.image.width
    things = sorted(view.rendered.objects, key=lambda item: item.centre_xy[0])
    left = bool(rng.random() < 0.5)
    half = [item for item in things if (item.centre_xy[0] < width / 2) == left]
    if any(abs(item.centre_xy[0] / width - 0.5) < 0.05 for item in things):
        return None
    names = list(dict.fromkeys(item.name for item in half))
    if not 1 <= len(names) <= 4:
        return None
    side = "left" if left else "right"
    return f"What is on the {side} half of this image?", ", ".join(names)


def _which_more(view: View, rng: Rng) -> Pair | None:
    pair = _unequal(list(view.names.items()), rng)
    if pair is None:
        return None
    (first, count), (second, other) = pair
    question = f"Are there more {plural(first)} or {plural(second)} in this image?"
    return question, plural(first if count > other else second)


def _unequal(counts: Sequence[tuple[str, int]], rng: Rng) -> list[tuple[str, int]] | None:
    """Two kinds of which there is not the same number, in random order."""
    pairs = [[first, second] for first in counts for second in counts if first[1] > second[1]]
    if not pairs:
        return None
    pair = pairs[rng.integers(len(pairs))]
    return pair if rng.random() < 0.5 else pair[::-1]


def _background(view: View, rng: Rng) -> Pair | None:
    del rng
    colour = view.rendered.background
    return None if colour is None else ("What colour is the background of this image?", colour)


def _sign(view: View, rng: Rng) -> Pair | None:
    del rng
    texts = [item.text for item in view.rendered.objects if item.text]
    return ("What does the sign say?", texts[0]) if len(texts) == 1 else None


def ask_reasoning(view: View, rng: Rng) -> Turn | None:
    """A question that takes a step: thoughts point at regions, the answer follows."""
    if len(view.items) != len(view.rendered.objects):  # something has no region to point at
        return None
    forms: Sequence[Callable[[View, Rng], tuple[str, str, str] | None]] = (
        *(_think_more, _think_side, _think_sign, _think_category),
    )
    for index in rng.permutation(len(forms)):
        found = forms[index](view, rng)
        if found is not None:
            text, thought, answer = found
            question = ask_text(Task.REASONING, text)
            return Turn(
                question=question.text,
                answer=f"<think>{thought}</think><answer>{answer}</answer>",
                task=str(question.task),
            )
    return None


def _think_more(view: View, rng: Rng) -> tuple[str, str, str] | None:
    pair = _unequal([(name, len(group)) for name, group in view.by_name.items()], rng)
    if pair is None:
        return None
    (first, count), (second, other) = pair
    thought = " ".join(
        f"{mention(plural(name), view.by_name[name])} {amount(number, name)}"
        for name, number in pair
    )
    more = plural(first if count > other else second)
    thought += f" {max(count, other)} is more than {min(count, other)}."
    return f"Are there more {plural(first)} or {plural(second)}?", thought, more


def amount(count: int, name: str) -> str:
    """How many there are, as a sentence: ``There are 2 dogs.``."""
    return f"There is 1 {name}." if count == 1 else f"There are {count} {plural(name)}."


def _single(view: View) -> list[Item]:
    return [group[0] for group in view.by_name.values() if len(group) == 1]


def _think_side(view: View, rng: Rng) -> tuple[str, str, str] | None:
    single = _single(view)
    if len(single) < 2:
        return None
    first, second = (single[index] for index in rng.choice(len(single), 2, replace=False))
    upright = bool(rng.random() < 0.5)
    offset = second.y - first.y if upright else second.x - first.x
    if abs(offset) < 0.08 * min(view.rendered.image.size):
        return None
    words = ("above", "below") if upright else ("left of", "right of")
    asked = words[int(rng.integers(2))]
    true = words[0] if offset > 0 else words[1]
    a, b = f"the {first.thing.name}", f"the {second.thing.name}"
    thought = f"{mention(a, [first])} {mention(b, [second])} {a.capitalize()} is {true} {b}."
    return f"Is {a} {asked} {b}?", thought, "yes" if asked == true else "no"


def _think_sign(view: View, rng: Rng) -> tuple[str, str, str] | None:
    signs = view.by_name.get(SIGN, ())
    if len(signs) == 1:
        label = f"the {SIGN}"
        return f"What does {label} say?", mention(label, signs), signs[0].thing.text or ""
    anchors = [item for item in _single(view) if item.thing.name != SIGN]
    if not signs or not anchors:
        return None
    anchor = anchors[rng.integers(len(anchors))]
    near, far = sorted(signs, key=lambda item: distance(item, anchor))[:2]
    if distance(far, anchor) < 1.35 * distance(near, anchor):
        return None
    by = f"the {anchor.thing.name}"
    label = f"the {SIGN} nearest {by}"
    thought = f"{mention(by, [anchor])} {mention(label, [near])}"
    return f"What does {label} say?", thought, near.thing.text or ""


def _think_category(view: View, rng: Rng) -> tuple[str, str, str] | None:
    """Add up the kinds of one category."""
    groups: dict[str, list[str]] = {}
    for name in view.by_name:
        if category(name) in {"animal", "vehicle"}:
            groups.setdefault(category(name), []).append(name)
    fitting = [(kind, names) for kind, names in groups.items() if 2 <= len(names) <= 4]
    if not fitting:
        return None
    kind, names = fitting[rng.integers(len(fitting))]
    counts = [len(view.by_name[name]) for name in names]
    thought = " ".join(mention(name, view.by_name[name]) for name in names)
    thought += f" {' + '.join(map(str, counts))} = {sum(counts)}."
    return f"How many {plural(kind)} are there?", thought, str(sum(counts))
