"""ODinW13: thirteen small detection sets of very different things, and the mean of their AP."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import Card, Item
from vlm_fo1.eval.benchmarks.folder import coco_item, score_of_sets
from vlm_fo1.eval.coco import find_image, read_coco
from vlm_fo1.eval.metrics.tally import Score, mean
from vlm_fo1.eval.predictions import RANKINGS, Record
from vlm_fo1.eval.scores import Part, Scores

SETS = (
    "AerialMaritimeDrone",
    "Aquarium",
    "CottontailRabbits",
    "EgoHands",
    "NorthAmericaMushrooms",
    "Packages",
    "PascalVOC",
    "pistols",
    "pothole",
    "Raccoon",
    "ShellfishOpenImages",
    "thermalDogsAndPeople",
    "VehiclesOpenImages",
)
_ANNOTATIONS = ("annotations_without_background.json", "val_annotations_without_background.json")
_GLIP = {"Cottontail-Rabbit": "rabbit", "CoW": "flat mushroom", "chanterelle": "yellow mushroom"}
"""Names that GLIP asks in place of those of the files."""


@dataclass(frozen=True, kw_only=True)
class OdinwOptions:
    """What a user may choose."""

    names: Literal["file", "glip"] = "file"
    """The names of the files, or GLIP's for three of them."""
    ask: Literal["all", "present"] = "all"
    """All names of a set of every image, absent ones too (strict), or only those that it has."""
    mini: bool = False
    """mini_val of EgoHands and VehiclesOpenImages, as GLIP tests them, in place of valid."""


@dataclass(frozen=True, kw_only=True)
class Odinw:
    """Thirteen COCO-format sets."""

    card: Card
    options: OdinwOptions = OdinwOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """One detection question an image, set by set.

        Raises:
            EvaluationError: A set is missing: the score is the mean of thirteen.
        """
        files = {name: self._file(data, name) for name in SETS}
        missing = [name for name, file in files.items() if file is None]
        if missing:
            raise EvaluationError(
                f"{data} lacks {len(missing)} of {len(SETS)} sets: {', '.join(missing)}; each "
                f"needs a folder of its name with .../valid/{_ANNOTATIONS[0]}"
            )
        for name, file in files.items():
            assert file is not None
            coco = read_coco(file)
            for image in coco.images:
                truth = self._renamed(coco.truth(image))
                labels = [self._name(label) for label in coco.categories.values()]
                if self.options.ask == "present":
                    labels = [label for label in labels if label in truth["boxes"]]
                if not labels:
                    continue
                path = find_image(image.name, [file.parent])
                truth = {**truth, "set": name}
                yield coco_item(image, path, labels, truth, id_=f"{name}/{image.id}")

    def judge(self, records: Sequence[Record]) -> Scores:
        """AP of each set, and their mean if there are thirteen."""
        parts = tuple(
            Part(score_of_sets(records, kind, _with_mean), prefix)
            for prefix, kind in RANKINGS.items()
        )
        values = parts[0].values()
        known = sum(values[name] is not None for name in values if name != "mean ap")
        note = f"{known} of {len(SETS)} sets have a score: there is no mean"
        return Scores(parts=parts, notes=(note,) * (known < len(SETS)))

    def _file(self, data: Path, name: str) -> Path | None:
        """The annotations of a set: the shallowest file of the split."""
        mini = self.options.mini and name in ("EgoHands", "VehiclesOpenImages")
        split = "mini_val" if mini else "valid"
        found = [
            path
            for annotations in _ANNOTATIONS
            for path in (data / name).rglob(annotations)
            if path.parent.name == split or (name == "pistols" and path.parent.name == "export")
        ]
        preferred = ("large", "generic", "Raw")
        return min(
            found,
            key=lambda path: (not any(part in preferred for part in path.parts), len(path.parts)),
            default=None,
        )

    def _name(self, label: str) -> str:
        return _GLIP.get(label, label) if self.options.names == "glip" else label

    def _renamed(self, truth: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: {self._name(label): boxes for label, boxes in value.items()}
            for key, value in truth.items()
        }


def _with_mean(values: Score) -> Score:
    """AP of the sets, and their mean if there are thirteen."""
    known = [value for value in values.values() if value is not None]
    return {"mean ap": mean(known) if len(known) == len(SETS) else None, **values}


ODINW13 = Odinw(
    card=Card(
        title="ODinW13",
        protocol="All names of a set in one question of the task's own words for every image "
        "(strict: absent names act as negatives); COCO AP per set by the model's score, and the "
        "plain mean of thirteen.",
        metric="mean ap",
        layout="a folder for each set, with .../valid/annotations_without_background.json beside "
        "its images (pistols: export/val_annotations_without_background.json)",
        source="huggingface.co/datasets/GLIPModel/ODinW, or kcz358/ODinW-13",
        licence="of each set (Roboflow)",
    )
)
