"""OVDEval: nine sets of hard names, each image with its own hard negatives; NMS-AP."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import Card, Item
from vlm_fo1.eval.benchmarks.folder import coco_item, score_of_sets
from vlm_fo1.eval.coco import CocoImage, find_image, read_coco
from vlm_fo1.eval.metrics import ovdeval_means, surviving
from vlm_fo1.eval.metrics.tally import Score
from vlm_fo1.eval.predictions import RANKINGS, Record
from vlm_fo1.eval.scores import Part, Scores

SUBSETS = (
    "celebrity", "color", "landmark", "logo", "material", "negation", "position", "relationship",
)  # fmt: skip
_WHOLE = ("coco", "celebrity", "logo", "landmark")
"""Sets of which every image is asked all names of the file."""


@dataclass(frozen=True, kw_only=True)
class OvdevalOptions:
    """What a user may choose."""

    subsets: tuple[str, ...] = ()
    """Some of the sets; by default the eight, and coco where its file is there."""


@dataclass(frozen=True, kw_only=True)
class Ovdeval:
    """Eight COCO-format files with positive and negative labels, and COCO as the ninth."""

    card: Card
    options: OvdevalOptions = OvdevalOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """One detection question an image, set by set.

        Raises:
            EvaluationError: A set is missing or unknown.
        """
        chosen = self.options.subsets or SUBSETS
        known = (*SUBSETS, "coco")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise EvaluationError(f"{unknown[0]!r} is no set of OVDEval: {', '.join(known)}")
        if not self.options.subsets and (data / "coco.json").is_file():
            chosen = (*SUBSETS, "coco")
        missing = [name for name in chosen if not (data / f"{name}.json").is_file()]
        if missing:
            raise EvaluationError(
                f"{data} lacks {len(missing)} of {len(chosen)} sets: "
                f"{', '.join(f'{name}.json' for name in missing)}"
            )
        for name in chosen:
            coco = read_coco(data / f"{name}.json")
            names = list(coco.categories.values())
            for image in coco.images:
                labels = names if name in _WHOLE else _labels(image, data / f"{name}.json")
                truth = {**coco.truth(image), "set": name}
                path = find_image(image.name, [data / name, data / "images", data])
                if labels:
                    yield coco_item(image, path, labels, truth, id_=f"{name}/{image.id}")

    def judge(self, records: Sequence[Record]) -> Scores:
        """NMS-AP of each set, and both averages in print where all sets are there."""
        parts = tuple(
            Part(score_of_sets(records, kind, _with_means, surviving), prefix)
            for prefix, kind in RANKINGS.items()
        )
        there = {record.truth["set"] for record in records}
        lacking = [name for name in SUBSETS if name not in there]
        notes = (f"no averages without {', '.join(lacking)}",) if lacking else ()
        return Scores(parts=parts, notes=notes)


def _with_means(values: Score) -> Score:
    """NMS-AP of the sets, after the averages of them, where the eight are there."""
    known = {name: value for name, value in values.items() if value is not None}
    means: Score = {"five_aspect": None, "nine_mean": None}
    if {*SUBSETS} <= {*known}:
        means = ovdeval_means(known)
    return {**means, **values}


def _labels(image: CocoImage, path: Path) -> list[str]:
    """Positive labels of an image, then its hard negatives; each once.

    Raises:
        EvaluationError: It has no such lists.
    """
    lists: list[Any] = [image.values.get("text"), image.values.get("neg_text")]
    if not all(isinstance(row, list) for row in lists):
        raise EvaluationError(
            f"{path}: image {image.id!r} has no lists 'text' and 'neg_text': is it OVDEval's file?"
        )
    return list(dict.fromkeys(str(label) for row in lists for label in row))


OVDEVAL = Ovdeval(
    card=Card(
        title="OVDEval",
        protocol="Positive and hard negative labels of an image in one question of the task's own "
        "words (all names for celebrity, logo, landmark, COCO); NMS-AP by the model's score. "
        "Nine-mean (with COCO) and five-aspect are different averages, and both are told.",
        metric="five_aspect",
        layout="NAME.json and NAME/ for the eight sets; coco.json (val2017) for the nine-mean",
        source="huggingface.co/datasets/omlab/OVDEval",
        licence="openrail",
        size="about 20,000 images",
    )
)
