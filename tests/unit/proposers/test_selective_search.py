"""Selective search, on photographs that scikit-image's wheel carries."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from tests.helpers.regions import same

from vlm_fo1.boxes import iou
from vlm_fo1.errors import ConfigError, MissingExtraError, PromptError
from vlm_fo1.proposers.base import load_proposer

skimage = pytest.importorskip("skimage", reason="needs scikit-image: its photographs")
pytest.importorskip("cv2", reason="needs the extras ocr and photo: opencv")
pytest.importorskip("rapidocr", reason="needs the extra ocr: rapidocr")

PHOTOS = Path(str(skimage.__file__)).parent / "data"

THINGS = {
    "astronaut.png": {
        "woman": (25, 12, 365, 512),
        "head": (153, 15, 302, 188),
        "helmet": (275, 342, 505, 512),
        "model of a shuttle": (345, 0, 470, 285),
        "patch": (133, 348, 208, 423),
    },
    "chelsea.png": {"cat": (20, 0, 375, 300), "eye": (135, 85, 208, 148)},
    "coffee.png": {
        "cup": (172, 18, 410, 308),
        "saucer": (78, 60, 478, 385),
        "spoon": (325, 235, 407, 325),
    },
    "rocket.jpg": {"rocket": (310, 127, 337, 407)},
}
"""Boxes of things, drawn by hand."""


def photo(name: str) -> Image.Image:
    with Image.open(PHOTOS / name) as file:
        return file.convert("RGB")


@pytest.fixture(scope="module")
def selective():
    return load_proposer("selective")


class TestSelectiveSearch:
    @pytest.mark.parametrize("name", THINGS)
    def test_what_people_would_name_in_a_photograph_is_among_a_hundred_boxes(self, selective, name):
        [regions] = selective.propose([photo(name)])
        best = iou(np.array(list(THINGS[name].values()), np.float32), regions.xyxy).max(1)
        missed = {thing: hit for thing, hit in zip(THINGS[name], best, strict=True) if hit < 0.5}
        assert len(regions) <= 100
        assert not missed

    def test_the_same_image_gives_the_same_boxes_in_every_thread(self, selective):
        image = photo("coffee.png").resize((150, 100))
        [alone] = selective.propose([image])
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda _: selective.propose([image])[0], range(3)))
        assert all(same(alone, regions) for regions in together)

    def test_the_best_few_are_the_head_of_the_list_and_all_can_be_had(self, selective):
        image = photo("coins.png").resize((192, 152))
        [hundred] = selective.propose([image])
        [few] = load_proposer("selective", keep=5).propose([image])
        [everything] = load_proposer("selective", keep=None).propose([image])
        assert same(few, hundred[:5])
        assert len(everything) > len(hundred)
        assert iou(hundred.xyxy, everything.xyxy).max(1).min() > 0.999

    def test_large_images_are_shrunk_first_and_their_boxes_grown_back(self, selective):
        small = Image.new("RGB", (200, 100), "grey")
        small.paste((200, 30, 30), (40, 20, 100, 70))
        large = small.resize((2000, 1000), Image.Resampling.NEAREST)
        [regions] = selective.propose([large])
        square = np.array([(400, 200, 1000, 700)], np.float32)
        assert iou(square, regions.xyxy).max() > 0.9
        assert (regions.xyxy <= [2000, 1000, 2000, 1000]).all()

    @pytest.mark.parametrize("size", [(1, 1), (900, 3), (8, 8), (64, 64)])
    def test_tiny_narrow_and_plain_images_give_boxes_within_them_or_none(self, selective, size):
        [regions] = selective.propose([Image.new("RGB", size, "white")])
        assert regions.size_wh == size
        assert (regions.xyxy <= [*size, *size]).all()

    def test_queries_are_refused(self, selective):
        with pytest.raises(PromptError, match="leave out queries"):
            selective.propose([Image.new("RGB", (32, 32))], queries=["cup"])

    @pytest.mark.parametrize("options", [{"keep": 0}, {"nms_iou": 1.5}, {"long_side": 4}])
    def test_settings_that_cannot_be_are_refused(self, options):
        with pytest.raises(ConfigError, match=next(iter(options))):
            load_proposer("selective", **options)

    def test_there_is_nothing_to_load(self):
        with pytest.raises(ConfigError, match="loads nothing"):
            load_proposer("selective:weights.pth")

    def test_settings_change_the_fingerprint(self, selective):
        assert selective.fingerprint == load_proposer("selective").fingerprint
        assert selective.fingerprint != load_proposer("selective", keep=50).fingerprint

    def test_an_opencv_without_selective_search_is_told_how_to_be_mended(self, monkeypatch):
        smaller = ModuleType("cv2")
        monkeypatch.setattr(smaller, "__version__", "4.0", raising=False)
        monkeypatch.setitem(sys.modules, "cv2", smaller)
        with pytest.raises(MissingExtraError, match="force-reinstall --no-deps opencv-contrib"):
            load_proposer("selective")
