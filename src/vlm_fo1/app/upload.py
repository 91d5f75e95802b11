"""The field for an image: what is uploaded is checked by us before anything else reads it."""

from collections.abc import Callable, Sequence
from typing import Any

from vlm_fo1._extras import require
from vlm_fo1.app.context import Context, gradio, refuse
from vlm_fo1.errors import FO1Error

COLOUR = (0, 114, 178)
"""Of every box on the image; `static/page.js` gives it to drawn ones."""


def image_field(context: Context, name: str) -> Any:
    """An image on which boxes can be drawn, moved and deleted.

    Args:
        context: Has the limits.
        name: Id of the element.
    """
    field = require("gradio_image_annotation", extra="app").image_annotator(
        label="Image",
        elem_id=name,
        sources=["upload", "clipboard"],
        height=420,
        boxes_alpha=0.12,
        box_min_size=4,
        handle_size=6,
        disable_edit_boxes=True,
        show_remove_button=True,
        show_share_button=False,
    )
    field.preprocess_image = _reader(context)  # its own shows a trace for a broken file
    own = field.preprocess

    def with_path(payload: Any) -> Any:
        value = own(payload)
        return None if value is None else {**value, "path": payload.image.path}

    field.preprocess = with_path
    _check_at_once(field)
    return field


def marks_field(name: str) -> Any:
    """An image to draw on with a brush; what cannot be read of it is a message on the page.

    Args:
        name: Id of the element.
    """
    gr = gradio()
    field = gr.ImageEditor(
        label="Strokes",
        elem_id=name,
        type="pil",
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=6, colors=["rgb(213, 94, 0)"], color_mode="fixed"),
        height=420,
    )
    own = field.preprocess

    def read(payload: Any) -> Any:
        try:
            return own(payload)
        except Exception as error:  # noqa: BLE001 - raised again as a message
            refuse(error)

    field.preprocess = read
    return field


def plain_image_field(context: Context, name: str) -> Any:
    """An image without boxes.

    Args:
        context: Has the limits.
        name: Id of the element.
    """
    field = gradio().Image(
        label="Image", elem_id=name, sources=["upload", "clipboard"], type="pil", height=420
    )
    field.preprocess = _reader(context)
    _check_at_once(field)
    return field


def _reader(context: Context) -> Callable[[Any], Any]:
    """Reads an upload as the limits allow; what cannot be used is a message on the page."""

    def read(upload: Any) -> Any:
        if upload is None or not upload.path:
            return None
        try:
            return context.limits.image(upload.path, name=upload.orig_name)
        except FO1Error as error:
            refuse(error)

    return read


def _check_at_once(field: Any) -> None:
    """Say what cannot be used when it comes, not with the first question, and empty the field."""
    quiet = {
        "api_name": False,
        "show_progress": "hidden",
    }  # past the queue an error is a status 500
    read = field.upload(lambda _: None, [field], None, **quiet)  # reading it is the check
    read.failure(lambda: None, None, [field], **quiet)


def annotator_value(
    image: Any, boxes_xyxy: Sequence[Sequence[float]], turns: int = 0
) -> dict[str, Any]:
    """An image with numbered boxes, as the annotator wants them.

    Args:
        image: A path; a PIL image would be kept with losses.
        boxes_xyxy: In pixels of it as it is seen.
        turns: Quarter turns clockwise in which it is seen.
    """
    boxes = [
        {
            "xmin": round(x1),
            "ymin": round(y1),
            "xmax": round(x2),
            "ymax": round(y2),
            "label": str(number),
            "color": COLOUR,
        }
        for number, (x1, y1, x2, y2) in enumerate(boxes_xyxy)
    ]
    return {"image": image, "boxes": boxes, "orientation": turns}
