"""Visual Genome region descriptions: say what is in a region."""

from pathlib import Path

from vlm_fo1.data.example import Example, Turn
from vlm_fo1.data.names import locate
from vlm_fo1.data.regions import build_regions
from vlm_fo1.data.sources.base import Epochs
from vlm_fo1.data.sources.files import as_text, frame_of, read_json, usable_xyxy
from vlm_fo1.errors import DataError
from vlm_fo1.formats.identity import as_id
from vlm_fo1.tasks import Task, ask_regions


class VisualGenomeSource:
    """Records from ``region_descriptions.json``, in pixels of the image as displayed.

    Args:
        descriptions: The JSON file: a list of ``{"id", "regions": [{"x", "y", "width", "height",
            "phrase"}]}``.
        images: Folder with ``<id>.jpg``.
        seed: Of the order and of the regions.
        distractors: Least and greatest number of boxes that are nothing.
        regions: Greatest number of described regions that a record takes from an image, which has
            about fifty.
        turns: Greatest number of regions asked about.

    Raises:
        DataError: A file that cannot be used.
    """

    def __init__(
        self,
        descriptions: str | Path,
        images: str | Path,
        seed: int = 0,
        distractors: tuple[int, int] = (0, 10),
        regions: int = 20,
        turns: int = 4,
    ) -> None:
        self.path, self.folder = Path(descriptions), Path(images)
        self.distractors, self.regions, self.turns = distractors, regions, turns
        rows = read_json(self.path)
        if not isinstance(rows, list):
            raise DataError(f"{descriptions} must be a list of images with regions")
        self._rows = [row for row in rows if not isinstance(row, dict) or row.get("regions")]
        self._epochs = Epochs(len(self._rows), seed, str(descriptions))

    def __len__(self) -> int:
        return self._epochs.size

    def example(self, index: int) -> Example:
        """Record ``index``.

        Raises:
            DataError: No image, or no usable region in it.
        """
        position, rng = self._epochs.at(index)
        row = self._rows[position]
        key = as_id(row.get("id")) if isinstance(row, dict) else None
        if key is None or not isinstance(row["regions"], list):
            raise DataError(f"{self.path}: entry {position} is no image with an id and regions")
        where = f"{self.path}: image {key}"
        image = locate(self.folder, f"{key}.jpg")
        size_wh = frame_of(image, where).size_wh
        sides = ("x", "y", "width", "height")
        usable = [
            (phrase, box)
            for item in row["regions"]
            if isinstance(item, dict)
            and (phrase := as_text(item.get("phrase"))) is not None
            and (box := usable_xyxy([item.get(side) for side in sides], size_wh)) is not None
        ]
        if not usable:
            raise DataError(f"{where} has no region with a box and a phrase")
        usable = [usable[i] for i in rng.permutation(len(usable))[: self.regions]]
        boxes = [box for _, box in usable]
        built = build_regions(boxes, size_wh, rng, distractors=self.distractors)
        turns: list[Turn] = []
        for truth, region in list(built.region_of().items())[: self.turns]:
            question = ask_regions(Task.BRIEF_CAPTION, [region], len(built.xyxy))
            turns.append(Turn.asked(question, usable[truth][0]))
        return built.example(image, turns, self.path, key)
