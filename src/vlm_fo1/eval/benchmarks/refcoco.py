"""RefCOCO, RefCOCO+ and RefCOCOg: an expression means one object; gRefCOCO: several, one, or none.

The files of the ``refer`` repository are read as they are: a pickle (or JSON) of references, and
the COCO instances that they point at.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_fo1.config import read_json
from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import Card, Item
from vlm_fo1.eval.benchmarks.folder import phrase_item
from vlm_fo1.eval.coco import CocoImage, corners, find_image, read_coco
from vlm_fo1.eval.masks import mask_areas
from vlm_fo1.eval.metrics import Joint, Tally, grec_tally, gres_tally, referring_tally
from vlm_fo1.eval.metrics.tally import Score, mean
from vlm_fo1.eval.pickles import read_pickle
from vlm_fo1.eval.predictions import Record
from vlm_fo1.eval.scores import Part, Scores, places_of

NO_TARGET = -1
"""The ``ann_id`` of an expression that means nothing in its image."""

_SPLITS = {"refcoco": ("val", "testA", "testB"), "refcoco+": ("val", "testA", "testB"),
           "refcocog": ("val", "test")}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """What a user may choose."""

    split: str = "all"
    """One split, such as testA; "all" for those that are printed, whose plain mean is told too."""


@dataclass(frozen=True, kw_only=True)
class References:
    """Expressions of one data set; every sentence is an item."""

    card: Card
    folder: str
    """Name of the data set's folder in the data folder."""
    refs: str
    """Name of its file of references, without its ending."""
    splits: tuple[str, ...]
    several: bool = False
    """Whether an expression may mean several objects, or none."""
    options: ReferenceOptions = ReferenceOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """One referring question a sentence.

        Raises:
            EvaluationError: A file is missing, a split has no expression, or a reference means what
                is not there.
        """
        folder = data / self.folder
        refs = read_references(folder, self.refs)
        coco = read_coco(folder / "instances.json")
        images = {image.id: image for image in coco.images}
        places = [data / "train2014", data / "images" / "train2014", data / "images", folder, data]
        for split in self._splits():
            chosen = [ref for ref in refs if ref.get("split") == split]
            if not chosen:
                there = sorted({str(ref.get("split")) for ref in refs})
                raise EvaluationError(
                    f"{folder / self.refs}: no expression is of the split {split!r}; it has "
                    f"{', '.join(there)}"
                )
            for ref in chosen:
                image, meant = self._meant(ref, images, folder)
                boxes = corners(meant, f"{coco.path}, image {image.name!r}")
                masks = self._masks(image, meant)
                path = find_image(image.name, places)
                for number, sentence in enumerate(_sentences(ref, folder)):
                    yield phrase_item(
                        f"{split}/{ref['ref_id']}/{number}",
                        path,
                        sentence,
                        boxes,
                        size_wh=image.size_wh,
                        split=split,
                        **masks,
                    )

    def judge(self, records: Sequence[Record]) -> Scores:
        """Accuracy of the first box, or exactly right answers; by split, and the mean of splits.

        Masks are judged too where several objects may be meant and the offered boxes had some.
        """
        metric = "pr" if self.several else "accuracy"
        parts: list[Part] = []
        tallies: dict[str, tuple[Tally, list[int]]] = {}
        masked = self.several and any(r.answer and r.answer.masks is not None for r in records)
        unseen = 0
        for split, places in places_of(record.truth["split"] for record in records).items():
            tallies[split] = self._tally([records[place] for place in places]), places
            parts.append(Part(tallies[split][0], split, records=places))
            if masked:
                seen = [place for place in places if "segmentations" in records[place].truth]
                unseen += len(places) - len(seen)
                if seen:
                    areas = [mask_areas(records[place]) for place in seen]
                    parts.append(Part(gres_tally(areas), f"{split} masks", records=seen))

        def means(scores: Mapping[str, Score]) -> Score:
            known = [value for score in scores.values() if (value := score.get(metric)) is not None]
            return {f"mean {metric}": mean(known) if len(known) == len(scores) else None}

        parts.insert(0, Part(Joint(tallies, len(records), means)))
        notes = (f"masks: {unseen} items have none in the files, and are left out",) * bool(unseen)
        return Scores(parts=tuple(parts), notes=notes, errors=[1 - self._right(r) for r in records])

    def _masks(self, image: CocoImage, meant: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The masks of what is meant, as the file has them; nothing where it lacks one."""
        masks = [row.get("segmentation") for row in meant]
        if not self.several or image.size_wh is None or not all(masks):
            return {}
        return {"segmentations": masks, "mask_wh": [*image.size_wh]}

    def _splits(self) -> tuple[str, ...]:
        return self.splits if self.options.split == "all" else (self.options.split,)

    def _tally(self, records: Sequence[Record]) -> Tally:
        rows = [record.unlabelled() for record in records]
        if self.several:
            return grec_tally(rows)
        return referring_tally([row["answer"] for row in rows], [row["truth"] for row in rows])

    def _right(self, record: Record) -> float:
        return self._tally([record]).score()["pr" if self.several else "accuracy"] or 0.0

    def _meant(
        self,
        ref: Mapping[str, Any],
        images: Mapping[Any, CocoImage],
        folder: Path,
    ) -> tuple[CocoImage, list[Mapping[str, Any]]]:
        """The image of a reference, and the annotations that it means.

        Raises:
            EvaluationError: They are not in the instances file, or are more than the set allows.
        """
        where = f"{folder / self.refs}: reference {ref.get('ref_id')!r}"
        image = images.get(ref.get("image_id"))
        if image is None:
            raise EvaluationError(f"{where} is about image {ref.get('image_id')!r}, which "
                                  "instances.json does not have")  # fmt: skip
        meant = ref.get("ann_id")
        ids = meant if isinstance(meant, list) else [meant]
        ids = [id_ for id_ in ids if id_ != NO_TARGET]
        rows = {row.get("id"): row for row in image.annotations}
        missing = [id_ for id_ in ids if id_ not in rows]
        if missing or (not self.several and len(ids) != 1):
            raise EvaluationError(
                f"{where} means the annotations {meant!r}: "
                + (f"image {image.id!r} has no {missing[0]!r}" if missing else "one is needed")
            )
        return image, [rows[id_] for id_ in ids]


def read_references(folder: Path, name: str) -> list[Mapping[str, Any]]:
    """The references of a data set, from ``NAME.p`` or ``NAME.json``.

    Raises:
        EvaluationError: Neither is there, or it holds something else.
    """
    path = folder / f"{name}.json"
    rows = read_json(path, EvaluationError) if path.is_file() else read_pickle(folder / f"{name}.p")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise EvaluationError(f"{folder / name} holds no list of references: is it the right file?")
    return rows


def _sentences(ref: Mapping[str, Any], folder: Path) -> list[str]:
    """What is said of an object.

    Raises:
        EvaluationError: Nothing is.
    """
    rows = ref.get("sentences")
    said = [row.get("sent") for row in rows] if isinstance(rows, list) else []
    if not said or not all(isinstance(text, str) and text.strip() for text in said):
        raise EvaluationError(
            f"{folder}: reference {ref.get('ref_id')!r} has no 'sentences' with a text 'sent' each"
        )
    return [str(text) for text in said]


def _card(title: str, folder: str, refs: str) -> Card:
    return Card(
        title=title,
        protocol="Every sentence is asked in the task's own words; right if the first region of "
        "the answer has IoU >= .5 with the object. No box is wrong. Oracle: any region.",
        metric="mean accuracy",
        layout=f"{folder}/{refs}.p (or .json), {folder}/instances.json and train2014/",
        source="github.com/lichengunc/refer (pickles are read without running them); images: COCO "
        "train2014",
        licence="code Apache-2.0; annotations: not stated; images: Flickr terms",
        size="sentences: see the run; images 13 GB",
    )


REFCOCO = References(
    folder="refcoco",
    refs="refs(unc)",
    splits=_SPLITS["refcoco"],
    card=_card("RefCOCO", "refcoco", "refs(unc)"),
)

REFCOCO_PLUS = References(
    folder="refcoco+",
    refs="refs(unc)",
    splits=_SPLITS["refcoco+"],
    card=_card("RefCOCO+", "refcoco+", "refs(unc)"),
)

REFCOCOG = References(
    folder="refcocog",
    refs="refs(umd)",
    splits=_SPLITS["refcocog"],
    card=_card("RefCOCOg", "refcocog", "refs(umd)"),
)

GREFCOCO = References(
    folder="grefcoco",
    refs="grefs(unc)",
    splits=("val", "testA", "testB"),
    several=True,
    card=replace(
        REFCOCO.card,
        title="gRefCOCO",
        protocol="Every sentence is asked in the task's own words; right if the answered boxes and "
        "the objects pair up exactly at IoU >= .5 (best pair first), or there are none of both. "
        "Masks (gIoU, cIoU) where the offered boxes have some, as those of SAM 3.",
        metric="mean pr",
        needs=("faster_coco_eval",),
        layout="grefcoco/grefs(unc).json (or .p), grefcoco/instances.json and train2014/",
        source="github.com/henghuiding/gRefCOCO; images: COCO train2014. The official scorer "
        "matches by generalised IoU, ours by IoU",
        licence="of the annotations: not stated; images: Flickr terms",
    ),
)
