"""Contract case of a COCO folder of one's own."""

from functools import partial

from tests.helpers.evaluation import BenchmarkCase, write_coco

OBJECTS = {
    "a.png": [("cat", [2, 2, 20, 20]), ("dog", [30, 5, 50, 40])],
    "b.png": [("dog", [10, 10, 40, 30])],
    "c.png": [("cat", [1, 1, 21, 21]), ("cat", [30, 10, 60, 40])],
    "d.png": [],
}
_NAMES = ("all f1@.5", "all f1@.95", "all f1_mean", "present f1_mean", "ap")

CASES = [
    BenchmarkCase(
        name="folder",
        write=partial(write_coco, objects=OBJECTS),
        best=dict.fromkeys(_NAMES, 100) | {"false positives per truth all": 0},
        nothing=dict.fromkeys(_NAMES, 0) | {"false positives per truth all": 0},
    )
]
