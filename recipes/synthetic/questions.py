"""Questions about an image and their exact answers, one function per task.

Every function takes a view and a generator and gives a turn, or None where the image has nothing to
ask. Answers are short and of one form each, so that a small model can learn them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from recipes.synthetic.kinds import SIGN, plural, with_article
from recipes.synthetic.referring import nothing, phrases
from recipes.synthetic.view import Item, Rng, View, brief, mention
from recipes.synthetic.whole import ask_reasoning, ask_whole
from vlm_fo1.data.answers import count_answer, label_answer
from vlm_fo1.data.example import Turn
from vlm_fo1.tasks import Question, Task, ask_image, ask_labels, ask_regions

BACKGROUND = "background"
"""Caption of a region that holds nothing."""

_NUMBERS = (
    "no one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
NUMBERS = tuple(_NUMBERS.split())
"""Number words by number."""

Asker = Callable[[View, Rng], Turn | None]


def ask(view: View, rng: Rng) -> tuple[Turn, ...]:
    """Questions on one image, none twice.

    Args:
        view: The image, its regions and its config, which gives the tasks and how many turns.
        rng: Decides everything.

    Returns:
        As many turns as the config asks for, fewer where the image gives no more; at least one: a
        question about the whole picture can always be asked.
    """
    wanted = int(rng.integers(max(view.config.turns[0], 1), max(view.config.turns[1], 1) + 1))
    tasks = [task for task, weight in view.config.tasks.items() if weight > 0]
    weights = [view.config.tasks[task] for task in tasks]
    if not len(view.regions.xyxy):
        tasks, weights = [str(Task.FREE)], [1.0]
    total = sum(weights)
    turns: dict[str, Turn] = {}
    for _ in range(wanted * 4):
        if len(turns) == wanted:
            break
        task = tasks[rng.choice(len(tasks), p=[weight / total for weight in weights])]
        turn = ASKERS[Task(task)](view, rng)
        if turn is not None:
            turns.setdefault(turn.question, turn)
    if not turns:
        turn = ask_whole(view, rng)
        turns[turn.question] = turn
    return tuple(turns.values())


def _regions(labels: Mapping[str, tuple[Item, ...]]) -> dict[str, list[int]]:
    return {label: [item.region for item in group] for label, group in labels.items()}


def _turn(question: Question, answer: str) -> Turn:
    return Turn(question=question.text, answer=answer, task=str(question.task))


def _pick(view: View, rng: Rng) -> Item | None:
    return view.items[rng.integers(len(view.items))] if view.items else None


def _detection(view: View, rng: Rng) -> Turn | None:
    wanted = int(rng.integers(view.config.labels[0], view.config.labels[1] + 1))
    present = [str(name) for name in rng.permutation(list(view.by_name))] if view.by_name else []
    labels: dict[str, tuple[Item, ...]] = {}
    for _ in range(wanted):
        near = present[-1] if present and rng.random() < 0.5 else None
        absent = view.absent(rng, near)
        if present and rng.random() >= view.config.absent:
            name = present.pop()
            labels[name] = view.by_name[name]
        elif absent is not None:
            labels[absent] = ()
    if not labels:
        return None
    order = [list(labels)[index] for index in rng.permutation(len(labels))]
    labels = {name: labels[name] for name in order}
    return _turn(
        ask_labels(Task.DETECTION, list(labels)),
        label_answer(_regions(labels), view.config.absent_style),
    )


def _counting(view: View, rng: Rng) -> Turn | None:
    item = _pick(view, rng)  # by things, so that larger counts are seen as often
    absent = view.absent(rng) if item is None or rng.random() < view.config.absent / 2 else None
    if absent is None and item is None:
        return None
    name = absent if absent is not None or item is None else item.thing.name
    assert name is not None
    group = view.by_name.get(name, ())
    label = plural(name) if rng.random() < 0.5 else name
    answer = count_answer(
        label, [item.region for item in group], view.config.absent_style, one=name
    )
    return _turn(ask_labels(Task.COUNTING, label), answer)


def _referring(view: View, rng: Rng) -> Turn | None:
    if rng.random() < view.config.absent / 3:
        phrase = nothing(view, rng)
        if phrase is not None:
            return _turn(
                ask_labels(Task.REFERRING, phrase),
                label_answer({phrase: ()}, view.config.absent_style),
            )
    forms = phrases(view)
    if len(forms) > 1 and rng.random() < 0.85:
        forms.pop("only", None)  # the easiest, and nearly always there
    if not forms:
        return None
    found = forms[list(forms)[rng.integers(len(forms))]]
    phrase, item = found[rng.integers(len(found))]
    return _turn(ask_labels(Task.REFERRING, phrase), label_answer({phrase: (item.region,)}))


def _about(view: View, task: Task, item: Item, answer: str) -> Turn:
    return _turn(ask_regions(task, [item.region], len(view.regions.xyxy)), answer)


def _brief_caption(view: View, rng: Rng) -> Turn | None:
    if view.empty and rng.random() < 0.06:
        region = view.empty[rng.integers(len(view.empty))]
        question = ask_regions(Task.BRIEF_CAPTION, [region], len(view.regions.xyxy))
        return _turn(question, BACKGROUND)
    item = _pick(view, rng)
    return None if item is None else _about(view, Task.BRIEF_CAPTION, item, brief(item.thing))


def _detailed_caption(view: View, rng: Rng) -> Turn | None:
    item = _pick(view, rng)
    if item is None:
        return None
    size, place = size_word(view, item), place_words(view, item)
    if size is None or place is None:
        return None
    article, words = brief(item.thing).split(" ", 1)
    words = with_article(f"{size} {words}") if size else f"{article} {words}"
    return _about(view, Task.DETAILED_CAPTION, item, f"{words} {place}")


def size_word(view: View, item: Item) -> str | None:
    """``small``, ``large`` or nothing, by long side over short side of the picture.

    Returns:
        None near a border between two words.
    """
    x1, y1, x2, y2 = item.thing.box_xyxy
    share = max(x2 - x1, y2 - y1) / min(view.rendered.image.size)
    if any(abs(share / border - 1) < 0.08 for border in (0.14, 0.26)):
        return None
    return "small" if share < 0.14 else "large" if share > 0.26 else ""


def place_words(view: View, item: Item) -> str | None:
    """``at the top left``, ``on the right``, ``in the middle``: by thirds of the picture.

    Returns:
        None near a border between two places.
    """
    width, height = view.rendered.image.size
    across, down = item.x / width * 3, item.y / height * 3
    if any(abs(value - border) < 0.12 for value in (across, down) for border in (1, 2)):
        return None
    side = ("left", "", "right")[min(int(across), 2)]
    level = ("top", "", "bottom")[min(int(down), 2)]
    if level:
        return f"at the {level} {side}".strip()
    return f"on the {side}" if side else "in the middle"


def _region_ocr(view: View, rng: Rng) -> Turn | None:
    signs = view.by_name.get(SIGN, ())
    if not signs:
        return None
    item = signs[rng.integers(len(signs))]
    return _about(view, Task.REGION_OCR, item, item.thing.text or "")


def _visual_prompt(view: View, rng: Rng) -> Turn | None:
    groups = [group for group in view.by_name.values() if len(group) > 1]
    single = [group for group in view.by_name.values() if len(group) == 1]
    if single and (not groups or rng.random() < 0.15):
        groups = single if rng.random() < 0.5 or groups else []
    if not groups:
        return None
    group = groups[rng.integers(len(groups))]
    item = group[rng.integers(len(group))]
    others = tuple(other for other in group if other is not item)
    answer = label_answer(_regions({item.thing.name: others}), view.config.absent_style)
    return _about(view, Task.VISUAL_PROMPT, item, answer)


def _grounded_caption(view: View, rng: Rng) -> Turn | None:
    del rng  # told in the order of the regions: one picture, one caption
    if not view.by_name:
        return None
    parts: list[str] = []
    first = 0
    for name, group in list(view.by_name.items())[:4]:
        count = len(group)
        number = NUMBERS[count] if count < len(NUMBERS) else str(count)
        parts.append(
            mention(with_article(name) if count == 1 else f"{number} {plural(name)}", group)
        )
        first = first or count
    listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    verb = "is" if first == 1 else "are"
    return _turn(ask_image(Task.GROUNDED_CAPTION), f"There {verb} {listed}.")


ASKERS: Mapping[Task, Asker] = MappingProxyType(
    {
        Task.DETECTION: _detection,
        Task.COUNTING: _counting,
        Task.REFERRING: _referring,
        Task.BRIEF_CAPTION: _brief_caption,
        Task.DETAILED_CAPTION: _detailed_caption,
        Task.REGION_OCR: _region_ocr,
        Task.VISUAL_PROMPT: _visual_prompt,
        Task.GROUNDED_CAPTION: _grounded_caption,
        Task.REASONING: ask_reasoning,
        Task.FREE: ask_whole,
    }
)
"""Task to the function that asks it."""
