"""Images into the engine, several at once."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vlm_fo1 import FO1

DEMO = Path(str(files("vlm_fo1"))) / "assets" / "demo"


def test_images_encoded_together_are_what_each_is_alone():
    engine = FO1.from_pretrained("tiny").engine
    photo, count = (Image.open(DEMO / name) for name in ("photo.jpg", "count.jpg"))
    images = [photo, count, photo, photo]
    box = np.array([[10, 10, 90, 80]], np.float32)
    boxes = [box, np.concatenate([box, box + 40]), np.zeros((0, 4), np.float32), box + 20]
    seen = []
    handle = engine.model.auxiliary.register_forward_pre_hook(
        lambda _, given: seen.append(len(given[0]))
    )
    together = engine.encode_many(images, boxes)
    handle.remove()
    assert sum(seen) == 3  # the third has no boxes
    for one, image, some in zip(together, images, boxes, strict=True):
        alone = engine.encode(image, some)
        assert torch.equal(one.image_grid_thw, alone.image_grid_thw)
        for name in ("image_tokens", "region_tokens", "deep_tokens"):
            for part, other in zip(getattr(one, name), getattr(alone, name), strict=True):
                torch.testing.assert_close(part, other, atol=1e-4, rtol=1e-3)
        assert len(one.region_tokens[0]) == len(some)
