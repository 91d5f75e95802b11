"""Images written to a folder: pictures, a COCO data set, and training records."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.synthetic.kinds import SIGN
from recipes.synthetic.render import available_kinds
from recipes.synthetic.source import SyntheticSource
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
    images_folder = folder / "images"
    images_folder.mkdir(parents=True, exist_ok=True)
    kinds = sorted(
        {
            *available_kinds(
                source.config, load_sprites(source.config.sprites, source.config.final)
            ),
            SIGN,
        }
    )
    ids = {name: number for number, name in enumerate(kinds, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    questions = 0

    def records() -> Iterator[Example]:
        nonlocal questions
        for number in numbers:
            example, view = source.rendered(number)
            path = images_folder / f"{number:06d}.png"
            view.rendered.image.save(path)
            width, height = view.rendered.image.size
            images.append(
                {
                    "id": number,
                    "file_name": path.relative_to(folder).as_posix(),
                    "width": width,
                    "height": height,
                }
            )
            for thing in view.rendered.objects:
                x1, y1, x2, y2 = thing.box_xyxy
                facts = {"colour": thing.colour, "text": thing.text, "visible": thing.visible}
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": ids[thing.name],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": thing.area,
                        "iscrowd": 0,
                        **{key: value for key, value in facts.items() if value is not None},
                    }
                )
            questions += len(example.turns)
            yield replace(example, image=path)

    write_examples(folder / "records.jsonl", records())
    content = {
        "info": {"description": "images rendered by vlm_fo1", "seed": source.seed},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    (folder / "coco.json").write_text(json.dumps(content), encoding="utf-8")
    return {"images": len(images), "boxes": len(annotations), "questions": questions}
