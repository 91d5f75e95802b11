"""LLaVA-style conversations: with boxes written in the text, with listed boxes, or with none."""

import re
from pathlib import Path
from typing import Any, Literal, get_args

from vlm_fo1.boxes import as_boxes
from vlm_fo1.data.example import Example, Turn
from vlm_fo1.data.names import locate
from vlm_fo1.data.sources.base import Epochs
from vlm_fo1.data.sources.files import read_json
from vlm_fo1.errors import DataError, FO1Error
from vlm_fo1.images import image_size
from vlm_fo1.markup import RELEASED

Unit = Literal["unit", "thousand", "pixels"]
"""What a coordinate in the text is a part of: 0..1, 0..1000, or pixels of the image."""

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"[\[(]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[\])]")
_IMAGE = "<image>"


class ConversationsSource:
    """Records from a list of ``{"id", "image", "conversations": [{"from", "value"}]}``.

    Boxes in the text, ``[0.1, 0.2, 0.5, 0.6]``, are of the image as displayed. They become regions,
    and their tags stand in the text instead; equal boxes are one region. A record may bring its
    boxes beside the text (``"regions"``: xyxy in pixels), with tags in the text. Without either,
    and without an image, it is general conversation.

    Args:
        conversations: The JSON file.
        images: Folder of the images.
        seed: Of the order.
        unit: Of coordinates in the text; None reads no boxes there.

    Raises:
        DataError: A file that cannot be used.
    """

    def __init__(
        self,
        conversations: str | Path,
        images: str | Path = ".",
        seed: int = 0,
        unit: Unit | None = "unit",
    ) -> None:
        self.path, self.folder = Path(conversations), Path(images)
        self.unit: Unit | None = unit
        rows = read_json(self.path)
        if not isinstance(rows, list):
            raise DataError(f"{conversations} must be a list of conversations")
        self._rows: list[Any] = rows
        self._epochs = Epochs(len(rows), seed, str(conversations))

    def __len__(self) -> int:
        return self._epochs.size

    def example(self, index: int) -> Example:
        """Record ``index``.

        Raises:
            DataError: With file and number, what is wrong there.
        """
        position, _ = self._epochs.at(index)
        row = self._rows[position]
        where = f"{self.path}: record {position}"
        if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
            raise DataError(f"{where} has no list 'conversations'")
        try:
            image = self._image(row.get("image"))
            boxes: list[list[float]] = [list(map(float, box)) for box in row.get("regions") or ()]
            reader = None
            if image is not None and self.unit is not None and not boxes:
                reader = _BoxReader(self.unit, image)
            turns = _turns(row["conversations"], reader)
            return Example(
                image=image,
                regions_xyxy=as_boxes(reader.boxes if reader else boxes),
                turns=tuple(turns),
                source=str(self.path),
                id=str(row.get("id", position)),
                conversation=True,
            )
        except (FO1Error, ValueError, TypeError) as error:
            raise DataError(f"{where}: {error}") from error

    def _image(self, name: Any) -> Path | None:
        """The file of a record's image.

        Raises:
            DataError: The name is no text.
        """
        if name in (None, ""):
            return None
        if not isinstance(name, str):
            raise DataError(f"image = {name!r} must be a path or null")
        return locate(self.folder, name)

    @property
    def notes(self) -> list[str]:
        """How many lists of four numbers are no boxes in this unit, so stay text."""
        unit = self.unit
        if unit is None:
            return []
        texts = [
            message["value"]
            for row in self._rows
            if isinstance(row, dict) and row.get("image") and not row.get("regions")
            for message in row.get("conversations") or ()
            if isinstance(message, dict) and isinstance(message.get("value"), str)
        ]
        found = [_box(match, unit) for text in texts for match in _BOX.finditer(text)]
        kept_as_text = found.count(None)
        if not kept_as_text:
            return []
        return [
            f"{self.path}: {kept_as_text} of {len(found)} lists of four numbers are no boxes with "
            f"unit: {unit}, so they stay text; other units are "
            f"{', '.join(other for other in get_args(Unit) if other != unit)}"
        ]


class _BoxReader:
    """Takes boxes out of text, one after the other, and leaves tags."""

    def __init__(self, unit: Unit, image: Path) -> None:
        self.unit: Unit = unit
        self.image = image
        self.boxes: list[list[float]] = []
        self._scale: tuple[float, float] | None = None

    def replace(self, text: str) -> str:
        return _BOX.sub(self._tag, text)

    def _tag(self, match: re.Match[str]) -> str:
        values = _box(match, self.unit)
        if values is None:
            return match.group()
        if self._scale is None:
            self._scale = self._find_scale()
        across, down = self._scale
        box = [values[0] * across, values[1] * down, values[2] * across, values[3] * down]
        if box not in self.boxes:
            if len(self.boxes) == RELEASED.max_regions:
                raise DataError(f"more than {RELEASED.max_regions} boxes: split the conversation")
            self.boxes.append(box)
        return RELEASED.tag(self.boxes.index(box))

    def _find_scale(self) -> tuple[float, float]:
        if self.unit == "pixels":
            return 1.0, 1.0
        width, height = image_size(self.image)
        whole = 1.0 if self.unit == "unit" else 1000.0
        return width / whole, height / whole


def _box(match: re.Match[str], unit: Unit) -> list[float] | None:
    """Four numbers in a text as a box; None for a list of numbers that is none."""
    x1, y1, x2, y2 = values = [float(value) for value in match.groups()]
    if (unit == "unit" and max(values) > 1.001) or not (x1 < x2 and y1 < y2):
        return None
    return values


def _turns(conversation: list[Any], reader: _BoxReader | None) -> list[Turn]:
    messages: list[tuple[str, str]] = []
    for message in conversation:
        if not isinstance(message, dict) or not isinstance(message.get("value"), str):
            raise DataError("a message has no text 'value'")
        speaker = {"human": "user", "user": "user", "gpt": "model", "assistant": "model"}.get(
            str(message.get("from"))
        )
        if speaker is None:
            raise DataError(f"a message is from {message.get('from')!r}: human or gpt is needed")
        text = message["value"].replace(_IMAGE, "").strip()
        messages.append((speaker, reader.replace(text) if reader else text))
    if len(messages) % 2 or any(
        speaker != ("user", "model")[number % 2] for number, (speaker, _) in enumerate(messages)
    ):
        raise DataError("messages must take turns, human first and gpt last")
    return [
        Turn(question=question, answer=answer)
        for (_, question), (_, answer) in zip(messages[::2], messages[1::2], strict=True)
    ]
