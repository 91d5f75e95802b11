"""Expressions in lines of JSON: HumanRef, Rex-Omni's rows, and any of image, words and boxes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import NO_OPTIONS, Card, Item, NoOptions
from vlm_fo1.eval.benchmarks.folder import judge_each_image, phrase_item
from vlm_fo1.eval.coco import find_image
from vlm_fo1.eval.lines import read_lines
from vlm_fo1.eval.metrics import grec_tally, humanref_tally, rejection_tally
from vlm_fo1.eval.predictions import Record
from vlm_fo1.eval.scores import Part, Scores, places_of
from vlm_fo1.tasks import Request

REJECTION = "rejection"
"""HumanRef's domain of expressions that mean nobody."""
_SIZES = {"1": (1, 1), "2-5": (2, 5), "6-10": (6, 10), ">10": (11, None)}
"""HumanRef's bins by the number of persons that are meant."""


@dataclass(frozen=True, kw_only=True)
class HumanRefOptions:
    """What a user may choose."""

    boxes: bool = False
    """Offer the file's ``candidate_boxes``, all persons, as RexSeek does; else the proposer's."""


@dataclass(frozen=True, kw_only=True)
class HumanRef:
    """Expressions for persons: several, one, or nobody."""

    card: Card
    options: HumanRefOptions = HumanRefOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """One referring question a line of ``annotations.jsonl``.

        Raises:
            EvaluationError: The file is missing, or a line lacks something.
        """
        path = data / "annotations.jsonl"
        known = _by_form(data / "images")
        for where, row in read_lines(
            path, ("id", "image_name", "referring", "domain", "candidate_boxes", "answer_boxes")
        ):
            phrase = str(row["referring"])
            boxes = _boxes(row["answer_boxes"], where)
            candidates = _boxes(row["candidate_boxes"], where)
            name = known.get(normalize("NFC", row["image_name"]), row["image_name"])
            yield phrase_item(
                str(row["id"]),
                find_image(name, [data / "images", data]),
                phrase,
                boxes,
                offered=candidates if self.options.boxes else None,
                domain=row["domain"],
            )

    def judge(self, records: Sequence[Record]) -> Scores:
        """Precision, recall and DF1 of those with a target, by domain and number; rejection."""
        of = places_of(record.truth["domain"] for record in records)
        rejected = of.pop(REJECTION, [])
        meant = [place for places in of.values() for place in places]
        parts = [_part(records, sorted(meant))] if meant else []
        parts += [_part(records, places, domain) for domain, places in of.items()]
        for name, (least, most) in _SIZES.items():
            sizes = {place: len(_truth(records[place])) for place in sorted(meant)}
            own = [p for p, size in sizes.items() if size >= least and (not most or size <= most)]
            parts += [_part(records, own, f"{name} targets")] if own else []
        if rejected:
            answers = [records[place].unlabelled()["answer"] for place in rejected]
            parts.append(Part(rejection_tally(answers), records=rejected))
        offered = "the file's candidates" if self.options.boxes else "the proposer's boxes"
        return Scores(parts=tuple(parts), notes=(f"regions that were offered: {offered}",))


@dataclass(frozen=True, kw_only=True)
class Expressions:
    """Lines of ``{"image", "expression", "boxes"}``; without boxes nothing is meant."""

    card: Card
    options: NoOptions = NO_OPTIONS

    def items(self, data: Path) -> Iterator[Item]:
        """One referring question a line.

        Raises:
            EvaluationError: There is no one ``.jsonl`` file, or a line lacks something.
        """
        path = data if data.is_file() else _only(data)
        for number, (where, row) in enumerate(read_lines(path, ("image", "expression", "boxes"))):
            phrase = str(row["expression"])
            boxes = _boxes(row["boxes"], where)
            image = find_image(str(row["image"]), [path.parent / "images", path.parent])
            yield phrase_item(str(row.get("id", number)), image, phrase, boxes)

    def judge(self, records: Sequence[Record]) -> Scores:
        """Exactly right answers, those to expressions that mean nothing apart."""
        tally = grec_tally([record.unlabelled() for record in records])
        alone = [grec_tally([record.unlabelled()]).score()["pr"] or 0.0 for record in records]
        return Scores(parts=(Part(tally),), errors=[1 - right for right in alone])


@dataclass(frozen=True, kw_only=True)
class RexOmniOptions:
    """What a user may choose."""

    dataset: str = ""
    """Name of one set in the file (its ``dataset_name``), where it holds several."""


