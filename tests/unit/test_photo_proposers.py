"""Text lines and selective search, on photographs that scikit-image's wheel carries."""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.render import render
from recipes.synthetic.sprites import SpriteSet
from vlm_fo1.boxes import iou
from vlm_fo1.errors import BoxError, CheckpointError, ConfigError, MissingExtraError, PromptError
from vlm_fo1.proposers.base import Proposer, Selection, load_proposer, select

skimage = pytest.importorskip("skimage", reason="needs scikit-image: its photographs")
pytest.importorskip("cv2", reason="needs the extras ocr and photo: opencv")
pytest.importorskip("rapidocr", reason="needs the extra ocr: rapidocr")

PHOTOS = Path(str(skimage.__file__)).parent / "data"

PAGE_LINES = np.array(
    [
        (5, 10, 293, 36),
        (4, 46, 378, 66),
        (4, 63, 378, 85),
        (4, 80, 378, 103),
        (4, 96, 380, 122),
        (4, 115, 172, 138),
        (38, 167, 242, 190),
    ],
    np.float32,
)
"""Lines of page.png, drawn by hand."""

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
def text():
    return load_proposer("ocr", threads=1)


@pytest.fixture(scope="module")
def selective():
    return load_proposer("selective")


def same(first, second) -> bool:
    return np.array_equal(first.xyxy, second.xyxy) and np.array_equal(first.scores, second.scores)


class TestTextLines:
    def test_every_line_of_a_photographed_page_is_found_and_nothing_else(self, text):
        [regions] = text.propose([photo("page.png")])
        sure = select(regions, Selection(min_score=0.5))
        overlaps = iou(PAGE_LINES, sure.xyxy)
        assert len(sure) == len(PAGE_LINES)
        assert overlaps.max(1).min() > 0.6
        assert sorted(overlaps.argmax(1).tolist()) == list(range(len(PAGE_LINES)))

    def test_every_sign_of_rendered_images_is_found(self, text):
        config = SyntheticConfig(signs=(1, 3))
        rng = np.random.default_rng(0)
        for rendered in (render(config, SpriteSet.shapes(), rng) for _ in range(4)):
            signs = [item.box_xyxy for item in rendered.objects if item.text]
            [regions] = text.propose([rendered.image])
            assert iou(np.array(signs, np.float32), regions.xyxy).max(1).min() > 0.5

    def test_a_portrait_has_no_sure_line(self, text):
        [regions] = text.propose([photo("astronaut.png")])
        assert len(select(regions, Selection(min_score=0.5))) == 0

    def test_several_threads_get_what_one_gets(self, text):
        images = [photo("page.png").crop((0, 0, 384, 40 + 20 * i)) for i in range(3)]
        alone = text.propose(images)
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda image: text.propose([image])[0], images))
        assert all(map(same, alone, together))

    @pytest.mark.parametrize("size", [(1, 1), (900, 3), (2, 700)])
    def test_tiny_and_narrow_images_give_boxes_within_them_or_none(self, text, size):
        [regions] = text.propose([Image.new("RGB", size, "white")])
        assert regions.size_wh == size
        assert (regions.xyxy <= [*size, *size]).all()

    @pytest.mark.parametrize(
        ("size", "read_at"),
        [
            ((736, 736), (736, 736)),
            ((368, 736), (736, 1472)),
            ((3000, 2000), (1984, 1344)),
            ((2000, 20), (1984, 32)),
            ((1, 1), (736, 736)),
        ],
    )
    def test_an_image_is_read_at_multiples_of_32_pixels_within_both_limits(
        self, text, size, read_at
    ):
        assert text.size.of(size) == read_at

    def test_nothing_is_downloaded(self, monkeypatch):
        def refuse(*_args, **_kwargs):
            raise AssertionError("the network was reached")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        assert isinstance(load_proposer("ocr", threads=1), Proposer)

    def test_another_detector_or_size_has_another_fingerprint(self, text):
        again, other = load_proposer("ocr", threads=1), load_proposer("ocr", short_side=480)
        assert text.fingerprint == again.fingerprint != other.fingerprint

    def test_queries_are_refused(self, text):
        with pytest.raises(PromptError, match="leave out queries"):
            text.propose([Image.new("RGB", (32, 32))], queries=["word"])

    def test_a_file_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(CheckpointError, match="there is no text detector"):
            load_proposer(f"ocr:{tmp_path / 'none.onnx'}")

    def test_a_file_that_is_no_network_is_refused(self, tmp_path):
        (tmp_path / "broken.onnx").write_bytes(b"not a network")
        with pytest.raises(CheckpointError, match="is no network"):
            load_proposer(f"ocr:{tmp_path / 'broken.onnx'}")

    def test_a_network_that_finds_no_text_is_refused(self):
        import rapidocr

        [other] = Path(str(rapidocr.__file__)).parent.glob("models/*_cls_*.onnx")
        with pytest.raises(CheckpointError, match="is no text detector"):
            load_proposer(f"ocr:{other}")

    def test_numbers_that_are_none_are_refused(self, monkeypatch):
        broken = load_proposer("ocr", threads=1)
        nothing = np.full((1, 1, 736, 736), np.nan, np.float32)
        monkeypatch.setattr(broken, "_session", SimpleNamespace(run=lambda *_: [nothing]))
        with pytest.raises(BoxError, match="no numbers"):
            broken.propose([Image.new("RGB", (64, 64))])

    @pytest.mark.parametrize(
        "options", [{"threads": 0}, {"short_side": 8}, {"short_side": 900, "long_side": 800}]
    )
    def test_settings_that_cannot_be_are_refused(self, options):
        with pytest.raises(ConfigError, match="at least"):
            load_proposer("ocr", **options)

    def test_a_missing_package_is_named_with_its_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingExtraError, match=r"vlm-fo1\[ocr\]"):
            load_proposer("ocr")


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
