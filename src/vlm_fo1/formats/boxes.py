"""Boxes that a user already has: arrays, supervision, JSON, COCO, YOLO and LabelMe files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.boxes import Array
from vlm_fo1.boxes import check as check_boxes
from vlm_fo1.errors import BoxError
from vlm_fo1.formats.coco import CocoFile, results_of
from vlm_fo1.formats.files import (
    UNREADABLE,
    YOLO,
    ByName,
    boxes_of_image,
    labelme_boxes,
    read_boxes,
    yolo_boxes,
)
from vlm_fo1.formats.identity import (
    called,
    id_text,
    same_name,
    shown_boxes,
    stated_size,
)
from vlm_fo1.formats.records import array_of, label_of, parse_records, scores_of
from vlm_fo1.images import Frame
from vlm_fo1.masks import decode_rle, turn_masks_upright
from vlm_fo1.regions import Offer, Regions

__all__ = ["Offer", "by_image", "given_regions", "read_boxes"]

STICKS_OUT = 0.05
"""A box that sticks out by more than this share of the image's side is likely no box of it."""
_NESTED = 3
"""How deep one form may stand in another: a folder, a dict from file name, what that holds."""

Image = str | Path | int | None
"""File name or id of an image, if it has one."""


@dataclass(frozen=True, kw_only=True)
class _Given:
    """Boxes and what is known of them, as they were given; nothing is checked yet."""

    xyxy: Any
    """(N, 4) in pixels of the image that they state."""
    scores: Any = None
    confidence: Any = None
    labels: Sequence[str] | None = None
    masks: Any = None
    """(N, H, W), or N run lengths."""
    stated_wh: tuple[int, int] | None = None
    """Size of the image that they are about, where they say so."""
    shares: bool = False
    """The boxes are shares of the shown image, not pixels."""
    notes: tuple[str, ...] = ()


def given_regions(source: Any, frame: Frame | tuple[int, int], *, image: Image = None) -> Offer:
    """Regions of one image from whatever a user has.

    Args:
        source: `Regions`; ``supervision.Detections``; an array, tensor or list of (x1, y1, x2, y2)
            in pixels; a data frame or list of dicts with ``xyxy``, COCO's ``bbox`` (x, y, width,
            height) or ``box`` (xmin, ymin, xmax, ymax), and maybe ``score``, ``label`` and run
            lengths as ``segmentation``; the dict that `Regions.to_dict` gives; a COCO data set
            (``images``, ``annotations``); what a LabelMe file holds; a dict from file name to any
            of these; or the path of what `read_boxes` takes: a file with one of these, a YOLO
            file, or a folder with a file for each image. An `Offer` keeps its notes.
        frame: How the image is shown and stored (see `vlm_fo1.images.read_framed`), or only its
            width and height as shown, in pixels. Boxes that state the stored size of a turned
            photo are turned along.
        image: File name or COCO id that picks the image in a file about many. One that states
            another name is refused.

    Returns:
        Regions clipped to the image, in the given order, with scores, labels and masks where there
        are some; and notes.

    Raises:
        BoxError: A file that cannot be read, that does not hold the image or is about one of
            another size, or a box that cannot be used (with its index).
    """
    frame = frame if isinstance(frame, Frame) else Frame(frame, frame)
    if isinstance(source, Offer):
        checked = given_regions(source.regions, frame)
        return Offer(checked.regions, tuple(dict.fromkeys([*source.notes, *checked.notes])))
    if not isinstance(source, str | Path):
        return _finished(_parse(source, image, 0), frame)
    path = Path(source)
    folder = path.is_dir()
    content = boxes_of_image(path, image) if folder else read_boxes(path)
    try:
        return _finished(_parse(content, image, int(folder)), frame)
    except BoxError as error:
        raise BoxError(f"{path}: {error}") from error


def by_image(source: Any) -> Any:
    """Boxes to be used for several images: COCO results become a dict from image id.

    Results about one image may be taken for an image that its user names; of several images only
    those that are named by an id get them.
    """
    if not isinstance(source, list) or not all(isinstance(record, Mapping) for record in source):
        return source
    owners = [id_text(record.get("image_id")) for record in source]
    if None in owners or not owners:
        return source
    found = ByName()
    for owner, record in zip(owners, source, strict=True):
        found.setdefault(str(owner), []).append(record)
    return found


# --- forms ---------------------------------------------------------------------------------------


