"""Detection in a folder of one's own: any images with a COCO file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import Card, Item
from vlm_fo1.eval.coco import CocoImage, find_image, read_coco
from vlm_fo1.eval.metrics import (
    Joint,
    false_positives_tally,
    per_image_f1_tally,
    pooled_f1_tally,
    precision_tally,
)
from vlm_fo1.eval.metrics.images import read_images
from vlm_fo1.eval.metrics.tally import Score
from vlm_fo1.eval.predictions import Record, Scored
from vlm_fo1.eval.scores import Part, Scores, places_of
from vlm_fo1.tasks import Request


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """What a user may choose."""

    annotations: str = ""
    """The COCO file in the folder; by default the only JSON file there, or in annotations/."""
    ask: Literal["all", "present"] = "all"
    """Every image about all categories of the file, or only about those that it has."""
    scores: Scored = "confidence"
    """What AP ranks answers by: the model's probability of a region, the proposal's own, or 1."""


_CARD = Card(
    title="A COCO folder of one's own",
    protocol="All categories of the file are asked of every image in the task's own words; F1 of "
    "the answers as they are, pooled over images (matched by COCO's rule in answer order): 'all' "
    "counts an answer under a name that the image lacks as false, 'present' leaves it out; COCO AP "
    "ranked by the model's probability of each region.",
    metric="all f1_mean",
    layout="one COCO .json (or annotations/NAME.json) beside the images, or images/",
    source="your own; label tools and Roboflow export it as COCO",
    licence="yours",
)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Images with boxes of named things."""

    card: Card
    options: FolderOptions = FolderOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """One detection question an image."""
        coco = read_coco(annotation_file(data, self.options.annotations))
        folders = [coco.path.parent, data / "images", data, data / coco.path.stem]
        for image in coco.images:
            truth = coco.truth(image)
            labels = list(coco.categories.values())
            if self.options.ask == "present":
                labels = [label for label in labels if label in truth["boxes"]]
            if labels:
                yield coco_item(image, find_image(image.name, folders), labels, truth)

    def judge(self, records: Sequence[Record]) -> Scores:
        """F1 of answers as they are, and AP by the scores that were chosen."""
        scores = judge_detection(records, self.options.scores)
        if self.options.ask == "all":
            return scores
        said = "only the labels that an image has were asked of it: none of others can be false"
        return replace(scores, notes=(said, *scores.notes))


def judge_detection(records: Sequence[Record], scored: Scored = "confidence") -> Scores:
    """F1, AP and false positives of boxes by label.

    Args:
        records: With boxes in their truth.
        scored: What AP ranks answers by.
    """
    read = read_images([record.labelled(scored) for record in records], scored=True)
    unasked = sum(
        len(boxes)
        for record in records
        if record.answer is not None
        for label, boxes in record.answer.by_label.items()
        if label not in record.request["labels"]
    )
    parts = (
        Part(pooled_f1_tally(read, "all"), "all"),
        Part(pooled_f1_tally(read, "present"), "present"),
        Part(precision_tally(read)),
        Part(false_positives_tally(read), "false positives per truth", scale=1),
    )
    known_C = np.bincount(read.label_G[read.truth.group_N], minlength=len(read.names)) > 0
    alone = int((~known_C[read.label_G[read.answer.group_N]]).sum())
    notes = {
        f"{unasked} boxes were answered under names that were not asked for": unasked,
        f"{alone} boxes were answered under names that no image has: AP and F1 do not see them, "
        "false positives do": alone,
    }
    return Scores(parts=parts, notes=tuple(note for note, count in notes.items() if count))


def judge_each_image(records: Sequence[Record]) -> Scores:
    """F1 as the mean over images, labels looked at and not; false positives per truth.

    Args:
        records: With boxes in their truth.
    """
    images = read_images([record.labelled() for record in records])
    return Scores(
        parts=(
            Part(per_image_f1_tally(images, labels="aware"), "aware"),
            Part(per_image_f1_tally(images, labels="blind"), "published"),
            Part(false_positives_tally(images), "false positives per truth", scale=1),
        )
    )


def score_of_sets(
    records: Sequence[Record],
    scored: Scored,
    together: Callable[[Score], Score],
    kept: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda image: image,
) -> Joint:
    """AP of each set of records, and what it makes together.

    Args:
        records: Each with the name of its ``set`` in its truth.
        scored: What AP ranks answers by.
        together: From AP by set; None of one without an object.
        kept: Which answers of an image are looked at.
    """
    parts = {
        name: (precision_tally([kept(records[i].labelled(scored)) for i in places]), places)
        for name, places in places_of(record.truth["set"] for record in records).items()
    }
    return Joint(
        parts,
        len(records),
        lambda scores: together({name: score.get("ap") for name, score in scores.items()}),
    )


def coco_item(
    image: CocoImage,
    path: Path,
    labels: Sequence[str],
    truth: Mapping[str, Any],
    words: str = "",
    *,
    boxes: Any = None,
    id_: str = "",
) -> Item:
    """A detection question about an image of a COCO file.

    Args:
        image: As the file has it.
        path: Where it is.
        labels: What is asked for.
        truth: See `CocoSet.truth`.
        words: Template of the question, where the task's own is not the official one.
        boxes: See `Item.boxes`.
        id_: Name of the item; by default the id of the image.
    """
    return Item(
        id=id_ or str(image.id),
        image=path,
        request=Request(task="detection", labels=tuple(labels), template=words),
        truth=truth,
        boxes=boxes,
        size_wh=image.size_wh,
    )


def phrase_item(
    id_: str,
    image: Path,
    phrase: str,
    boxes: Sequence[Sequence[float]],
    *,
    offered: Any = None,
    size_wh: tuple[int, int] | None = None,
    **facts: Any,
) -> Item:
    """A referring question.

    Args:
        id_: Name of the item.
        image: Where it is.
        phrase: What is asked.
        boxes: What it means, xyxy; empty for nothing.
        offered: See `Item.boxes`.
        size_wh: See `Item.size_wh`.
        **facts: More of the truth, for the judge.
    """
    return Item(
        id=id_,
        image=image,
        request=Request(task="referring", labels=(phrase,)),
        truth={"boxes": {phrase: list(boxes)} if boxes else {}, **facts},
        boxes=offered,
        size_wh=size_wh,
    )


def annotation_file(data: Path, named: str) -> Path:
    """The annotation file of a folder.

    Raises:
        EvaluationError: There is none, or several and none was named.
    """
    if named:
        return data / named
    if not data.is_dir():
        raise EvaluationError(f"{data} is no folder: name one with images and a COCO file")
    for folder in (data, data / "annotations"):
        found = sorted(path for path in folder.glob("*.json") if path.name != "report.json")  # ours
        if len(found) == 1:
            return found[0]
        if found:
            raise EvaluationError(
                f"{folder} has {len(found)} JSON files, {', '.join(f.name for f in found[:5])}: "
                f"say which with --option annotations={found[0].relative_to(data)}"
            )
    raise EvaluationError(
        f"{data} has no JSON file, nor has {data / 'annotations'}: a COCO file with 'images', "
        "'categories' and 'annotations' is needed"
    )


FOLDER = Folder(card=_CARD)
