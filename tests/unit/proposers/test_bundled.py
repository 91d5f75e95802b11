"""The bundled proposer finds the things of the bundled image."""

import json
import threading
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.tiny_proposer.training import ProposerTraining, export
from vlm_fo1.boxes import iou
from vlm_fo1.errors import BoxError, CheckpointError, ConfigError, PromptError
from vlm_fo1.proposers.base import Proposer, load_proposer
from vlm_fo1.proposers.bundled import (
    MULTIPLE,
    STRIDE,
    BoxNetwork,
    BoxNetworkConfig,
    BundledProposer,
    cell_centres,
    prepare,
)
from vlm_fo1.regions import Regions

ASSETS = Path(str(files("vlm_fo1"))) / "assets"
SMALL = BoxNetworkConfig(widths=(4, 8, 8, 8, 8), blocks=(0, 0, 0, 0), neck=8)
FEW = {"objects": [2, 4], "width": [96, 96], "height": [96, 96], "object_size": [20, 40]}


needs_weights = pytest.mark.skipif(
    not (ASSETS / "tiny-proposer" / "model.safetensors").is_file(),
    reason="assets/tiny-proposer has no weights yet: recipes/tiny_proposer makes them",
)


@pytest.fixture(scope="module")
def bundled() -> BundledProposer:
    return BundledProposer.from_pretrained("")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(ASSETS / "demo" / "photo.jpg") as file:
        return file.convert("RGB")


@needs_weights
def test_it_finds_the_things_of_the_bundled_image(bundled, photo):
    boxes = np.array(json.loads((ASSETS / "demo" / "boxes.json").read_text()), np.float32)
    rendered = json.loads((ASSETS / "demo" / "scenes.json").read_text())[0]
    things = sum(rendered["things"].values())  # the other boxes are around nothing
    (found,) = bundled.propose([photo])
    assert (iou(boxes, found[:50].xyxy).max(1) >= 0.5).sum() >= things
    assert found.scores is not None
    assert (found.scores[:things] > bundled.selection.min_score).all()


@needs_weights
def test_the_bundled_files_are_small_and_say_where_they_come_from():
    folder = ASSETS / "tiny-proposer"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4 * 2**20
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "python -m recipes.tiny_proposer --sprites" in card


@needs_weights
def test_it_is_the_proposer_named_tiny(bundled):
    loaded = load_proposer("tiny")
    assert isinstance(loaded, Proposer)
    assert loaded.name == "tiny"
    assert not loaded.requires_labels
    assert loaded.fingerprint == bundled.fingerprint


@needs_weights
@pytest.mark.parametrize("size_wh", [(1, 1), (3, 500), (2000, 7), (33, 31), (640, 480)])
def test_images_of_any_size_give_ranked_boxes_within_them(bundled, photo, size_wh):
    image = photo.resize(size_wh)
    before = image.tobytes()
    (found,) = bundled.propose([image])
    assert found.size_wh == size_wh
    assert image.tobytes() == before
    assert found.scores is not None
    assert (np.diff(found.scores) <= 0).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy[:, 2:] <= size_wh).all()


@needs_weights
def test_an_image_of_nothing_gives_nothing_or_little(bundled):
    (found,) = bundled.propose([Image.new("RGB", (320, 240), (120, 140, 160))])
    assert len(found) == 0 or float(found.scores[0]) < bundled.selection.min_score


@needs_weights
def test_boxes_follow_an_image_that_is_twice_as_large(bundled, photo):
    small = photo.resize((320, round(320 * photo.height / photo.width)), Image.Resampling.BILINEAR)
    large = small.resize((small.width * 2, small.height * 2), Image.Resampling.BICUBIC)
    one, two = (regions[:9].xyxy for regions in bundled.propose([small, large]))
    assert (iou(one * 2, two).max(1) > 0.8).all()


@needs_weights
def test_company_and_threads_change_nothing(bundled, photo):
    images = [photo, photo.crop((0, 0, 200, 150)), photo.rotate(90, expand=True)]
    together = bundled.propose(images)
    results: dict[int, Regions] = {}

    def work(index: int) -> None:
        results[index] = bundled.propose([images[index]])[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, regions in enumerate(together):
        np.testing.assert_array_equal(results[index].xyxy, regions.xyxy)
    assert bundled.propose([]) == []


@needs_weights
def test_queries_are_refused(bundled, photo):
    with pytest.raises(PromptError, match="leave out queries"):
        bundled.propose([photo], queries=["cat"])


@needs_weights
def test_bfloat16_finds_the_same_things(bundled, photo):
    half = BundledProposer.from_pretrained("", dtype="bfloat16")
    assert half.fingerprint != bundled.fingerprint
    (one,), (two,) = (each.propose([photo]) for each in (bundled, half))
    assert (iou(one[:9].xyxy, two.xyxy).max(1) > 0.8).all()


@needs_weights
def test_a_dtype_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="dtype 'half-baked' is none"):
        BundledProposer.from_pretrained("", dtype="half-baked")


def test_a_folder_without_weights_or_with_others_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is no bundled proposer"):
        BundledProposer.from_pretrained(tmp_path)
    export(BoxNetwork(SMALL), ProposerTraining(network=SMALL), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds another network"):
        BundledProposer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"nek": 8}')
    with pytest.raises(CheckpointError, match="did you mean 'neck'"):
        BundledProposer.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is no bundled proposer"):
        BundledProposer.from_pretrained(tmp_path)


def test_weights_that_are_no_numbers_are_told_of(tmp_path, photo):
    network = BoxNetwork(SMALL)
    torch.nn.init.constant_(network.sides.weight, torch.nan)
    export(network, ProposerTraining(network=SMALL), tmp_path)
    with pytest.raises(BoxError, match="weights are broken"):
        BundledProposer.from_pretrained(tmp_path).propose([photo])


def test_the_network_gives_one_box_around_every_cell():
    network = BoxNetwork(SMALL).eval()
    logits, boxes = network(torch.full((2, 3, 64, 96), 128.0))
    cells = (64 // STRIDE) * (96 // STRIDE)
    assert logits.shape == (2, cells)
    assert boxes.shape == (2, cells, 4)
    centres = cell_centres(64 // STRIDE, 96 // STRIDE)
    assert (boxes[0, :, :2] < centres).all()
    assert (boxes[0, :, 2:] > centres).all()
    assert centres[1].tolist() == [1.5 * STRIDE, 0.5 * STRIDE]


def test_images_are_scaled_down_and_padded():
    pixels, scale_xy = prepare(Image.new("L", (640, 100), 9), 320)
    assert pixels.shape == (1, 3, 64, 320)
    assert scale_xy == (0.5, 0.5)
    assert set(pixels[0, 0, :, 0].tolist()) == {9, 128}
    assert prepare(Image.new("RGB", (5, 5)), 320)[0].shape == (1, 3, MULTIPLE, MULTIPLE)