def _parse(source: Any, image: Image, depth: int) -> _Given:
    """What is given, of whatever form.

    Args:
        source: Any form but a path.
        image: Name or id of the image.
        depth: How many names of files led here: what stands under a name is about that image.

    Raises:
        BoxError: No form that is known, or of another image.
    """
    if isinstance(source, Mapping):
        return _parse_mapping(source, image, depth)
    if isinstance(source, Regions):
        return _Given(
            xyxy=source.xyxy,
            scores=source.scores,
            confidence=source.confidence,
            labels=source.labels,
            masks=source.masks,
            stated_wh=source.size_wh,
        )
    if hasattr(source, "columns") and hasattr(source, "to_dict") and "xmin" in source.columns:
        source = source.to_dict("records")
    if isinstance(source, Sequence) and len(source) and isinstance(source[0], Mapping):
        return _parse_list(source, image, depth)
    if hasattr(source, "class_id") and hasattr(source, "xyxy"):
        return _parse_detections(source)
    return _Given(xyxy=source)


def _parse_detections(source: Any) -> _Given:
    """Of ``supervision.Detections``, without importing that."""
    names = source.data.get("class_name")
    return _Given(
        xyxy=source.xyxy,
        scores=source.confidence,
        labels=None if names is None else _labels(names),
        masks=source.mask,
    )


def _parse_list(source: Sequence[Any], image: Image, depth: int) -> _Given:
    for index, record in enumerate(source):
        if not isinstance(record, Mapping):
            raise BoxError(f"box {index} is {record!r}, but box 0 is a dict: give all in one form")
    records, note = results_of(source, image, named=depth > 0)
    found = parse_records(records)
    labels = [label_of(record.get("label"), index) for index, record in enumerate(records)]
    return _Given(
        **found,
        labels=[label for label in labels if label is not None] if None not in labels else None,
        notes=() if note is None else (note,),
    )


def _parse_mapping(source: Mapping[str, Any], image: Image, depth: int) -> _Given:
    if "xyxy" in source:
        return _Given(
            xyxy=source["xyxy"],
            scores=source.get("scores"),
            labels=None if source.get("labels") is None else _labels(source["labels"]),
            masks=source.get("masks"),
        )
    if "annotations" in source:
        return _parse_coco(source if isinstance(source, CocoFile) else CocoFile(source), image)
    if "regions" in source:  # an answer of ours, or a proposal
        return _parse_answer(source, image, depth)
    if "shapes" in source:
        note = _check_name(source.get("imagePath"), image, depth)
        boxes, labels = labelme_boxes(source["shapes"])
        stated_wh = stated_size(source.get("imageWidth"), source.get("imageHeight"))
        return _Given(
            xyxy=boxes, labels=_labels(labels), stated_wh=stated_wh, notes=(note,) if note else ()
        )
    if YOLO in source:
        shares, scores = yolo_boxes(source[YOLO])
        return _Given(xyxy=shares, scores=scores, shares=True)
    if UNREADABLE in source:
        raise BoxError(str(source[UNREADABLE]))
    if "boxes" in source and "scores" in source:  # what detectors of transformers give
        return _Given(xyxy=source["boxes"], scores=source["scores"])
    if depth >= _NESTED:
        raise BoxError("dicts from file names stand in each other: one for all images is needed")
    if not isinstance(source, ByName):
        source = ByName({str(name): boxes for name, boxes in source.items()})
    return _parse(source.of_image(image), image, depth + 1)


def _parse_coco(source: CocoFile, image: Image) -> _Given:
    found = source.image(image)
    names = [source.label(record) for record in found.annotations]
    unnamed = sum(
        name is None and "category_id" in record
        for name, record in zip(names, found.annotations, strict=True)
    )
    notes = [source.strays] if source.strays else []
    if unnamed and source.get("categories"):
        notes.append(
            f"the categories of {unnamed} of {len(names)} boxes have no name in the file: the "
            "boxes have no labels"
        )
    labels = [label_of(name, index) for index, name in enumerate(names)]
    return _Given(
        **parse_records(found.annotations),
        labels=[label for label in labels if label is not None] if None not in labels else None,
        stated_wh=found.stated_wh,
        notes=tuple(notes),
    )


def _parse_answer(source: Mapping[str, Any], image: Image, depth: int) -> _Given:
    regions, size = source["regions"], source.get("image")
    if not isinstance(regions, Mapping | list) or (
        isinstance(regions, Mapping) and "xyxy" not in regions
    ):
        raise BoxError("'regions' holds no boxes: a dict with 'xyxy', or a list, is needed")
    note = _check_name(source.get("file"), image, depth)
    given = _parse(regions, image, _NESTED)
    if isinstance(size, Mapping):
        given = replace(given, stated_wh=stated_size(size.get("width"), size.get("height")))
    return replace(given, notes=(note, *given.notes)) if note else given


