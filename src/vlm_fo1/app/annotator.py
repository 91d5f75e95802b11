"""Boxes on the image: by hand, as numbers, or from the proposer, each with the same number."""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from vlm_fo1.app.context import KEPT_S, Context, gradio, refusing
from vlm_fo1.app.controls import ModelFields
from vlm_fo1.app.limits import AnnotatedImage, annotated
from vlm_fo1.app.models import NO_PROPOSER, Choice
from vlm_fo1.app.question import labels_of
from vlm_fo1.app.upload import annotator_value, image_field, marks_field
from vlm_fo1.boxes import scale as scale_boxes
from vlm_fo1.errors import BoxError, ConfigError
from vlm_fo1.formats.boxes import given_regions
from vlm_fo1.masks import component_boxes
from vlm_fo1.regions import Offer, Regions

DRAWN, PROPOSED = "boxes on the image", "proposer"
"""What may be pointed at."""
NUMBER = "(image) => window.fo1Boxes(image)"
"""Runs in the browser: gives the boxes their numbers, and writes them down."""

Scores = dict[tuple[int, ...], float]
"""What the proposer gave the boxes that it put on the image: see `_known_as`."""


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """The image, its boxes, and what changes them."""

    image: Any
    scores: Any
    propose: Any
    clear: Any
    typed: Any
    put_on: Any
    marks: Any
    take: Any
    around: Any


def annotator(context: Context) -> Annotator:
    """Lay the image out with what changes its boxes; `tie_annotator` makes it work."""
    gr = gradio()
    image = image_field(context, "ask-image")
    with gr.Row():
        propose = gr.Button("Propose boxes", size="sm", elem_id="ask-propose")
        clear = gr.Button("Remove all boxes", size="sm", elem_id="ask-clear")
    with gr.Accordion("Boxes as numbers", open=False):
        typed = gr.Textbox(
            value="",
            label="Boxes: [[x1, y1, x2, y2], ...] in pixels",
            info="They follow the image; what is changed here is put on it with the button.",
            lines=2,
            max_lines=6,
            elem_id="ask-typed",
        )
        put_on = gr.Button("Put them on the image", size="sm", elem_id="ask-type")
    with gr.Accordion("Boxes around what you mark by hand", open=False):
        with gr.Row():
            take = gr.Button("Take the image", size="sm", elem_id="ask-take")
            around = gr.Button("Put boxes around the strokes", size="sm", elem_id="ask-around")
        marks = marks_field("ask-marks")
    return Annotator(
        image=image,
        scores=gr.State({}, time_to_live=KEPT_S),
        propose=propose,
        clear=clear,
        typed=typed,
        put_on=put_on,
        marks=marks,
        take=take,
        around=around,
    )


def tie_annotator(
    context: Context, placed: Annotator, boxes_from: Any, chosen: ModelFields, named: Sequence[Any]
) -> None:
    """Let what changes the boxes work.

    Args:
        context: Models and limits.
        placed: The components.
        boxes_from: Says what may be pointed at.
        chosen: Which proposer.
        named: What that one looks for, and the labels it looks for where that is empty.
    """

    def propose(
        image: Any, model: Any, proposer: Any, device: Any, look_for: Any, labels: Any
    ) -> Any:
        choice = context.pool.choice(model, proposer, device)
        looked_for = labels_of(look_for) or labels_of(labels)
        return *proposed_boxes(context, choice, image, looked_for), DRAWN

    placed.propose.click(
        refusing(propose),
        [placed.image, *chosen.all, *named],
        [placed.image, placed.scores, boxes_from],
        api_name="propose",
        concurrency_limit=context.at_once,
        concurrency_id="ask",
    )

    def clear(image: Any) -> Any:
        return _placed(annotated(image, context.limits), [])

    placed.clear.click(refusing(clear), [placed.image], [placed.image], api_name="clear")

    def put_on(image: Any, boxes: str) -> Any:
        seen = annotated(image, context.limits)
        typed = typed_boxes(boxes, seen.image.size)
        for note in typed.notes:
            gradio().Warning(escape(note))
        return _placed(seen, typed.regions.xyxy.tolist()), DRAWN

    placed.put_on.click(
        refusing(put_on),
        [placed.image, placed.typed],
        [placed.image, boxes_from],
        api_name="boxes",
    )
    _tie_marks(context, placed, boxes_from)
    placed.image.change(
        None,
        [placed.image],
        [placed.image, placed.typed],
        js=NUMBER,
        api_name=False,
        queue=False,
        show_progress="hidden",
    )


