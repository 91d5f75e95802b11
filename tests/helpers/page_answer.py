"""An image, boxes in it and an answer about them, for tests of what the page makes of them."""

from typing import Any

import numpy as np
from PIL import Image

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.regions import Regions

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (84, 112, 3), np.uint8))


BOXES = [[2.0, 3.0, 40.0, 50.0], [30.0, 20.0, 100.0, 80.0], [60.0, 5.0, 110.0, 40.0]]


TEXT = (
    "There are <ground>cat</ground><objects><region0><region2></objects> and "
    "<ground><b>dog</b></ground><objects><region1></objects>."
)


def an_answer(scores: Any = (0.9, 0.5, 0.2), **fields: Any):
    known = None if scores is None else np.array(scores, np.float32)
    values: dict[str, Any] = {"problems": ("label 'cow': region 9 does not exist",), **fields}
    return Answer(
        text=TEXT,
        regions=Regions(np.array(BOXES, np.float32), IMAGE.size, known),
        mentions=(Mention("cat", (0, 2), (0.8, 0.7)), Mention("<b>dog</b>", (1,))),
        labels=("cat", "<b>dog</b>", "owl"),
        timing_s={"propose": 0.25, "encode": 0.5, "answer": 1.0},
        **values,
    )