def _check_name(stated: Any, image: Image, depth: int) -> str | None:
    """Compare the name that a file about one image states with that of the image.

    Returns:
        What the user should know where another name stands in a file that is named as the image.

    Raises:
        BoxError: It is about another image.
    """
    if not isinstance(stated, str) or not stated or image is None or isinstance(image, int):
        return None
    if same_name(stated, image):
        return None
    if depth:
        return f"the boxes found under the name of {called(image)} say they are of {stated!r}"
    raise BoxError(
        f"the boxes are of {stated!r}, not of {called(image)}: if that image was renamed, pass a "
        "dict from its name to its boxes, or a folder with a file that is named as the image"
    )


def _labels(labels: Any) -> list[str]:
    listed = labels.tolist() if hasattr(labels, "tolist") else labels
    if not isinstance(listed, list | tuple):
        raise BoxError(f"labels are {listed!r}: a list with one text a box is needed")
    texts: list[str] = []
    for index, label in enumerate(listed):
        text = label_of(label, index)
        if text is None:
            raise BoxError(f"label of box {index} is {label!r}: a text is needed")
        texts.append(text)
    return texts


# --- checks --------------------------------------------------------------------------------------


def _finished(given: _Given, frame: Frame) -> Offer:
    """Regions of the image as it is shown, checked and clipped.

    Raises:
        BoxError: A box that cannot be used, or boxes of an image of another size.
    """
    masks, mask_wh = _masks(given.masks, frame)
    boxes = array_of(given.xyxy)
    if given.shares:
        boxes = boxes * np.array(frame.size_wh * 2) if len(boxes) else boxes
    sizes = (None, frame.size_wh, frame.stored_wh)
    stated_wh = mask_wh if mask_wh and given.stated_wh in sizes else given.stated_wh
    shown, turned = shown_boxes(boxes, stated_wh, frame)
    if masks is not None and mask_wh == frame.stored_wh != frame.size_wh:
        masks = turn_masks_upright(masks, frame.orientation)
    xyxy = check_boxes(shown, frame.size_wh)
    regions = Regions(
        xyxy,
        frame.size_wh,
        None if given.scores is None else scores_of(given.scores),
        given.confidence,
        labels=None if given.labels is None else tuple(given.labels),
        masks=masks,
    )
    notes = [*given.notes, turned, _in_doubt(shown, frame.size_wh)]
    told = [note for note in notes if note]
    if told and not len(regions):
        told.insert(0, "no regions were offered: the boxes that were given hold none of this image")
    return Offer(regions, tuple(told))


def _in_doubt(boxes_N4: Array, size_wh: tuple[int, int]) -> str | None:
    """What to tell of boxes that are likely in another unit or form than pixels as xyxy."""
    if not len(boxes_N4):
        return None
    if boxes_N4.max() <= 1 and max(size_wh) > 1:
        return (
            "all boxes lie between 0 and 1 and were taken as pixels: if they are shares of the "
            "image, multiply them by its width and height"
        )
    width, height = size_wh
    room = np.array([width, height], np.float32) * STICKS_OUT
    out_N = (boxes_N4[:, :2] < -room).any(1) | (boxes_N4[:, 2:] > np.array(size_wh) + room).any(1)
    if out_N.any():
        return (
            f"{int(out_N.sum())} of {len(boxes_N4)} boxes stick far out of the image and were "
            "clipped: are they in its pixels, as (x1, y1, x2, y2), or as COCO's 'bbox' (x, y, "
            "width, height)?"
        )
    return None


def _masks(given: Any, frame: Frame) -> tuple[npt.NDArray[np.bool_] | None, tuple[int, int] | None]:
    """Masks (N, H, W) and their size; None where there are none.

    Raises:
        BoxError: Run lengths that cannot be read (with their index), or masks of another size than
            the image is shown or stored in.
    """
    if given is None or (hasattr(given, "__len__") and not len(given)):
        return None, None
    if not isinstance(given, list | tuple):
        masks = np.asarray(array_of(given), np.bool_)
        return masks, ((masks.shape[2], masks.shape[1]) if masks.ndim == 3 else None)
    sizes = [[height, width] for width, height in (frame.size_wh, frame.stored_wh)]
    decoded: list[npt.NDArray[np.bool_]] = []
    for index, rle in enumerate(given):
        size = rle.get("size") if isinstance(rle, Mapping) else None
        if not isinstance(size, list | tuple) or list(size) not in sizes:
            raise BoxError(
                f"the mask of box {index} has the size {size!r}, that of the image is {sizes[0]}: "
                "run lengths with the [height, width] of their image are needed"
            )
        try:
            decoded.append(decode_rle(rle))
        except BoxError as error:
            raise BoxError(f"box {index}: {error}") from error
    if len({mask.shape for mask in decoded}) > 1:
        raise BoxError("the masks are of two sizes: those of one image have its size")
    height, width = decoded[0].shape
    return np.stack(decoded), (width, height)