def _tie_marks(context: Context, placed: Annotator, boxes_from: Any) -> None:
    """Let strokes on the image become boxes."""

    def take(image: Any) -> Any:
        seen = annotated(image, context.limits)
        return {"background": seen.image, "layers": [], "composite": seen.image}

    placed.take.click(refusing(take), [placed.image], [placed.marks], api_name=False)

    def around(image: Any, marks: Any) -> Any:
        seen = annotated(image, context.limits)
        return _placed(seen, [*seen.boxes_xyxy, *marked_boxes(marks, seen.image.size)]), DRAWN

    placed.around.click(
        refusing(around),
        [placed.image, placed.marks],
        [placed.image, boxes_from],
        api_name=False,
    )


def marked_boxes(marks: Any, size_wh: tuple[int, int]) -> list[list[float]]:
    """A box around each stroke that somebody drew; strokes that touch are one.

    Args:
        marks: Of the editor: ``layers``, images with the strokes on nothing.
        size_wh: Of the image, which the layers cover.

    Raises:
        BoxError: There are no strokes.
    """
    boxes: list[list[float]] = []
    for layer in (marks or {}).get("layers") or []:
        found = component_boxes(np.asarray(layer.convert("RGBA"))[..., 3] > 0)
        boxes += scale_boxes(found, layer.size, size_wh).tolist()
    if not boxes:
        raise BoxError("nothing is marked yet: take the image and draw around things on it")
    return boxes


def typed_boxes(text: str, size_wh: tuple[int, int]) -> Offer:
    """Boxes that somebody wrote.

    Args:
        text: JSON of anything `given_regions` takes.
        size_wh: Of the image.

    Raises:
        BoxError: No JSON, or a box that cannot be used.
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BoxError(f"the boxes are no JSON ({error}): write [[x1, y1, x2, y2], ...]") from error
    if (
        isinstance(given, list)
        and len(given) == 4
        and all(isinstance(v, int | float) for v in given)
    ):
        given = [given]
    return given_regions(given, size_wh)


def proposed_boxes(
    context: Context, choice: Choice, value: Any, looked_for: tuple[str, ...]
) -> tuple[dict[str, Any], Scores]:
    """The image with the boxes of the proposer on it.

    Returns:
        The value of the annotator, and the scores of its boxes.

    Raises:
        BoxError: It found none.
        ConfigError: There is no proposer.
    """
    seen = annotated(value, context.limits)
    fo1 = context.pool.fo1(choice)
    if fo1.proposer is None:
        raise ConfigError(NO_PROPOSER)
    best = fo1.propose(seen.image, queries=looked_for).regions[: context.limits.boxes]
    if not len(best):
        raise BoxError(f"the proposer {fo1.proposer.name} found nothing it is sure of: draw boxes")
    boxes = best.xyxy.tolist()
    known = [] if best.scores is None else best.scores.tolist()
    names = _known_as(seen, boxes)
    return _placed(seen, boxes), dict(zip(names, known, strict=False))


def offered(seen: AnnotatedImage, scores: Mapping[tuple[int, ...], float]) -> Any:
    """The boxes on the image as regions.

    Args:
        seen: The image and its boxes.
        scores: Of the boxes that the proposer put there.

    Returns:
        What `FO1.open` takes; boxes that somebody drew or moved have no score.
    """
    known = [scores.get(name, math.nan) for name in _known_as(seen, seen.boxes_xyxy)]
    if all(map(math.isnan, known)):
        return seen.boxes_xyxy
    boxes = np.asarray(seen.boxes_xyxy, np.float32)
    return Regions(boxes, seen.image.size, np.asarray(known, np.float32))


def _known_as(seen: AnnotatedImage, boxes_xyxy: Sequence[Sequence[float]]) -> list[tuple[int, ...]]:
    """What tells a box from others: the image it stands on, and its whole pixels."""
    image = zlib.crc32(seen.image.tobytes())
    return [(image, *map(round, box)) for box in boxes_xyxy]


def _placed(seen: AnnotatedImage, boxes_xyxy: Sequence[Sequence[float]]) -> dict[str, Any]:
    return annotator_value(seen.upload, boxes_xyxy, seen.turns)
