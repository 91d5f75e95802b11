"""One answer from those of several parts of an image, and one list of regions from several."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlm_fo1.answer import MERGE_IOU, Answer, Mention
from vlm_fo1.boxes import iou
from vlm_fo1.regions import Floats, Regions
from vlm_fo1.tiling import Area


def merge_tiles(
    seen: Iterable[tuple[Area, Regions]], size_wh: tuple[int, int], *, border: float = 2.0
) -> Regions:
    """What a proposer found in parts of an image, in pixels of the whole.

    Args:
        seen: Parts and the regions found in each, in pixels of the part; scores in all or none.
        size_wh: Width and height of the image.
        border: A box that comes nearer than this to a cut edge of its part is left out: it may be
            a piece of a thing, which another part shows whole.

    Returns:
        Best first where there are scores; masks and labels are left out.
    """
    boxes: list[Floats] = [np.zeros((0, 4), np.float32)]
    scores: list[Floats] = []
    scored = True
    for (left, top, right, bottom), regions in seen:
        width, height = right - left, bottom - top
        inner = np.array([left > 0, top > 0, right < size_wh[0], bottom < size_wh[1]])
        gaps = regions.xyxy * np.array([1, 1, -1, -1]) + np.array([0, 0, width, height])
        whole = ~((gaps < border) & inner).any(1)
        boxes.append(regions.xyxy[whole] + np.array([left, top, left, top], np.float32))
        scored = scored and (regions.scores is not None or not len(regions))
        if regions.scores is not None:
            scores.append(regions.scores[whole])
    xyxy = np.concatenate(boxes)
    if not scored or not scores:
        return Regions(xyxy, size_wh)
    all_scores = np.concatenate(scores)
    order = np.argsort(-np.nan_to_num(all_scores, nan=-np.inf), kind="stable")
    return Regions(xyxy[order], size_wh, all_scores[order])


def merge_answers(
    answers: Sequence[Answer], *, notes: Sequence[str] = (), counting: bool = False
) -> Answer:
    """One answer from those of several windows to the same question.

    A label has one mention: its regions window by window, in the order they were named. Where two
    windows chose regions that overlap more than `MERGE_IOU` for one label, the surer one stays
    (by the model's probability, else by the proposal's score). Within a window nothing is dropped.

    Args:
        answers: At least one; all about the same ``regions``, indices being positions in those.
        notes: What to say of the windows; goes into ``problems`` first.
        counting: The count is the number of regions that are left.

    Returns:
        ``text`` and ``plain`` are those of the windows, a line break between them; ``problems``
        name the window, from 1. A score or presence is the largest of any window. Times are left
        out.
    """
    first = answers[0]
    regions = first.regions
    seen = [label for answer in answers for label in (mention.label for mention in answer.mentions)]
    order = dict.fromkeys([*(label for label in first.labels if label in set(seen)), *seen])
    dropped = 0
    mentions: list[Mention] = []
    for label in order:
        chosen = _chosen(answers, label)
        kept = _without_doubles(chosen, regions)
        dropped += len(chosen) - len(kept)
        sure = tuple(item.confidence for item in kept)
        known = bool(kept) and not np.isnan(sure).all()
        mentions.append(Mention(label, tuple(item.index for item in kept), sure if known else None))
    scores, presence = _tables(
        [(answer, label) for answer in answers for label in answer], [*first.labels, *order]
    )
    problems = [
        f"window {number}: {problem}"
        for number, answer in enumerate(answers, start=1)
        for problem in answer.problems
    ]
    if dropped:
        problems.insert(
            0, f"{dropped} regions overlap a surer one from another window: they were left out"
        )
    return Answer(
        text="\n".join(answer.text for answer in answers),
        regions=regions,
        mentions=tuple(mentions),
        task=first.task,
        labels=first.labels,
        spelt=first.spelt,
        plain="\n".join(answer.plain for answer in answers),
        count=len({i for mention in mentions for i in mention.indices}) if counting else None,
        scores=scores,
        presence=presence,
        problems=(*notes, *problems),
        windows=len(answers),
    )


def merge_groups(
    answers: Sequence[Answer], *, notes: Sequence[str] = (), counting: bool = False
) -> Answer:
    """One answer from those to parts of a question with many labels.

    Args:
        answers: At least one, each to one of `in_groups`; all about the same ``regions``.
        notes: Goes into ``problems`` first.
        counting: The count is the number of regions that are mentioned.

    Returns:
        The mentions of all parts, in the order of the labels; of a label that another part asked
        for, what was said where it was asked. Times are left out.
    """
    labels = tuple(dict.fromkeys(label for answer in answers for label in answer.labels))

    def heard(answer: Answer, label: str) -> bool:
        return label in answer.labels or label not in labels

    mentions = [
        mention for answer in answers for mention in answer.mentions if heard(answer, mention.label)
    ]
    scores, presence = _tables(
        [(answer, label) for answer in answers for label in answer if heard(answer, label)],
        [*labels, *(mention.label for mention in mentions)],
    )
    problems = dict.fromkeys(problem for answer in answers for problem in answer.problems)
    return Answer(
        text="\n".join(answer.text for answer in answers),
        regions=answers[0].regions,
        mentions=tuple(mentions),
        task=answers[0].task,
        labels=labels,
        spelt=answers[0].spelt,
        plain="\n".join(answer.plain for answer in answers),
        count=len({i for mention in mentions for i in mention.indices}) if counting else None,
        scores=scores,
        presence=presence,
        problems=(*notes, *problems),
        windows=answers[0].windows,
    )


def fill_scores(answer: Answer, branches: Sequence[Answer]) -> Answer:
    """An answer with the scores and presences of labels that others were asked for.

    Args:
        answer: What stays as it is otherwise.
        branches: Answers about the same ``regions``, each with its labels among those of `answer`.
    """
    own = [(answer, label) for label in answer]
    more = [(branch, label) for branch in branches for label in branch.labels]
    scores, presence = _tables([*own, *more], list(answer))
    return replace(answer, scores=scores, presence=presence)


def _tables(
    parts: Sequence[tuple[Answer, str]], labels: Sequence[str]
) -> tuple[Floats | None, dict[str, float]]:
    """Scores and presences of several answers about the same regions.

    Args:
        parts: Which labels of which answers count.
        labels: Those of the whole, in order; repeats are no matter.

    Returns:
        For each label and region the largest number of any part; no scores where no part has any.
    """
    rows = {label: row for row, label in enumerate(dict.fromkeys(labels))}
    scores = np.full((len(rows), len(parts[0][0].regions) if parts else 0), np.nan, np.float32)
    presence: dict[str, float] = {}
    for answer, label in parts:
        scores[rows[label]] = np.fmax(scores[rows[label]], answer.scores_of(label))
        if label in answer.presence:
            presence[label] = max(presence.get(label, 0.0), answer.presence[label])
    scored = any(answer.scores is not None for answer, _ in parts)
    return (scores if scored else None), presence


@dataclass(frozen=True)
class _Chosen:
    window: int
    index: int
    confidence: float


def _chosen(answers: Sequence[Answer], label: str) -> list[_Chosen]:
    """What the windows chose for a label, each region once."""
    found: dict[int, _Chosen] = {}
    for window, answer in enumerate(answers):
        for mention in answer.mentions:
            if mention.label == label:
                known = mention.confidence or (np.nan,) * len(mention.indices)
                for index, confidence in zip(mention.indices, known, strict=True):
                    found.setdefault(index, _Chosen(window, index, confidence))
    return list(found.values())


def _without_doubles(chosen: list[_Chosen], regions: Regions) -> list[_Chosen]:
    """Non-maximum suppression between windows, the order kept."""
    rank = _first_known(
        [item.confidence for item in chosen],
        lambda n: np.nan if regions.scores is None else float(regions.scores[chosen[n].index]),
    )
    boxes = regions.xyxy[[item.index for item in chosen]]
    window = np.array([item.window for item in chosen])
    rivals = (iou(boxes, boxes) > MERGE_IOU) & (window[:, None] != window[None])
    stays = np.zeros(len(chosen), np.bool_)
    for number in np.argsort(-np.array(rank), kind="stable"):
        stays[number] = not (rivals[number] & stays).any()
    return [item for item, stay in zip(chosen, stays.tolist(), strict=True) if stay]


def _first_known(values: Sequence[float], other: Callable[[int], float]) -> list[float]:
    """Each value, where it is NaN the other one, 0 where both are."""
    filled = [other(n) if np.isnan(value) else value for n, value in enumerate(values)]
    return np.nan_to_num(filled, nan=0.0).tolist()
