"""LVIS v1: 1,203 names of very different frequency; some answers are neither right nor wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import Card, Item
from vlm_fo1.eval.coco import CocoSet, find_image, read_coco
from vlm_fo1.eval.metrics import pooled_f1_tally, precision_tally
from vlm_fo1.eval.metrics.images import read_images
from vlm_fo1.eval.metrics.tally import Resampled
from vlm_fo1.eval.predictions import RANKINGS, Record, Scored
from vlm_fo1.eval.scores import Part, Scores, places_of
from vlm_fo1.tasks import Request

_CHUNK = 80
"""Names a question, where all are asked."""


@dataclass(frozen=True, kw_only=True)
class LvisOptions:
    """What a user may choose."""

    ask: Literal["judged", "all"] = "judged"
    """The names that the scorer can see in an image (those it has, and those known to be absent),
    or all 1,203, 80 a question."""
    annotations: str = "lvis_v1_val.json"
    """The file; minival is another of the same form."""


@dataclass(frozen=True, kw_only=True)
class Lvis:
    """Detection of LVIS's categories."""

    card: Card
    options: LvisOptions = LvisOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """One detection question an image, or several of 80 names.

        Raises:
            EvaluationError: The file is missing or of another form.
        """
        coco = read_coco(data / self.options.annotations)
        names = {id_: name.replace("_", " ") for id_, name in coco.categories.items()}
        for image in coco.images:
            truth = _truth(coco, image, names)
            judged = sorted({*truth["boxes"], *truth["negative"]})
            every = list(names.values())
            asked = [judged] if self.options.ask == "judged" else _chunks(every)
            folder, _, name = image.name.rpartition("/")
            folder = folder.rpartition("/")[2]
            path = find_image(
                name, [data / folder, data / "images" / folder, data / "images", data]
            )
            for number, labels in enumerate(asked):
                if labels:
                    yield Item(
                        id=f"{image.id}/{number}",
                        image=path,
                        request=Request(task="detection", labels=tuple(labels)),
                        truth=_part(truth, labels),
                        size_wh=image.size_wh,
                        group=str(image.id),
                    )

    def judge(self, records: Sequence[Record]) -> Scores:
        """AP by LVIS's rules with its frequencies, by each score that there is; F1-clean."""
        firsts = [places[0] for places in places_of(record.group for record in records).values()]
        scores: dict[str, Resampled] = {}
        for prefix, kind in RANKINGS.items():
            images = _whole(records, kind)
            frequency = {k: v for image in images for k, v in image["frequency"].items()}
            scores[prefix] = precision_tally(images, "lvis", frequency=frequency)
        read = read_images(_whole(records, None))
        scores |= {variant: pooled_f1_tally(read, variant) for variant in ("all", "present")}
        parts = (Part(score, prefix, records=firsts) for prefix, score in scores.items())
        return Scores(parts=tuple(parts))


def _truth(coco: CocoSet, image: Any, names: dict[Any, str]) -> dict[str, Any]:
    """Boxes by name, with the names that are known to be absent or not all boxed.

    Raises:
        EvaluationError: A category that the file does not have.
    """
    own = coco.truth(image)
    renamed = {old: names[id_] for id_, old in coco.categories.items()}
    truth: dict[str, Any] = {
        key: {renamed[label]: boxes for label, boxes in own[key].items()}
        for key in ("boxes", "areas")
    }
    for key, source in (("negative", "neg_category_ids"),
                        ("not_exhaustive", "not_exhaustive_category_ids")):  # fmt: skip
        ids = image.values.get(source) or []
        unknown = [id_ for id_ in ids if id_ not in names]
        if unknown:
            raise EvaluationError(
                f"{coco.path}: image {image.id}: {source} has {unknown[0]!r}, which is no category"
            )
        truth[key] = [names[id_] for id_ in ids]
    values = {names[id_]: row for id_, row in coco.category_values.items()}
    seen = [*truth["boxes"], *truth["negative"]]
    truth["frequency"] = {name: values[name].get("frequency", "f") for name in seen}
    return truth


def _chunks(names: Sequence[str]) -> list[list[str]]:
    return [list(names[i : i + _CHUNK]) for i in range(0, len(names), _CHUNK)]


def _part(truth: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """What a question about some of the names is judged by."""
    asked = set(labels)
    return {
        key: {k: v for k, v in value.items() if k in asked}
        if isinstance(value, dict)
        else [name for name in value if name in asked]
        for key, value in truth.items()
    }


def _whole(records: Sequence[Record], scored: Scored | None) -> list[dict[str, Any]]:
    """The parts of each image together; one of them that failed is an answer without boxes."""
    images: dict[str, dict[str, Any]] = {}
    for record in records:
        own = {**record.labelled(scored), "frequency": record.truth["frequency"]}
        whole = images.setdefault(record.group, own)
        if whole is own:
            continue
        for key, value in own.items():
            if isinstance(value, dict) and isinstance(whole.get(key), dict):
                whole[key] = {**whole[key], **value}
            elif isinstance(value, list):
                whole[key] = [*whole[key], *value]
            elif whole.get(key) is None:
                whole[key] = value
    return list(images.values())


LVIS = Lvis(
    card=Card(
        title="LVIS v1 val",
        protocol="The names that an image has and those known to be absent, in one question of the "
        "task's own words (no official protocol for FO1 is in print); AP by LVIS's rules, at most "
        "300 answers an image.",
        metric="ap",
        layout="lvis_v1_val.json, train2017/ and val2017/",
        source="lvisdataset.org; images: COCO 2017",
        licence="annotations CC BY 4.0 (second hand); images: Flickr terms",
        size="19,809 images",
    )
)
