"""Lines of text, on photographs that scikit-image's wheel carries."""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tests.helpers.regions import same

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


def photo(name: str) -> Image.Image:
    with Image.open(PHOTOS / name) as file:
        return file.convert("RGB")


@pytest.fixture(scope="module")
def text():
    return load_proposer("ocr", threads=1)


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
