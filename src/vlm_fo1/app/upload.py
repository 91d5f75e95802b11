"""The field for a picture: what is uploaded is checked by us before anything else reads it."""

from collections.abc import Sequence
from typing import Any

from vlm_fo1._extras import require
from vlm_fo1.app.context import Context, gradio, refuse
from vlm_fo1.errors import FO1Error


def picture_field(context: Context, name: str) -> Any:
    """A picture on which boxes can be drawn, moved and deleted.

    Args:
        context: Has the limits.
        name: Id of the element.
    """
    field = require("gradio_image_annotation", extra="app").image_annotator(
        label="Picture",
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

    def checked(upload: Any) -> Any:
        """In place of the component's own reading, which shows a trace for a broken file."""
        if upload is None:
            return None
        try:
            return context.limits.picture(upload.path, name=upload.orig_name)
        except FO1Error as error:
            refuse(error)

    field.preprocess_image = checked
    _check_at_once(field)
    return field


def plain_picture_field(context: Context, name: str) -> Any:
    """A picture without boxes.

    Args:
        context: Has the limits.
        name: Id of the element.
    """
    field = gradio().Image(
        label="Picture", elem_id=name, sources=["upload", "clipboard"], type="pil", height=420
    )

    def checked(payload: Any) -> Any:
        if payload is None or not payload.path:
            return None
        try:
            return context.limits.picture(payload.path, name=payload.orig_name)
        except FO1Error as error:
            refuse(error)

    field.preprocess = checked
    _check_at_once(field)
    return field


def _check_at_once(field: Any) -> None:
    """Say what cannot be used when it comes, not with the first question, and empty the field."""
    quiet = {
        "api_name": False,
        "show_progress": "hidden",
    }  # past the queue an error is a status 500
    read = field.upload(lambda _: None, [field], None, **quiet)  # reading it is the check
    read.failure(lambda: None, None, [field], **quiet)


def annotator_value(picture: Any, boxes_xyxy: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A picture with numbered boxes, as the annotator wants them.

    Args:
        picture: A PIL picture or a path.
        boxes_xyxy: In pixels of it.
    """
    boxes = [
        {
            "xmin": round(x1),
            "ymin": round(y1),
            "xmax": round(x2),
            "ymax": round(y2),
            "label": str(number),
            "color": (0, 114, 178),
        }
        for number, (x1, y1, x2, y2) in enumerate(boxes_xyxy)
    ]
    return {"image": picture, "boxes": boxes, "orientation": 0}
