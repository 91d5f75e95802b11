"""Images written to a folder: pictures, a COCO data set, and training records."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.synthetic import SyntheticSource
from recipes.synthetic.kinds import SIGN
from recipes.synthetic.render import available_kinds
from recipes.synthetic.sprites import load_sprites
from vlm_fo1.data.example import Example, write_examples


def write_images(source: SyntheticSource, folder: Path, numbers: Iterable[int]) -> dict[str, int]:
    """Render images to ``images/*.png``, ``coco.json`` and ``records.jsonl``.

    Args:
        source: The stream.
        folder: Where to; made if needed, files of the same name are replaced.
        numbers: Which images of the stream.

    Returns:
        How many images, boxes and questions were written. In ``coco.json`` an annotation also has
        ``colour``, ``text`` and ``visible`` where they are known.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    sprites = load_sprites(source.config.sprites, source.config.final)
    names = sorted({*available_kinds(source.config, sprites), SIGN})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    questions = 0

    def records() -> Iterator[Example]:
        nonlocal questions
        for number in numbers:
            example, view = source.rendered(number)
            name = f"images/{number:06d}.png"
            image = view.rendered.image
            image.save(folder / name)
            images.append(
                {"id": number, "file_name": name, "width": image.width, "height": image.height}
            )
            for thing in view.rendered.objects:
                if thing.name not in names:  # a synonym
                    names.append(thing.name)
                x1, y1, x2, y2 = thing.box_xyxy
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(thing.name) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": thing.area,
                    "iscrowd": 0,
                    "colour": thing.colour,
                    "text": thing.text,
                    "visible": thing.visible,
                }
                annotations.append({k: v for k, v in annotation.items() if v is not None})
            questions += len(example.turns)
            yield replace(example, image=folder / name)

    write_examples(folder / "records.jsonl", records())
    content = {
        "info": {"description": "images rendered by vlm_fo1", "seed": source.seed},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    (folder / "coco.json").write_text(json.dumps(content), encoding="utf-8")
    return {"images": len(images), "boxes": len(annotations), "questions": questions}
