"""Boxes that a user already has: arrays, JSON, COCO files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_fo1.boxes import check as check_boxes
from vlm_fo1.boxes import xywh_to_xyxy
from vlm_fo1.errors import BoxError
from vlm_fo1.structures import Regions


def given_regions(
    source: Any, size_wh: tuple[int, int], *, image: str | Path | int | None = None
) -> Regions:
    """Regions of one image from whatever a user has.

    Args:
        source: `Regions`; an array, tensor or list of (x1, y1, x2, y2) in pixels; a list of dicts
            with ``xyxy`` or COCO's ``bbox`` (x, y, width, height) and maybe ``score``; the dict
            that `Regions.to_dict` gives; a COCO data set (``images``, ``annotations``); a dict from
            file name to any of these; or the path of a JSON file with one of these.
        size_wh: Width and height of the image in pixels.
        image: File name or COCO id that picks the image in a file about many.

    Returns:
        Regions clipped to the image, in the given order, scores where there are some.

    Raises:
        BoxError: A file that cannot be read, no such image in it, or a box that cannot be used
            (with its index).
    """
    if isinstance(source, Regions):
        if source.size_wh != size_wh:
            raise BoxError(
                f"the regions are of an image of {source.size_wh}, this one is {size_wh}: "
                "scale them with vlm_fo1.boxes.scale"
            )
        check_boxes(source.xyxy, size_wh)
        return source
    if isinstance(source, str | Path):
        source = _read_json(Path(source))
    xyxy, scores = _parse(source, image)
    checked = check_boxes(xyxy, size_wh)
    return Regions(checked, size_wh, None if scores is None else np.array(scores, np.float32))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BoxError(f"boxes file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BoxError(f"boxes file {path} is not JSON: {error}") from error


def _parse(source: Any, image: str | Path | int | None) -> tuple[Any, Sequence[float] | None]:
    """Boxes (N, 4) xyxy and scores, or None for the scores."""
    if isinstance(source, Mapping):
        if "xyxy" in source:
            return source["xyxy"], source.get("scores")
        if "annotations" in source:
            return _parse_records(_of_coco(source, image))
        if "regions" in source:  # an answer of ours
            return _parse(source["regions"], image)
        return _parse(_by_name(source, image), image)
    if isinstance(source, Sequence) and source and isinstance(source[0], Mapping):
        return _parse_records(_of_image(source, image))
    return source, None


def _parse_records(
    records: Sequence[Mapping[str, Any]],
) -> tuple[list[Any], Sequence[float] | None]:
    xyxy: list[Any] = []
    for index, record in enumerate(records):
        if "xyxy" in record:
            xyxy.append(record["xyxy"])
        elif "bbox" in record:
            xyxy.extend(xywh_to_xyxy(record["bbox"]).tolist())
        else:
            raise BoxError(
                f"box {index} has neither 'xyxy' (x1, y1, x2, y2) nor 'bbox' "
                f"(x, y, width, height): it has {', '.join(map(str, record))}"
            )
    scores = [record.get("score") for record in records]
    known = [float(score) for score in scores if score is not None]
    if known and len(known) < len(scores):
        raise BoxError(f"{len(known)} of {len(scores)} boxes have a score: give all or none")
    return xyxy, known or None


def _of_image(
    records: Sequence[Mapping[str, Any]], image: str | Path | int | None
) -> Sequence[Mapping[str, Any]]:
    """COCO results of one image; records without ``image_id`` all belong to it.

    Raises:
        BoxError: The results are about other images.
    """
    ids = list(dict.fromkeys(record["image_id"] for record in records if "image_id" in record))
    if len(ids) <= 1 and not (isinstance(image, int) and ids):
        return records
    stem = Path(str(image)).stem
    for candidate in (image, stem, stem.lstrip("0") or "0"):
        picked = [record for record in records if str(record.get("image_id")) == str(candidate)]
        if picked:
            return picked
    raise BoxError(
        f"these results are about {len(ids)} images, none of them {image!r}: pass the image's "
        f"id, e.g. {ids[0]!r}"
    )


def _of_coco(
    source: Mapping[str, Any], image: str | Path | int | None
) -> Sequence[Mapping[str, Any]]:
    """Annotations of one image of a COCO data set, found by file name or id.

    Raises:
        BoxError: The data set does not hold the image.
    """
    images = source.get("images", [])
    name = Path(str(image)).name
    ids = [
        entry["id"]
        for entry in images
        if entry["id"] == image or Path(str(entry.get("file_name"))).name == name
    ]
    if not ids and len(images) == 1:
        ids = [images[0]["id"]]
    if not ids:
        raise BoxError(
            f"the data set holds {len(images)} images, none named {name!r}: "
            "pass the file name or id that stands in it"
        )
    return [record for record in source["annotations"] if record["image_id"] == ids[0]]


def _by_name(source: Mapping[str, Any], image: str | Path | int | None) -> Any:
    name = Path(str(image)).name
    for key in (str(image), name, Path(name).stem):
        if key in source:
            return source[key]
    raise BoxError(
        f"the boxes hold nothing for {name!r}; they are about {', '.join(list(source)[:5])}"
        f"{', ...' if len(source) > 5 else ''}"
    )
