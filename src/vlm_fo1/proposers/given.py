"""Boxes that a user already has: arrays, supervision, JSON, COCO, YOLO and LabelMe files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlm_fo1.boxes import check as check_boxes
from vlm_fo1.boxes import xywh_to_xyxy
from vlm_fo1.errors import BoxError
from vlm_fo1.masks import decode_rle
from vlm_fo1.proposers.given_files import (
    UNREADABLE,
    YOLO,
    boxes_of_image,
    by_name,
    called,
    labelme_boxes,
    read_boxes,
    yolo_boxes,
)
from vlm_fo1.structures import Regions

__all__ = ["find_image", "given_regions", "read_boxes"]


@dataclass(frozen=True)
class _Given:
    """Boxes (N, 4) xyxy and what is known of them; nothing is checked yet."""

    xyxy: Any
    scores: Any = None
    labels: Any = None
    masks: Any = None


def given_regions(
    source: Any, size_wh: tuple[int, int], *, image: str | Path | int | None = None
) -> Regions:
    """Regions of one image from whatever a user has.

    Args:
        source: `Regions`; ``supervision.Detections``; an array, tensor or list of (x1, y1, x2, y2)
            in pixels; a list of dicts with ``xyxy`` or COCO's ``bbox`` (x, y, width, height) and
            maybe ``score`` and run lengths as ``segmentation``; the dict that `Regions.to_dict`
            gives; a COCO data set (``images``, ``annotations``); what a LabelMe file holds; a dict
            from file name to any of these; or the path of what `read_boxes` takes: a file with one
            of these, a YOLO file, or a folder with a file for each image.
        size_wh: Width and height of the image in pixels.
        image: File name or COCO id that picks the image in a file about many.

    Returns:
        Regions clipped to the image, in the given order; scores, labels and masks where there are
        some.

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
        return replace(source, xyxy=check_boxes(source.xyxy, size_wh))
    if isinstance(source, str | Path):
        path = Path(source)
        source = boxes_of_image(path, image) if path.is_dir() else read_boxes(path)
    given = _parse(source, size_wh, image)
    xyxy = given.xyxy if isinstance(given.xyxy, list | tuple) else _as_array(given.xyxy)
    return Regions(
        check_boxes(xyxy, size_wh),
        size_wh,
        None if given.scores is None else _numbers(given.scores),
        labels=None if given.labels is None else tuple(map(str, given.labels)),
        masks=given.masks,
    )


def _parse(source: Any, size_wh: tuple[int, int], image: str | Path | int | None) -> _Given:
    if isinstance(source, Mapping):
        return _parse_mapping(source, size_wh, image)
    if isinstance(source, Sequence) and source and isinstance(source[0], Mapping):
        return _parse_records(_of_image(source, image))
    return _parse_detections(source) if hasattr(source, "class_id") else _Given(source)


def _parse_detections(source: Any) -> _Given:
    """Of ``supervision.Detections``, without importing that."""
    return _Given(source.xyxy, source.confidence, source.data.get("class_name"), source.mask)


def _parse_mapping(
    source: Mapping[str, Any], size_wh: tuple[int, int], image: str | Path | int | None
) -> _Given:
    if "xyxy" in source:
        masks = _masks(source.get("masks"))
        return _Given(source["xyxy"], source.get("scores"), source.get("labels"), masks)
    if "annotations" in source:
        return _parse_records(_of_coco(source, image))
    if "regions" in source:  # an answer of ours, or a proposal
        _check_size(source.get("image"), size_wh)
        return _parse(source["regions"], size_wh, image)
    if "shapes" in source:
        boxes, labels = labelme_boxes(source, size_wh)
        return _Given(boxes, labels=labels)
    if YOLO in source:
        return _Given(*yolo_boxes(source[YOLO], size_wh))
    if UNREADABLE in source:
        raise BoxError(str(source[UNREADABLE]))
    return _parse(by_name(source, image), size_wh, image)


def _check_size(said: Any, size_wh: tuple[int, int]) -> None:
    """Refuse boxes of a picture of another size.

    Raises:
        BoxError: They say so themselves.
    """
    if isinstance(said, Mapping) and {"width", "height"} <= said.keys():
        other = (said["width"], said["height"])
        if other != size_wh:
            raise BoxError(
                f"the boxes are of an image of {other}, this one is {size_wh}: "
                "scale them with vlm_fo1.boxes.scale"
            )


