"""The bundled proposer finds the things of the bundled picture, and its training does its work."""

import json
import threading
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlm_fo1 import settings
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
from vlm_fo1.structures import Regions
from vlm_fo1.train import proposer as training
from vlm_fo1.train.journal import read_log
from vlm_fo1.train.proposer import ProposerTraining, export, main, train
from vlm_fo1.train.proposer_data import ScenePool, altered, fresh_scenes
from vlm_fo1.train.proposer_loss import assigned, losses, recall_and_precision

ASSETS = Path(str(files("vlm_fo1"))) / "assets"
RECIPE = Path(__file__).parents[2] / "configs" / "train" / "tiny-proposer.yaml"
SMALL = BoxNetworkConfig(widths=(4, 8, 8, 8, 8), blocks=(0, 0, 0, 0), neck=8)
FEW = {"objects": [2, 4], "width": [96, 96], "height": [96, 96], "object_size": [20, 40]}


needs_weights = pytest.mark.skipif(
    not (ASSETS / "tiny-proposer" / "model.safetensors").is_file(),
    reason="assets/tiny-proposer has no weights yet: configs/train/tiny-proposer.yaml makes them",
)


@pytest.fixture(scope="module")
def bundled() -> BundledProposer:
    return BundledProposer.from_pretrained("")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(ASSETS / "demo" / "photo.jpg") as file:
        return file.convert("RGB")


def run(**changes) -> ProposerTraining:
    values = {
        "network": SMALL, "scenes": (FEW,), "pool": 12, "steps": 6, "batch_size": 4, "crop": 96,
        "warmup_steps": 2, "log_every": 1, "save_every": 3, "test": 2, "precision": "fp32",
    }  # fmt: skip
    return ProposerTraining(**{**values, **changes})


@needs_weights
def test_it_finds_the_things_of_the_bundled_picture(bundled, photo):
    boxes = np.array(json.loads((ASSETS / "demo" / "boxes.json").read_text()), np.float32)
    scene = json.loads((ASSETS / "demo" / "scenes.json").read_text())[0]
    things = sum(scene["things"].values())  # the other boxes are around nothing
    (found,) = bundled.propose([photo])
    assert (iou(boxes, found[:50].xyxy).max(1) >= 0.5).sum() >= things
    assert found.scores is not None
    assert (found.scores[:things] > bundled.selection.min_score).all()


@needs_weights
def test_the_bundled_files_are_small_and_say_where_they_come_from():
    folder = ASSETS / "tiny-proposer"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4 * 2**20
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "python -m vlm_fo1.train.proposer configs/train/tiny-proposer.yaml" in card


@needs_weights
def test_it_is_the_proposer_named_tiny(bundled):
    loaded = load_proposer("tiny")
    assert isinstance(loaded, Proposer)
    assert loaded.name == "tiny"
    assert not loaded.takes_queries
    assert loaded.fingerprint == bundled.fingerprint


@needs_weights
@pytest.mark.parametrize("size_wh", [(1, 1), (3, 500), (2000, 7), (33, 31), (640, 480)])
def test_pictures_of_any_size_give_ranked_boxes_within_them(bundled, photo, size_wh):
    picture = photo.resize(size_wh)
    before = picture.tobytes()
    (found,) = bundled.propose([picture])
    assert found.size_wh == size_wh
    assert picture.tobytes() == before
    assert found.scores is not None
    assert (np.diff(found.scores) <= 0).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy[:, 2:] <= size_wh).all()


@needs_weights
def test_a_picture_of_nothing_gives_nothing_or_little(bundled):
    (found,) = bundled.propose([Image.new("RGB", (320, 240), (120, 140, 160))])
    assert len(found) == 0 or float(found.scores[0]) < bundled.selection.min_score


@needs_weights
def test_boxes_follow_a_picture_that_is_twice_as_large(bundled, photo):
    small = photo.resize((320, round(320 * photo.height / photo.width)), Image.Resampling.BILINEAR)
    large = small.resize((small.width * 2, small.height * 2), Image.Resampling.BICUBIC)
    one, two = (regions[:9].xyxy for regions in bundled.propose([small, large]))
    assert (iou(one * 2, two).max(1) > 0.8).all()


@needs_weights
def test_company_and_threads_change_nothing(bundled, photo):
    pictures = [photo, photo.crop((0, 0, 200, 150)), photo.rotate(90, expand=True)]
    together = bundled.propose(pictures)
    results: dict[int, Regions] = {}

    def work(index: int) -> None:
        results[index] = bundled.propose([pictures[index]])[0]

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
    export(BoxNetwork(SMALL), run(), tmp_path)
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
    export(network, run(), tmp_path)
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


def test_pictures_are_scaled_down_and_padded():
    pixels, scale_xy = prepare(Image.new("L", (640, 100), 9), 320)
    assert pixels.shape == (1, 3, 64, 320)
    assert scale_xy == (0.5, 0.5)
    assert set(pixels[0, 0, :, 0].tolist()) == {9, 128}
    assert prepare(Image.new("RGB", (5, 5)), 320)[0].shape == (1, 3, MULTIPLE, MULTIPLE)


def test_a_cell_stands_for_the_thing_whose_middle_is_nearest():
    centres = cell_centres(16, 16)
    boxes = torch.tensor([[0.0, 0, 40, 40, 1], [20, 20, 28, 64, 1], [40, 0, 64, 20, 0.2]])
    owners = assigned(centres, boxes).reshape(16, 16)
    assert owners[4, 4] == 0
    assert owners[10, 5] == 1
    assert owners[1, 12] == -2  # mostly cut away
    assert owners[15, 15] == -1
    assert set(assigned(centres, boxes[:0]).tolist()) == {-1}