@dataclass(frozen=True, kw_only=True)
class RexOmniRows:
    """Rows of ``Rex-Omni-EvalData``: one image, its categories, and boxes by category."""

    card: Card
    referring: bool = False
    """Whether a category is an expression, each asked by itself."""
    options: RexOmniOptions = RexOmniOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """One question a row, or an expression of it.

        Raises:
            EvaluationError: There is no one ``.jsonl`` file, a line lacks something, or none is of
                the set that was asked for.
        """
        path = data if data.is_file() else _only(data)
        wanted, count = self.options.dataset, 0
        folders = [path.parent / "images", path.parent, path.parent.parent, data]
        for where, row in read_lines(path, ("image_path", "categories", "gt")):
            if wanted and row.get("dataset_name") != wanted:
                continue
            truth = {str(k): _boxes(v, where) for k, v in row["gt"].items()}
            truth = {label: boxes for label, boxes in truth.items() if boxes}
            labels = tuple(str(label) for label in row["categories"])
            for own in ((label,) for label in labels) if self.referring else (labels,):
                yield Item(
                    id=str(count),
                    image=find_image(str(row["image_path"]), folders),
                    request=Request(
                        task="referring" if self.referring else "detection", labels=own
                    ),
                    truth={"boxes": {k: v for k, v in truth.items() if k in own or len(own) > 1}},
                )
                count += 1
        if not count:
            raise EvaluationError(f"{path} has no line of the set {wanted!r}: see dataset_name")

    def judge(self, records: Sequence[Record]) -> Scores:
        """See `judge_each_image`."""
        return judge_each_image(records)


def _part(records: Sequence[Record], places: Sequence[int], name: str = "") -> Part:
    tally = humanref_tally([records[place].unlabelled() for place in places])
    return Part(tally, name, records=places)


def _truth(record: Record) -> list[Any]:
    return record.unlabelled()["truth"]


def _by_form(folder: Path) -> Mapping[str, str]:
    """File names by their composed form: archives hold accents as letters of their own."""
    files = folder.iterdir() if folder.is_dir() else ()
    return {normalize("NFC", file.name): file.name for file in files}


def _boxes(values: Any, where: str) -> list[list[float]]:
    """Boxes of a line as xyxy; ``[]`` and ``[[]]`` are none.

    Raises:
        EvaluationError: They are something else.
    """
    rows = [row for row in values if row] if isinstance(values, list) else values
    try:
        array = np.array(rows, np.float64).reshape(-1, 4) if rows else np.zeros((0, 4))
        right = bool(np.isfinite(array).all() and (array[:, 2:] >= array[:, :2]).all())
        right = right and len(array) == len(rows)
    except (ValueError, TypeError):
        array, right = np.zeros((0, 4)), False
    if not right:
        raise EvaluationError(f"{where}: {values!r:.120} are no boxes: a list of [x1, y1, x2, y2]")
    return array.tolist()


def _only(folder: Path) -> Path:
    """The only ``.jsonl`` file of a folder.

    Raises:
        EvaluationError: None, or several.
    """
    found = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise EvaluationError(
            f"{folder} must hold one .jsonl file (it has {names}): name the file itself as --data"
        )
    return found[0]


_REX = Card(
    title="",
    protocol="",
    metric="aware f1_mean",
    layout="one .jsonl of rows (image_path, categories, gt) and the images that it names",
    source="huggingface.co/datasets/Mountchicken/Rex-Omni-EvalData, _annotations/box_eval",
    licence="of each source; Rex-Omni: IDEA License 1.0",
)

HUMANREF = HumanRef(
    card=Card(
        title="HumanRef",
        protocol="Every expression in the task's own words; P, R and DF1 with the density factor "
        "min(1, targets / answers) of the official code, over items with a target; rejection: "
        "expressions that mean nobody answered with no box.",
        metric="df1",
        layout="annotations.jsonl and images/",
        source="huggingface.co/datasets/IDEA-Research/HumanRef",
        licence="IDEA License 1.0",
        size="6,000 expressions",
    )
)

EXPRESSIONS = Expressions(
    card=Card(
        title="Expressions in JSON Lines",
        protocol="Every expression in the task's own words; right if the answered boxes and the "
        "objects pair up exactly at IoU >= .5, or there are none of both. n_acc: of expressions "
        "that mean nothing (PR-Bench's negatives), those answered with no box.",
        metric="pr",
        layout='one .jsonl of {"image", "expression", "boxes"} and the images',
        source="your own; PR-Bench's files were not found",
        licence="yours",
    )
)

DENSE200 = RexOmniRows(
    card=replace(
        _REX,
        title="Dense200",
        protocol="The row's categories in one question of the task's own words; F1 of precision "
        "and recall as means over images, labels looked at (aware) and not (published).",
        size="200 images",
        tiled=True,
    )
)

REX_REFERRING = RexOmniRows(
    referring=True,
    card=replace(
        _REX,
        title="RefCOCOg and HumanRef as F1",
        protocol="Every expression by itself in the task's own words; F1 of precision and recall "
        "as means over images.",
        metric="published f1_mean",
    ),
)
