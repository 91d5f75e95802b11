"""COCO val2017: 80 names in one official question; AP, and F1 at IoU .5, .95 and their mean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import Card, Item
from vlm_fo1.eval.benchmarks.folder import coco_item, judge_detection
from vlm_fo1.eval.coco import find_image, read_coco
from vlm_fo1.eval.lines import read_lines
from vlm_fo1.eval.metrics import pooled_f1, precision_tally
from vlm_fo1.eval.predictions import Record
from vlm_fo1.eval.scores import Part, Scores

WORDS = "Please detect {} in the image and return the object indexes."
"""Of the official script: not the task's own."""
PROPOSALS = "cocoVal2017_with_upn_score_0.3_0.8.jsonl"
"""The official UPN proposals, images in the order of the annotations."""


@dataclass(frozen=True, kw_only=True)
class CocoOptions:
    """What a user may choose."""

    boxes: Literal["file", "proposer"] = "file"
    """The official proposals, or those of the run's proposer."""
    ask: Literal["all", "present"] = "all"
    """All 80 names of every image, or only those that it has (another benchmark, as ChatRex)."""
    published: bool = False
    """Print Rex-Omni's F1 too, whose precision does not see trailing false positives."""


@dataclass(frozen=True, kw_only=True)
class Coco:
    """Detection of COCO's categories."""

    card: Card
    options: CocoOptions = CocoOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """One question an image.

        Raises:
            EvaluationError: A file is missing, or an image has no official proposals.
        """
        coco = read_coco(_first(data, "instances_val2017.json"))
        boxes = _proposals(_first(data, PROPOSALS)) if self.options.boxes == "file" else None
        names = list(coco.categories.values())
        for image in coco.images:
            truth = coco.truth(image)
            labels = names
            if self.options.ask == "present":
                labels = [name for name in names if name in truth["boxes"]]
            if not labels:
                continue
            path = find_image(image.name, [data / "val2017", data / "images", data])
            yield coco_item(image, path, labels, truth, WORDS, boxes=_of(boxes, image.id))

    def judge(self, records: Sequence[Record]) -> Scores:
        """AP by the proposal's score, as FO1's, and by the model's; F1."""
        scores = judge_detection(records, "proposal")
        by_model = precision_tally([record.labelled("confidence") for record in records])
        parts = [*scores.parts, Part(by_model, "model-scored")]
        if self.options.published:
            published = pooled_f1([record.labelled() for record in records], "published")
            parts.append(Part(published, "published"))
        return Scores(parts=tuple(parts), notes=scores.notes)


def _first(data: Path, name: str) -> Path:
    """A file of the data folder or of its annotations/.

    Raises:
        EvaluationError: Neither has it.
    """
    for path in (data / name, data / "annotations" / name):
        if path.is_file():
            return path
    raise EvaluationError(f"neither {data} nor {data / 'annotations'} has {name}")


def _proposals(path: Path) -> Mapping[Any, Any]:
    """The official boxes by id of the image.

    Raises:
        EvaluationError: The file is missing, a line lacks something, or an id stands twice.
    """
    found: dict[Any, Any] = {}
    for where, row in read_lines(path, ("id", "bbox_list", "score_list")):
        if row["id"] in found:
            raise EvaluationError(f"{where}: image {row['id']} stands a second time")
        found[row["id"]] = {"xyxy": row["bbox_list"], "scores": row["score_list"]}
    return found


def _of(boxes: Mapping[Any, Any] | None, id_: Any) -> Any:
    """The proposals of an image; None where the proposer is asked.

    Raises:
        EvaluationError: The file has none.
    """
    if boxes is None:
        return None
    if id_ not in boxes:
        raise EvaluationError(
            f"{PROPOSALS} has no image {id_}: it holds {len(boxes)} images; is it whole?"
        )
    return boxes[id_]


COCO = Coco(
    card=Card(
        title="COCO val2017",
        protocol="The 80 names in one official question an image, with the official UPN proposals; "
        "COCO AP by the score of the proposal (FO1's choice) and by the model's; F1-clean.",
        metric="ap",
        layout=f"annotations/instances_val2017.json, val2017/ and {PROPOSALS}",
        source="cocodataset.org; proposals: om-ai-lab/VLM-FO1, evaluation/processed_data",
        licence="annotations CC BY 4.0; images: Flickr terms",
        size="5,000 images, 1 GB",
    )
)
