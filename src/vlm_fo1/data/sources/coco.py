"""COCO and LVIS instances: detection, counting, region captions, visual prompts."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from vlm_fo1.boxes import as_boxes
from vlm_fo1.data.example import Example
from vlm_fo1.data.sources.base import Epochs
from vlm_fo1.data.sources.files import as_text, is_set, read_json, table
from vlm_fo1.data.sources.instances import AnnotatedImage, InstanceConfig, ask_instances
from vlm_fo1.data.sources.join import Joined
from vlm_fo1.errors import ConfigError, DataError
from vlm_fo1.formats.identity import as_id


class CocoSource:
    """Records from an annotation file in COCO's or LVIS's format.

    In COCO every category that an image does not hold is absent there, and those of the same
    supercategory, or that share a word, are hard. LVIS says which are: ``neg_category_ids``, all of
    them hard; ``not_exhaustive_category_ids`` are never counted. Crowds (``iscrowd``) make their
    category uncountable. Names lose LVIS's underscores and brackets.

    Ids are joined whatever their type and zero padding. A file may state the size of an image as it
    is shown or as it is stored: boxes of a turned photo are turned along. An image that cannot be
    used is one bad record; what belongs to no record is counted in `notes`.

    Args:
        annotations: The JSON file.
        images: Folder of the images.
        config: What to ask.
        seed: Of the order and of the questions.
        proposals: Image id to (M, 4) boxes of a proposer, if there are any.
        share: Which images: those whose number, drawn from their id, is in ``[from, to)`` of 0 to
            1. ``[0, 0.9]`` to train on and ``[0.9, 1]`` to judge by have none in common.

    Raises:
        DataError: A file that cannot be used, or no image in that share.
        ConfigError: A share that is none.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        config: InstanceConfig | None = None,
        seed: int = 0,
        proposals: Mapping[Any, Any] | None = None,
        share: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not 0 <= share[0] < share[1] <= 1:
            raise ConfigError(
                f"share = {list(share)}: [from, to) with 0 <= from < to <= 1 is needed"
            )
        self.path, self.folder = Path(annotations), Path(images)
        self.config = config or InstanceConfig()
        self.proposals = {as_id(key): boxes for key, boxes in (proposals or {}).items()}
        content = read_json(self.path)
        self._categories = Categories(table(content, "categories", self.path), self.path)
        rows = table(content, "images", self.path)
        self._joined = Joined(self.path, rows, table(content, "annotations", self.path))
        self._images = [row for row in rows if self._says_something(row) and _in(share, row)]
        self.notes = [*self._categories.notes, *self._joined.notes]
        """What the file holds that no record uses, with counts."""
        if not self._images and share != (0.0, 1.0):
            raise DataError(f"{self.path} has no image in the share {list(share)}: widen it")
        silent = sum(not self._says_something(row) for row in rows)
        if silent:
            self.notes.append(
                f"{self.path}: {silent} of {len(rows)} images have no annotation: no record"
            )
        name = "; ".join([str(annotations), *self.notes])
        self._epochs = Epochs(len(self._images), seed, name)

    def __len__(self) -> int:
        return self._epochs.size

    def example(self, index: int) -> Example:
        """Record ``index``.

        Raises:
            DataError: The image cannot be used, or holds nothing to ask about.
        """
        position, rng = self._epochs.at(index)
        annotated = self.annotated(position)
        example = ask_instances(annotated, self.config, rng)
        if example is None:
            raise DataError(f"{annotated.source}: image {annotated.id} gives no question")
        return example

    def annotated(self, position: int) -> AnnotatedImage:
        """What is known of an image, by its place among those that have annotations.

        Raises:
            DataError: A category without a name, an image without a name or a size, one that is
                missing or of another size than the file says.
        """
        row = self._images[position]
        if not isinstance(row, dict) or as_id(row.get("id")) is None:
            raise DataError(f"{self.path}: {row!r} among the images has no id")
        where = f"{self.path}: image {row['id']}"
        image = self._joined.image(row["id"], self.folder, where)
        boxes: list[list[float]] = []
        names: list[str] = []
        known = self._categories
        uncounted = {known.name(key, where) for key in row.get("not_exhaustive_category_ids") or ()}
        present: dict[str, None] = {}
        for annotation, box in image.annotations:
            name = known.name(annotation.get("category_id"), where)
            present[name] = None
            if is_set(annotation.get("iscrowd")) or box is None:
                uncounted.add(name)
                continue
            boxes.append(box)
            names.append(name)
        absent, hard = self._absent(row, present)
        return AnnotatedImage(
            image=image.file,
            size_wh=image.size_wh,
            boxes_xyxy=as_boxes(boxes),
            names=tuple(names),
            partial=frozenset(uncounted),
            absent=absent,
            hard=hard,
            proposals_xyxy=self.proposals.get(as_id(row["id"])),
            source=str(self.path),
            id=str(row["id"]),
        )

    def _says_something(self, row: Any) -> bool:
        """Whether an image has annotations; what is no image is kept, to be told as a record."""
        if not isinstance(row, dict) or as_id(row.get("id")) is None:
            return True
        return bool(self._joined.of(row["id"]) or row.get("neg_category_ids"))

    def _absent(self, row: dict[str, Any], present: Iterable[str]) -> tuple[list[str], list[str]]:
        known = self._categories
        if "neg_category_ids" in row:
            said = [known.names[key] for key in map(as_id, row["neg_category_ids"] or ())
                    if key in known.names]  # fmt: skip
            said = [name for name in said if name not in present]
            return said, said
        absent = [name for name in known.groups if name not in present]
        groups = {group for name in present for group in known.groups[name]}
        words = {word for name in present for word in name.split()}
        hard = [name for name in absent if known.groups[name] & groups or words & set(name.split())]
        return absent, hard


