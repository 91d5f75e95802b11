"""Three regions, and an answer that names some of them."""

from typing import Any

import numpy as np

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.regions import Regions

XYXY = np.array([[0, 0, 10, 10], [20, 0, 30.126, 15], [40, 40, 50, 50]], np.float32)


SIZE_WH = (64, 60)


def regions(**changes) -> Any:
    fields: dict[str, Any] = {"scores": np.array([0.2, 0.9, 0.5], np.float32)} | changes
    return Regions(XYXY, SIZE_WH, **fields)


def answer(**changes) -> Any:
    fields: dict[str, Any] = {
        "text": "two cats and a dog",
        "regions": regions(),
        "mentions": (Mention("cat", (2, 0), (0.75, np.nan)), Mention("dog", (0,), (0.5,))),
        "task": "detection",
        "labels": ("cat", "bird"),
    } | changes
    return Answer(**fields)
