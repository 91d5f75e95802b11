"""The bundled scenes that a page offers as examples: a picture, boxes and a question each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_fo1.app.asking import TASKS
from vlm_fo1.config import read_json
from vlm_fo1.errors import DataError

FOLDER = Path(__file__).parents[1] / "assets" / "demo"
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One scene with its question."""

    picture: Path
    boxes_xyxy: list[list[float]]
    task: str
    """A key of `vlm_fo1.app.asking.TASKS`."""
    labels: tuple[str, ...] = ()
    words: str = ""
    title: str = ""


_FALLBACK = ("detection", ("orange", "apple"), "")


def examples(folder: Path = FOLDER) -> list[Example]:
    """The scenes of a folder.

    Args:
        folder: Pictures with ``NAME.boxes.json`` (or one ``boxes.json``) beside them, and perhaps a
            ``scenes.json``: one entry a scene with ``image``, ``boxes``, ``task``, and ``labels``
            or ``question``.

    Returns:
        One example a scene; where ``scenes.json`` is missing each asks for oranges and apples.

    Raises:
        DataError: A file that cannot be read as that.
    """
    listed = folder / "scenes.json"
    if not listed.exists():
        pictures = [path for path in sorted(folder.iterdir()) if path.suffix in PICTURES]
        return [_example(folder, {"image": path.name}) for path in pictures]
    try:
        entries = read_json(listed, DataError)
        if isinstance(entries, Mapping):
            entries = entries.get("scenes", [])
        return [_example(folder, entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{listed} is no list of scenes ({error!r})") from error


def captions(scenes: Sequence[Example]) -> str:
    """Style that writes under each example what is asked there.

    Args:
        scenes: In the order they are shown.
    """
    return "".join(
        f"#ask-examples .gallery-item:nth-of-type({number})::after "
        f"{{ content: {json.dumps(TASKS[scene.task].title)}; }}\n"
        for number, scene in enumerate(scenes, start=1)
    )


def _example(folder: Path, entry: Mapping[str, Any]) -> Example:
    picture = folder / str(entry.get("image") or entry.get("file") or entry["picture"])
    task, labels, words = _FALLBACK
    if "task" in entry:
        task = str(entry["task"])
        labels = entry.get("labels") or entry.get("label") or ()
        labels = (labels,) if isinstance(labels, str) else tuple(map(str, labels))
        words = str(entry.get("question") or entry.get("phrase") or " ".join(labels))
        if task == "detection":
            words = ""
    return Example(
        picture=picture,
        boxes_xyxy=_boxes(folder, picture, entry.get("boxes")),
        task=task,
        labels=labels,
        words=words,
        title=str(entry.get("title") or entry.get("name") or picture.stem),
    )


def _boxes(folder: Path, picture: Path, given: Any) -> list[list[float]]:
    if isinstance(given, list):
        return _numbers(given)
    names = [given] if isinstance(given, str) else [f"{picture.stem}.boxes.json", "boxes.json"]
    for name in names:
        path = folder / name
        if path.exists():
            return _numbers(read_json(path, DataError))
    return []


def _numbers(boxes: Any) -> list[list[float]]:
    return [[float(value) for value in box] for box in boxes]
