"""Photographs from drones: VisDrone's hundreds of small things, and RefDrone's expressions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_fo1.config import read_text
from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import NO_OPTIONS, Card, Item, NoOptions
from vlm_fo1.eval.benchmarks.folder import judge_each_image, phrase_item
from vlm_fo1.eval.coco import corners, find_image, read_coco
from vlm_fo1.eval.metrics import false_positives_tally, refdrone_tally
from vlm_fo1.eval.predictions import Record
from vlm_fo1.eval.scores import Part, Scores
from vlm_fo1.tasks import Request

CATEGORIES = {
    1: "pedestrian", 2: "people", 3: "bicycle", 4: "car", 5: "van", 6: "truck", 7: "tricycle",
    8: "awning-tricycle", 9: "bus", 10: "motor",
}  # fmt: skip
"""VisDrone's; 0 is an ignored region and 11 "others", which are left out."""
NO_TARGET = -1
"""The ``category_id`` of an expression that means nothing in its image."""


@dataclass(frozen=True, kw_only=True)
class VisDrone:
    """VisDrone2019-DET: a text file of rows for each image."""

    card: Card
    options: NoOptions = NO_OPTIONS

    def items(self, data: Path) -> Iterator[Item]:
        """All ten names of every image.

        Raises:
            EvaluationError: There are no annotations, or a row is of another form.
        """
        files = sorted((data / "annotations").glob("*.txt"))
        if not files:
            raise EvaluationError(f"{data / 'annotations'} has no .txt files: {self.card.layout}")
        for file in files:
            boxes: dict[str, list[list[float]]] = {}
            for number, line in enumerate(read_text(file, EvaluationError).splitlines(), start=1):
                if line.strip():
                    name, box = _row(line, f"{file}, line {number}")
                    if name:
                        boxes.setdefault(name, []).append(box)
            yield Item(
                id=file.stem,
                image=find_image(f"{file.stem}.jpg", [data / "images", data]),
                request=Request(task="detection", labels=tuple(CATEGORIES.values())),
                truth={"boxes": boxes},
            )

    def judge(self, records: Sequence[Record]) -> Scores:
        """See `judge_each_image`."""
        return judge_each_image(records)


@dataclass(frozen=True, kw_only=True)
class RefDroneOptions:
    """What a user may choose."""

    split: str = "test"
    """train, val or test."""


@dataclass(frozen=True, kw_only=True)
class RefDrone:
    """Expressions for things in VisDrone's images: several, one, or none."""

    card: Card
    options: RefDroneOptions = RefDroneOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """One referring question an entry of images.

        Raises:
            EvaluationError: The file is missing, or an entry has no caption.
        """
        path = data / f"RefDrone_{self.options.split}_mdetr.json"
        for image in read_coco(path, unknown_category=NO_TARGET).images:
            phrase = image.values.get("caption")
            if not isinstance(phrase, str) or not phrase.strip():
                raise EvaluationError(f"{path}: image {image.id!r} has no 'caption'")
            rows = [row for row in image.annotations if row["category_id"] != NO_TARGET]
            boxes = corners(rows, f"{path}: image {image.id!r}")
            place = find_image(image.name, [data / "images", data])
            yield phrase_item(str(image.id), place, phrase, boxes, size_wh=image.size_wh)

    def judge(self, records: Sequence[Record]) -> Scores:
        """F1 and accuracy, over instances and over images; false positives per truth."""
        rows = [record.unlabelled() for record in records]
        images = [record.labelled() for record in records]
        return Scores(
            parts=(
                Part(refdrone_tally(rows)),
                Part(false_positives_tally(images), "false positives per truth", scale=1),
            )
        )


def _row(line: str, where: str) -> tuple[str, list[float]]:
    """Name and box of a row; an empty name for what does not count.

    Raises:
        EvaluationError: It is not ``x,y,w,h,score,category,...``.
    """
    fields: list[Any] = [part.strip() for part in line.strip().rstrip(",").split(",")]
    try:
        x, y, width, height, score, category = map(int, fields[:6])
    except ValueError:
        raise EvaluationError(
            f"{where} is {line!r}: x,y,w,h,score,category,truncation,occlusion is needed"
        ) from None
    name = CATEGORIES.get(category, "") if score else ""
    return name, [float(x), float(y), float(x + width), float(y + height)]


VISDRONE = VisDrone(
    card=Card(
        title="VisDrone2019-DET",
        protocol="The ten names in one question of the task's own words; F1 of precision and "
        "recall as means over images. 'published' does not look at labels (a truck called car is "
        "found), 'aware' does.",
        metric="aware f1_mean",
        layout="annotations/*.txt and images/*.jpg of VisDrone2019-DET test-dev",
        source="github.com/VisDrone/VisDrone-Dataset",
        licence="non-commercial research",
        size="1,610 images",
        tiled=True,
    )
)

REFDRONE = RefDrone(
    card=Card(
        title="RefDrone",
        protocol="Every expression in the task's own words; the best pair first at IoU >= .5. F1 "
        "and accuracy over instances and over images, by the first of its two metric files.",
        metric="f1_instance",
        layout="RefDrone_test_mdetr.json and images/ (VisDrone's)",
        source="github.com/sunzc-sunny/refdrone",
        licence="annotations CC BY 4.0; images: non-commercial research",
        size="test: 3,432 expressions",
        tiled=True,
    )
)
