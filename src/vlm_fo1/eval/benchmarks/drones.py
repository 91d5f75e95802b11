"""Photographs from drones: VisDrone's hundreds of small things, and RefDrone's expressions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_fo1.config import read_text
from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import NO_OPTIONS, Card, Item, NoOptions, Published
from vlm_fo1.eval.coco import find_image, read_coco
from vlm_fo1.eval.metrics import false_positives_tally, per_image_f1_tally, refdrone_tally
from vlm_fo1.eval.metrics.images import read_images
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
        """F1 as the mean over images, labels looked at and not; false positives per truth."""
        images = read_images([record.labelled() for record in records])
        return Scores(
            parts=(
                Part(per_image_f1_tally(images, labels="aware"), "aware"),
                Part(per_image_f1_tally(images, labels="blind"), "published"),
                Part(false_positives_tally(images), "false positives per truth", scale=1),
            )
        )


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
            corners = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
            yield Item(
                id=str(image.id),
                image=find_image(image.name, [data / "images", data]),
                request=Request(task="referring", labels=(phrase,)),
                truth={"boxes": {phrase: corners} if corners else {}},
                size_wh=image.size_wh,
            )

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
        published=(
            Published(
                source="VLX-Seek 1.5, by Rex-Omni's scorer",
                columns=("published f1@.5", "published f1@.95", "published f1_mean"),
                rows={
                    "Qwen3-VL-4B": (42.3, 1.4, 26.0),
                    "Qwen3-VL-8B": (42.8, 1.4, 25.8),
                    "MiMo-VL": (27.7, 0.3, 14.3),
                    "SEED1.5-VL": (55.9, 0.6, 27.4),
                    "Rex-Omni": (61.6, 1.5, 35.8),
                    "LocateAnything": (63.0, 3.2, 39.9),
                    "VLX-Seek-3B": (62.3, 2.9, 40.1),
                    "VLX-Seek-1.5-3B": (65.7, 2.9, 41.9),
                    "VLX-Seek-1.5-10B": (65.6, 3.0, 42.0),
                },
            ),
            Published(
                source="VLX-Seek 1.5; its definition is not in print, ours need not be equal",
                columns=("false positives per truth absent",),
                rows={
                    "Rex-Omni": (24.1,),
                    "LocateAnything": (28.8,),
                    "VLX-Seek-3B": (10.5,),
                    "VLX-Seek-1.5-3B": (8.7,),
                    "VLX-Seek-1.5-10B": (7.0,),
                },
            ),
        ),
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
        published=(
            Published(
                source="VLX-Seek 1.5",
                columns=("f1_instance", "acc_instance", "f1_image", "acc_image"),
                rows={
                    "Gemini 2.5 Pro": (3.5, 1.9, 8.1, 4.9),
                    "Qwen3-VL-4B": (48.7, 32.3, 47.8, 32.3),
                    "Qwen3-VL-8B": (51.7, 35.1, 46.4, 31.9),
                    "MiMo-VL": (19.8, 11.2, 30.2, 18.8),
                    "SEED1.5-VL": (43.5, 27.8, 37.3, 23.0),
                    "Rex-Omni": (54.1, 37.1, 43.9, 28.5),
                    "LocateAnything": (52.3, 35.6, 42.6, 28.2),
                    "VLX-Seek-3B": (54.0, 37.0, 45.1, 29.3),
                    "VLX-Seek-1.5-3B": (73.2, 58.0, 59.7, 44.3),
                    "VLX-Seek-1.5-10B": (73.2, 57.7, 60.9, 45.3),
                },
            ),
        ),
    )
)
