"""The training of the bundled proposer does its work."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.tiny_proposer import training
from recipes.tiny_proposer.data import ImagePool, altered, fresh_images
from recipes.tiny_proposer.loss import assigned, losses, recall_and_precision
from recipes.tiny_proposer.training import RECIPE, ProposerTraining, main, train
from vlm_fo1.config import build, dump, read
from vlm_fo1.errors import CheckpointError, ConfigError
from vlm_fo1.proposers.base import load_proposer
from vlm_fo1.proposers.bundled import (
    BoxNetwork,
    BoxNetworkConfig,
    cell_centres,
)
from vlm_fo1.regions import Regions
from vlm_fo1.train.config import ScheduleConfig, StageConfig, TrainRule
from vlm_fo1.train.metrics import read_log

ASSETS = Path(str(files("vlm_fo1"))) / "assets"
SMALL = BoxNetworkConfig(widths=(4, 8, 8, 8, 8), blocks=(0, 0, 0, 0), neck=8)
FEW = {"objects": [2, 4], "width": [96, 96], "height": [96, 96], "object_size": [20, 40]}


def run(stage=None, **changes) -> ProposerTraining:
    steps = {
        "name": "proposer", "train": (TrainRule(pattern="*", lr=2e-3),), "steps": 6,
        "batch_size": 4, "schedule": ScheduleConfig(warmup_steps=2), "betas": (0.9, 0.99),
        "clip_norm": 5.0, "save_every": 3, "precision": "fp32",
    }  # fmt: skip
    values = {
        "network": SMALL, "images": (FEW,), "pool": 12, "crop": 96, "log_every": 1, "test": 2,
        "stage": StageConfig(**{**steps, **(stage or {})}),
    }  # fmt: skip
    return ProposerTraining(**{**values, **changes})


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


def test_a_changed_image_keeps_its_boxes_on_its_things():
    image = np.zeros((80, 100, 3), np.uint8)
    image[20:50, 30:70] = 255
    truth = np.array([[30, 20, 70, 50]], np.float32)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        levels, boxes = altered(image, truth, rng, side=64, zoom=(0.6, 1.4), gain=0.0)
        assert levels.shape == (64, 64, 3)
        if len(boxes):
            shown = np.argwhere(levels[..., 0] > 170)
            tight = np.concatenate([shown.min(0)[::-1], shown.max(0)[::-1] + 1])
            np.testing.assert_allclose(boxes[0, :4], tight, atol=2.5)
            assert 0 < boxes[0, 4] <= 1.0001


def test_scores_learn_the_overlap_and_boxes_the_things():
    torch.manual_seed(0)
    network = BoxNetwork(SMALL)
    pixels = torch.rand(2, 3, 64, 64) * 255
    boxes = [torch.tensor([[8.0, 8, 40, 40, 1]]), torch.zeros(0, 5)]
    score, box = losses(network, pixels, boxes)
    assert score > 0
    assert 0 < box < 2
    nothing = losses(network, pixels[1:], boxes[1:])
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
    fast = {"train": (TrainRule(pattern="*", lr=1e-2),), "steps": 40, "eval_every": 20}
    folder = train(run(fast), None, tmp_path)
    assert folder is not None
    assert folder == tmp_path / "proposer"
    lines = read_log(tmp_path)
    curve = [line["loss"] for line in lines]
    assert np.mean(curve[-5:]) < 0.9 * np.mean(curve[:5])
    assert curve == pytest.approx([line["score"] + 2 * line["box"] for line in lines])
    assert [line["step"] for line in read_log(tmp_path, "eval")] == [20, 40]
    assert {"training_recall", "training_ap"} < read_log(tmp_path, "eval")[0].keys()
    figures = json.loads((folder / "figures.json").read_text())
    assert set(figures["training"]) == {"styles", "recall", "ap", "boxes", "things"}
    assert len(load_proposer(f"tiny:{folder}").propose([Image.new("RGB", (40, 40))])) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_goes_on_with_the_same_losses_and_weights(tmp_path, monkeypatch, precision):
    config = run({"precision": precision})
    train(config, None, tmp_path / "whole")

    def killed(*arguments, **options):
        if (tmp_path / "killed" / "checkpoints" / "proposer" / "step-00000003").is_dir():
            raise KeyboardInterrupt
        return altered(*arguments, **options)

    monkeypatch.setattr(training, "altered", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, None, tmp_path / "killed")
    monkeypatch.setattr(training, "altered", altered)
    train(config, None, tmp_path / "killed")
    whole, resumed = (read_log(tmp_path / name) for name in ("whole", "killed"))
    assert len(whole) == 6
    assert [line["loss"] for line in resumed] == [line["loss"] for line in whole]
    first, second = (
        (tmp_path / name / "proposer" / "model.safetensors").read_bytes()
        for name in ("whole", "killed")
    )
    assert first == second


def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path):
    train(run(), None, tmp_path)
    with pytest.raises(CheckpointError, match=r"lr: 0\.002 -> 0\.1"):
        train(run({"train": (TrainRule(pattern="*", lr=0.1),)}), None, tmp_path)
    with pytest.raises(CheckpointError, match=r"recipe\.box_weight: 2\.0 -> 1\.0"):
        train(run(box_weight=1.0), None, tmp_path)
    with pytest.raises(CheckpointError, match="holds other images"):
        train(run(seed=1), None, tmp_path)


def test_a_pool_renders_what_is_missing_only(tmp_path):
    images = run().image_configs(None)
    pool = ImagePool(tmp_path, images, 0, 5)
    assert list(pool.fill()) == [5]
    levels, boxes = pool[3]
    assert levels.shape == (96, 96, 3)
    assert boxes.shape[1] == 4
    before = (tmp_path / "images-00000.safetensors").stat().st_mtime_ns
    assert list(ImagePool(tmp_path, images, 0, 5).fill()) == [5]
    assert (tmp_path / "images-00000.safetensors").stat().st_mtime_ns == before
    fresh, _ = fresh_images(images[0], 0, 1)
    assert not any(np.array_equal(pool[index][0], np.asarray(fresh[0])) for index in range(5))


def test_the_recipe_is_read_and_written_back_the_same(tmp_path):
    config = read(RECIPE, ProposerTraining)
    (tmp_path / "again.yaml").write_text(dump(config))
    assert read(tmp_path / "again.yaml", ProposerTraining) == config
    stored = json.loads((ASSETS / "tiny-proposer" / "config.json").read_text())
    assert build(BoxNetworkConfig, stored) == config.network


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": 0}, "pool = 0"),
        ({"crop": 100}, "a multiple of 32"),
        ({"zoom": (2.0, 1.0)}, "zoom"),
        ({"gain": 1.0}, "gain = 1.0"),
        ({"images": ()}, "images is empty"),
        ({"images": ({"colour": 1},)}, "unknown key 'colour'"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        run(**changes)


def test_the_command_says_what_is_wrong_with_its_file(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text("stage: {name: proposer, stepz: 3}\n")
    assert main([str(path), "--out", str(tmp_path / "run")]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
