"""The bundled scenes that a page offers as examples: an image, boxes and a request each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm_fo1.config import read_json
from vlm_fo1.errors import DataError
from vlm_fo1.tasks import Request

FOLDER = Path(__file__).parents[1] / "assets" / "demo"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One scene with what is asked of it."""

    image: Path
    boxes_xyxy: list[list[float]]
    request: Request


def examples(folder: Path = FOLDER) -> list[Example]:
    """The scenes of ``scenes.json``, which `scripts.demo_images` writes.

    Raises:
        DataError: A file that is missing or no JSON.
    """
    return [
        Example(
            image=folder / scene["image"],
            boxes_xyxy=read_json(folder / scene["boxes"], DataError),
            request=Request(**scene["request"]),
        )
        for scene in read_json(folder / "scenes.json", DataError)
    ]


def captions(scenes: Sequence[Example]) -> str:
    """Style that writes under each example what is asked there.

    Args:
        scenes: In the order they are shown.
    """
    return "".join(
        f"#ask-examples .gallery-item:nth-of-type({number})::after "
        f"{{ content: {json.dumps(scene.request.spec.title)}; }}\n"
        for number, scene in enumerate(scenes, start=1)
    )
