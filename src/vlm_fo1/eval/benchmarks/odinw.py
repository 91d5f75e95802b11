"""ODinW13: thirteen small detection sets of very different things, and the mean of their AP."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import Card, Item, Published
from vlm_fo1.eval.benchmarks.folder import coco_item
from vlm_fo1.eval.coco import find_image, read_coco
from vlm_fo1.eval.metrics import average_precision
from vlm_fo1.eval.metrics.tally import mean
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
        by_set: dict[str, list[Record]] = {}
        for record in records:
            by_set.setdefault(record.truth["set"], []).append(record)
        parts: list[Part] = []
        notes: tuple[str, ...] = ()
        for prefix, kind in RANKINGS.items():
            values = {
                name: average_precision([r.labelled(kind) for r in own])["ap"]
                for name, own in by_set.items()
            }
            known = [value for value in values.values() if value is not None]
            whole = len(known) == len(SETS)
            parts.append(Part({"mean ap": mean(known) if whole else None, **values}, prefix))
            if not whole:
                notes = (f"{len(known)} of {len(SETS)} sets have a score: there is no mean",)
        return Scores(parts=tuple(parts), notes=notes)

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
        needs=("faster_coco_eval",),
        published=(
            Published(
                source="as FO1's blog and VLX-Seek print them; * only names that an image has were "
                "asked. FO1's wording is not in print",
                columns=("mean ap",),
                rows={
                    "FO1": (44.4,),
                    "GLIP": (52.1,),
                    "Grounding DINO": (55.7,),
                    "OmDet-Turbo": (54.1,),
                    "Gemini 1.5 Pro *": (36.7,),
                    "InternVL2.5-8B *": (20.2,),
                    "InternVL2.5-78B *": (31.7,),
                    "Qwen2.5-VL-7B *": (37.3,),
                    "Qwen2.5-VL-72B *": (43.1,),
                    "Griffon-G *": (43.8,),
                    "Qwen3-VL-4B": (48.2,),
                    "Qwen3-VL-8B": (44.7,),
                    "Rex-Omni (score 1)": (40.4,),
                    "LocateAnything (score 1)": (38.0,),
                    "VLX-Seek-3B": (48.4,),
                    "VLX-Seek-1.5-3B": (52.0,),
                    "VLX-Seek-1.5-10B": (50.4,),
                },
            ),
        ),
    )
)
