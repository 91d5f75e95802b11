"""What is too large, too many, or no image at all is refused before it costs anything."""

import pytest
from tests.helpers.page_answer import IMAGE

from vlm_fo1.app.limits import Limits, annotated
from vlm_fo1.errors import (
    BoxError,
    ConfigError,
    ImageError,
)


def test_too_many_boxes_are_refused():
    boxes = [{"xmin": 0, "ymin": 0, "xmax": 9, "ymax": 9}] * 3
    with pytest.raises(BoxError, match="at most 2"):
        annotated({"image": IMAGE, "boxes": boxes}, Limits(boxes=2))


@pytest.mark.parametrize(
    ("limits", "content", "words"),
    [
        (Limits(), b"no image at all", "photo.png cannot be used"),
        (Limits(), b"", "photo.png cannot be used"),
        (Limits(upload_mb=0.001), None, "at most 0.001 MB"),
        (Limits(pixels=100), None, "photo.png has 112 x 84 pixels, at most 100 are taken"),
    ],
)
def test_an_upload_that_cannot_be_used_is_named_without_its_path(tmp_path, limits, content, words):
    path = tmp_path / "upload.png"
    if content is None:
        IMAGE.save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        limits.image(path, name="photo.png")
    assert str(tmp_path) not in str(caught.value)


def test_a_batch_without_images_or_with_too_many_is_refused():
    with pytest.raises(ImageError, match="no images yet"):
        Limits().images(["notes.txt"])
    with pytest.raises(ImageError, match="at most 1"):
        Limits(batch=1).images(["a.jpg", "b.PNG"])


def test_limits_that_let_nothing_in_are_refused():
    with pytest.raises(ConfigError, match="upload_mb"):
        Limits(upload_mb=0.0)