def _in(share: tuple[float, float], row: Any) -> bool:
    """Whether an image of the file is in a share of it; what has no id is in every one."""
    name = as_id(row.get("id")) if isinstance(row, dict) else None
    if name is None:
        return True
    number = int.from_bytes(blake2b(str(name).encode(), digest_size=4).digest(), "big") / 2**32
    return share[0] <= number < share[1]


class Categories:
    """The categories of a COCO file, by id.

    Args:
        rows: With ``id``, ``name`` and perhaps ``supercategory``.
        path: Of the file, for messages.
    """

    def __init__(self, rows: Sequence[Any], path: Path) -> None:
        self.names: dict[str, str] = {}
        """Id to name."""
        self.groups: dict[str, set[str]] = {}
        """Name to the supercategories it is in."""
        self.notes: list[str] = []
        self._faults: dict[str | None, str] = {}
        odd = 0
        for row in rows:
            row = row if isinstance(row, dict) else {}
            key, said = as_id(row.get("id")), row.get("name")
            name = clean_name(as_text(said) or "")
            if key is None or not name:
                self._faults[key] = f"has the name {said!r}: a text is needed"
                continue
            if self.names.setdefault(key, name) != name:
                self._faults[key] = f"is both {self.names[key]!r} and {name!r}: give each its own"
            group = as_text(row.get("supercategory"))
            odd += group is None and row.get("supercategory") not in (None, "")
            self.groups.setdefault(name, set()).update([] if group is None else [group])
        for key in self._faults:
            self.names.pop(key or "", None)
        self.groups = {name: self.groups[name] for name in self.names.values()}
        if odd:
            self.notes.append(
                f"{path}: {odd} of {len(rows)} categories have a supercategory that is no text: "
                "they are in no group"
            )

    def name(self, value: Any, where: str) -> str:
        """The name of the category with an id.

        Raises:
            DataError: It is unknown, or has no name of its own.
        """
        key = as_id(value)
        if key in self._faults:
            raise DataError(f"{where}: category {value!r} {self._faults[key]}")
        if key not in self.names:
            raise DataError(f"{where} has category {value!r}, unknown")
        return self.names[key]


def clean_name(name: str) -> str:
    """``baseball_bat`` -> ``baseball bat``, ``bow_(weapon)`` -> ``bow weapon``."""
    return " ".join(name.replace("_", " ").replace("(", "").replace(")", "").split())