def test_every_thing_has_a_cell_however_thin_it_is():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (200, 2))
    ends = corners + np.array([6, 14])
    boxes = np.concatenate([corners, ends, np.ones((200, 1))], 1).astype(np.float32)
    for box in torch.from_numpy(boxes):
        assert (assigned(cell_centres(16, 16), box[None]) == 0).any()


def test_a_changed_scene_keeps_its_boxes_on_its_things():
    picture = np.zeros((80, 100, 3), np.uint8)
    picture[20:50, 30:70] = 255
    truth = np.array([[30, 20, 70, 50]], np.float32)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        levels, boxes = altered(picture, truth, rng, side=64, zoom=(0.6, 1.4), gain=0.0)
        assert levels.shape == (64, 64, 3)
        if len(boxes):
            shown = np.argwhere(levels[..., 0] > 170)
            tight = np.concatenate([shown.min(0)[::-1], shown.max(0)[::-1] + 1])
            np.testing.assert_allclose(boxes[0, :4], tight, atol=2.5)
            assert 0 < boxes[0, 4] <= 1.0001


def test_scores_learn_the_overlap_and_boxes_the_things():
    config = run()
    torch.manual_seed(0)
    network = BoxNetwork(SMALL)
    pixels = torch.rand(2, 3, 64, 64) * 255
    boxes = [torch.tensor([[8.0, 8, 40, 40, 1]]), torch.zeros(0, 5)]
    score, box = losses(network, pixels, boxes, config.precision)
    assert score > 0
    assert 0 < box < 2
    nothing = losses(network, pixels[1:], boxes[1:], config.precision)
    assert float(nothing[1].detach()) == 0


def test_recall_and_precision_count_a_thing_once():
    truth = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], np.float32)
    doubled = Regions(boxes, (50, 50), np.array([0.9, 0.8, 0.7], np.float32))
    figures = recall_and_precision([doubled], [truth])
    assert figures["recall"] == 1
    assert figures["ap"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert recall_and_precision([doubled], [truth], limit=2)["recall"] == 0.5
    assert recall_and_precision([Regions.empty((50, 50))], [truth])["ap"] == 0


def test_a_short_training_lowers_the_loss_and_leaves_weights_and_figures(tmp_path):
    folder = train(run(steps=40, save_every=40, lr=1e-2), None, tmp_path)
    assert folder is not None
    lines = [line["loss"] for line in read_log(tmp_path)]
    assert np.mean(lines[-5:]) < 0.9 * np.mean(lines[:5])
    figures = json.loads((folder / "figures.json").read_text())
    assert set(figures["training"]) == {"styles", "recall", "ap", "boxes", "things"}
    assert len(load_proposer(f"tiny:{folder}").propose([Image.new("RGB", (40, 40))])) == 1


def test_a_killed_run_goes_on_with_the_same_losses(tmp_path, monkeypatch):
    train(run(), None, tmp_path / "whole")

    def killed(config, pool, step):
        if step == 4:
            raise KeyboardInterrupt
        return batch(config, pool, step)

    batch = training.pool_batch
    monkeypatch.setattr(training, "pool_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        train(run(), None, tmp_path / "killed")
    monkeypatch.setattr(training, "pool_batch", batch)
    train(run(), None, tmp_path / "killed")
    whole, resumed = (read_log(tmp_path / name) for name in ("whole", "killed"))
    assert [line["loss"] for line in resumed] == [line["loss"] for line in whole]
    first, second = (
        (tmp_path / name / "export" / "model.safetensors").read_bytes()
        for name in ("whole", "killed")
    )
    assert first == second


def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path):
    train(run(), None, tmp_path)
    with pytest.raises(CheckpointError, match=r"lr: 0\.002 -> 0\.1"):
        train(run(lr=0.1), None, tmp_path)
    with pytest.raises(CheckpointError, match="holds other scenes"):
        train(run(seed=1), None, tmp_path)


def test_a_pool_renders_what_is_missing_only(tmp_path):
    scenes = run().scene_configs(None)
    pool = ScenePool(tmp_path, scenes, 0, 5)
    assert list(pool.fill()) == [5]
    levels, boxes = pool[3]
    assert levels.shape == (96, 96, 3)
    assert boxes.shape[1] == 4
    before = (tmp_path / "scenes-00000.safetensors").stat().st_mtime_ns
    assert list(ScenePool(tmp_path, scenes, 0, 5).fill()) == [5]
    assert (tmp_path / "scenes-00000.safetensors").stat().st_mtime_ns == before
    fresh, _ = fresh_scenes(scenes[0], 0, 1)
    assert not any(np.array_equal(pool[index][0], np.asarray(fresh[0])) for index in range(5))


@needs_weights
def test_the_recipe_is_read_and_written_back_the_same(tmp_path):
    config = settings.read(RECIPE, ProposerTraining)
    (tmp_path / "again.yaml").write_text(settings.dump(config))
    assert settings.read(tmp_path / "again.yaml", ProposerTraining) == config
    stored = json.loads((ASSETS / "tiny-proposer" / "config.json").read_text())
    assert settings.build(BoxNetworkConfig, stored) == config.network


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"crop": 100}, "a multiple of 32"),
        ({"zoom": (2.0, 1.0)}, "zoom"),
        ({"gain": 1.0}, "gain = 1.0"),
        ({"scenes": ()}, "scenes is empty"),
        ({"scenes": ({"colour": 1},)}, r"scenes have no \['colour'\]"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        run(**changes)


def test_the_command_says_what_is_wrong_with_its_file(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text("stepz: 3\n")
    assert main([str(path), "--out", str(tmp_path / "run")]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