def _parse_records(
    records: Sequence[Mapping[str, Any]],
) -> _Given:
    xyxy: list[Any] = []
    for index, record in enumerate(records):
        if "xyxy" in record:
            xyxy.append(_four(record["xyxy"], index))
        elif "bbox" in record:
            xyxy.extend(xywh_to_xyxy(_four(record["bbox"], index)).tolist())
        else:
            raise BoxError(
                f"box {index} has neither 'xyxy' (x1, y1, x2, y2) nor 'bbox' "
                f"(x, y, width, height): it has {', '.join(map(str, record)) or 'nothing'}"
            )
    scores = [record.get("score") for record in records]
    known = [score for score in scores if score is not None]
    if known and len(known) < len(scores):
        raise BoxError(f"{len(known)} of {len(scores)} boxes have a score: give all or none")
    labels = [record.get("label") for record in records]
    named = bool(labels) and all(isinstance(label, str) for label in labels)
    rles = [record.get("segmentation") for record in records]
    masked = bool(rles) and all(isinstance(rle, Mapping) for rle in rles)  # else outlines, or none
    masks = _masks(rles) if masked else None
    return _Given(xyxy, known or None, labels if named else None, masks)


def _masks(rles: Any) -> Any:
    """Masks (N, H, W) from COCO's run lengths, None where there are none.

    Raises:
        BoxError: Run lengths that cannot be read (with their index), or of images of two sizes.
    """
    if rles is None or not len(rles):
        return None
    masks: list[Any] = []
    for index, rle in enumerate(rles):
        try:
            masks.append(decode_rle(rle))
        except BoxError as error:
            raise BoxError(f"box {index}: {error}") from error
        if masks[-1].shape != masks[0].shape:
            raise BoxError(
                f"the mask of box {index} is {masks[-1].shape}, that of box 0 {masks[0].shape}: "
                "masks of one image have its size"
            )
    return np.stack(masks)


def _four(numbers: Any, index: int) -> Any:
    values = numbers.tolist() if hasattr(numbers, "tolist") else numbers  # an array or a tensor
    listed = list(values) if isinstance(values, Sequence) else []
    if len(listed) != 4 or not all(isinstance(value, int | float | np.number) for value in listed):
        raise BoxError(f"box {index} is {numbers!r}: four numbers are needed")
    return listed


def _as_array(boxes: Any) -> Any:
    try:
        return np.asarray(boxes)
    except (ValueError, TypeError, RuntimeError) as error:  # a tensor elsewhere, or with a gradient
        raise BoxError(f"boxes cannot be read as an array: {error}") from error


def _numbers(scores: Any) -> Any:
    try:
        return np.asarray(scores, np.float32)
    except (ValueError, TypeError) as error:
        raise BoxError(f"scores must be numbers, one per box: {error}") from error


def _of_image(
    records: Sequence[Any], image: str | Path | int | None
) -> Sequence[Mapping[str, Any]]:
    """COCO results of one image; records without ``image_id`` all belong to it.

    Raises:
        BoxError: A record that is none, or the results are about other images.
    """
    for index, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise BoxError(f"box {index} is {record!r}, but box 0 is a dict: give all in one form")
    ids = list(dict.fromkeys(record["image_id"] for record in records if "image_id" in record))
    if len(ids) <= 1 and not (isinstance(image, int) and ids):
        return records
    stem = Path(str(image)).stem
    for candidate in (image, stem, stem.lstrip("0") or "0"):
        picked = [record for record in records if str(record.get("image_id")) == str(candidate)]
        if picked:
            return picked
    raise BoxError(
        f"these results are about {len(ids)} images, none of them {called(image)}: an image is "
        f"found by its file name, which has to be its id, e.g. {ids[0]}.jpg"
    )


def _of_coco(
    source: Mapping[str, Any], image: str | Path | int | None
) -> Sequence[Mapping[str, Any]]:
    """Annotations of one image of a COCO data set, found by file name or id.

    Raises:
        BoxError: The data set does not hold the image.
    """
    try:
        images = [(entry["id"], str(entry.get("file_name"))) for entry in source.get("images", [])]
        annotations = [(record["image_id"], record) for record in source["annotations"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise BoxError(
            "this is no COCO data set: each of 'images' needs an 'id' and a 'file_name', each of "
            f"'annotations' an 'image_id' ({error!r})"
        ) from error
    wanted = find_image(images, image)
    return [record for owner, record in annotations if owner == wanted]


def find_image(images: Sequence[tuple[Any, str]], image: str | Path | int | None) -> Any:
    """The id of an image among (id, file name), the whole path going before the bare name.

    Raises:
        BoxError: None, or several by that name.
    """
    if image is None and len(images) == 1:
        return images[0][0]
    path = Path(str(image))
    for fits in (
        lambda id_, _: isinstance(image, int) and id_ == image,
        lambda _, file: path.parts[-len(Path(file).parts) :] == Path(file).parts,
        lambda _, file: Path(file).name == path.name,
    ):
        ids = [id_ for id_, file in images if fits(id_, file)]
        if len(ids) == 1:
            return ids[0]
        if ids:
            raise BoxError(
                f"the data set holds {len(ids)} images named {called(image)}: "
                "give their file names with the folders they are in"
            )
    raise BoxError(
        f"the data set holds {len(images)} images, none named {called(image)}: "
        "pass the file name or id that stands in it"
    )
