"""Questions on a photograph with labelled boxes: find, count, name, find more like it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vlm_fo1.data.answers import count_answer, label_answer
from vlm_fo1.data.example import Example, Turn
from vlm_fo1.data.regions import BuiltRegions, build_regions
from vlm_fo1.errors import ConfigError
from vlm_fo1.tasks import Task, ask_labels, ask_regions

Rng = np.random.Generator


def _default_tasks() -> dict[str, float]:
    return {"detection": 3.0, "counting": 1.0, "brief_caption": 1.0, "visual_prompt": 1.0}


@dataclass(frozen=True, kw_only=True)
class InstanceConfig:
    """How labelled boxes become questions."""

    turns: tuple[int, int] = (1, 4)
    """Least and greatest number of questions per image."""
    tasks: Mapping[str, float] = field(default_factory=_default_tasks)
    """How often each task is asked, in any unit."""
    labels: tuple[int, int] = (1, 6)
    """Least and greatest number of labels of a detection question."""
    absent: float = 0.3
    """Share of asked labels that are not in the image; hard ones first, half of the time."""
    absent_style: Literal["omit", "none"] = "omit"
    """How a missing label is answered: not at all, or with ``None`` in its place."""
    distractors: tuple[int, int] = (0, 10)
    """Least and greatest number of boxes that are nothing, beside given proposals."""
    jitter: float = 0.5
    """Share of boxes that are shifted a little, as proposals are."""
    drop: float = 0.0
    """Share of boxes that get no region."""
    region_limit: int = 100
    """Greatest number of regions."""

    def __post_init__(self) -> None:
        """Check the tasks and the ranges.

        Raises:
            ConfigError: A task that boxes cannot answer, or a range that is reversed.
        """
        unknown = sorted(set(self.tasks) - set(_default_tasks()))
        if unknown or sum(self.tasks.values()) <= 0:
            raise ConfigError(
                f"tasks {unknown or dict(self.tasks)}: of {', '.join(_default_tasks())}, at least "
                "one with a weight above 0"
            )
        for name in ("turns", "labels", "distractors"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ConfigError(f"{name} = {(low, high)} must be (least, greatest), both >= 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedImage:
    """A photograph and what is known to be in it and not in it."""

    image: Path
    size_wh: tuple[int, int]
    boxes_xyxy: npt.NDArray[np.float32]
    """(N, 4) pixels."""
    names: tuple[str, ...]
    """N labels."""
    partial: frozenset[str] = frozenset()
    """Labels whose boxes may not be all there: never asked to be found or counted."""
    absent: Sequence[str] = ()
    """Labels known not to be there."""
    hard: Sequence[str] = ()
    """Those of `absent` that are easily mistaken for something that is."""
    proposals_xyxy: npt.NDArray[np.float32] | None = None
    """(M, 4) a proposer's boxes, if there are any."""
    source: str = ""
    id: str = ""


def ask_instances(annotated: AnnotatedImage, config: InstanceConfig, rng: Rng) -> Example | None:
    """A record with questions on one image.

    Args:
        annotated: What is known.
        config: What to ask.
        rng: Decides everything.

    Returns:
        The record, or None when the image gives no question.
    """
    regions = build_regions(
        annotated.boxes_xyxy,
        annotated.size_wh,
        rng,
        proposals_xyxy=annotated.proposals_xyxy,
        distractors=config.distractors,
        jitter=config.jitter,
        drop=config.drop,
        limit=config.region_limit,
    )
    view = _View(annotated, regions, config)
    tasks = list(config.tasks)
    weights = np.array([config.tasks[task] for task in tasks], np.float64)
    wanted = int(rng.integers(config.turns[0], config.turns[1] + 1))
    turns: dict[str, Turn] = {}
    for _ in range(wanted * 4):
        if len(turns) >= wanted:
            break
        task = tasks[rng.choice(len(tasks), p=weights / weights.sum())]
        turn = _ask(view, Task(task), rng)
        if turn is not None:
            turns.setdefault(turn.question, turn)
    if not turns:
        return None
    return regions.example(annotated.image, turns.values(), annotated.source, annotated.id)


class _View:
    """Labels of an image with the numbers of their regions."""

    def __init__(
        self, annotated: AnnotatedImage, regions: BuiltRegions, config: InstanceConfig
    ) -> None:
        self.annotated, self.config = annotated, config
        self.count = len(regions.xyxy)
        self.named = [
            (region, annotated.names[truth])
            for region, truth in enumerate(regions.truth.tolist())
            if truth >= 0
        ]
        self.complete: dict[str, list[int]] = {}
        for region, name in self.named:
            if name not in annotated.partial:
                self.complete.setdefault(name, []).append(region)
        shown = set(annotated.names)
        self.absent = [name for name in annotated.absent if name not in shown]
        self.hard = [name for name in annotated.hard if name not in shown]

    def missing(self, rng: Rng) -> str | None:
        """A label that is not there."""
        choices = self.hard if self.hard and rng.random() < 0.5 else self.absent
        return choices[rng.integers(len(choices))] if choices else None


def _ask(view: _View, task: Task, rng: Rng) -> Turn | None:
    if task is Task.DETECTION:
        return _detection(view, rng)
    if task is Task.COUNTING:
        return _counting(view, rng)
    if task is Task.BRIEF_CAPTION:
        if not view.named:
            return None
        region, name = view.named[rng.integers(len(view.named))]
        return Turn.asked(ask_regions(task, [region], view.count), name)
    groups = [(name, group) for name, group in view.complete.items() if len(group) > 1]
    if not groups:
        return None
    name, group = groups[rng.integers(len(groups))]
    region = group[rng.integers(len(group))]
    others = [other for other in group if other != region]
    return Turn.asked(ask_regions(task, [region], view.count), label_answer({name: others}))


def _detection(view: _View, rng: Rng) -> Turn | None:
    wanted = int(rng.integers(view.config.labels[0], view.config.labels[1] + 1))
    present = [str(name) for name in rng.permutation(list(view.complete))] if view.complete else []
    labels: dict[str, list[int]] = {}
    for _ in range(wanted):
        missing = view.missing(rng)
        if present and (missing is None or rng.random() >= view.config.absent):
            name = present.pop()
            labels[name] = view.complete[name]
        elif missing is not None:
            labels[missing] = []
    if not labels:
        return None
    order = [list(labels)[index] for index in rng.permutation(len(labels))]
    question = ask_labels(Task.DETECTION, order)
    answer = label_answer({name: labels[name] for name in order}, view.config.absent_style)
    return Turn.asked(question, answer)


def _counting(view: _View, rng: Rng) -> Turn | None:
    missing = view.missing(rng) if rng.random() < view.config.absent / 2 else None
    if missing is None:
        if not view.complete:
            return None
        missing = list(view.complete)[rng.integers(len(view.complete))]
    answer = count_answer(missing, view.complete.get(missing, []), view.config.absent_style)
    return Turn.asked(ask_labels(Task.COUNTING, missing), answer)
