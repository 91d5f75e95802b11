"""The comparison of towers and stages, at a size that trains in seconds."""

import json

import pytest
import torch
from rich.progress import Progress
from tests.recipes.test_tiny import MICRO, run_in

from benchmarks import tiny_ablation as script
from recipes.tiny.__main__ import _pools
from recipes.tiny.network import build
from recipes.tiny.phases import train_phase
from recipes.tiny.tower_training import train_towers
from recipes.tiny.towers import BOTH, Tower, encode
from vlm_fo1.train.stop import Stop


def test_regions_of_one_tower_have_nothing_of_the_other():
    model, processor = build(0, MICRO.network)
    pixels = torch.rand(1, 3, 256, 288)
    boxes = [torch.tensor([[10.0, 20.0, 90.0, 120.0]])]
    ways: tuple[tuple[Tower, ...], ...] = (BOTH, ("auxiliary",), ("primary",))
    with torch.no_grad():
        both, auxiliary, primary = (
            encode(model, processor, pixels, boxes, towers).regions_MR for towers in ways
        )
    width = sum(MICRO.network.davit)
    assert torch.equal(both[:, :width], auxiliary[:, :width])
    assert torch.equal(both[:, width:], primary[:, width:])
    place = auxiliary + primary - both  # both hold where the box is
    assert torch.allclose(place[:, :width], primary[:, :width], atol=1e-6)


@pytest.mark.slow
def test_the_comparison_runs_and_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    run = run_in(tmp_path / "run")
    assert _pools(run)
    assert train_towers(run, MICRO.towers[0])
    assert train_phase(run, MICRO.phases[0])
    sizes = script.Sizes(
        align_steps=2, tune_steps=2, train_shards=2, check_shards=1, check_batches=2,
        host="first", tune="second",
    )  # fmt: skip
    ablation = script.Ablation(
        MICRO, run.folder, tmp_path / "out", sizes, Progress(disable=True), Stop()
    )
    results, parts = tmp_path / "results.json", [*script.WAYS, *script.TUNED]
    assert script.measure(ablation, parts, results)
    told = json.loads(results.read_text())
    assert list(told["towers"]["2"]) == ["both", "primary", "auxiliary"]
    assert 0 <= told["towers"]["2"]["both"]["heldout"]["things_right"] <= 1
    skipped = told["stages"]["0"]["stage 1 skipped"]["before"]
    full = told["stages"]["2"]["both stages"]["before"]
    assert full["general"] == skipped["general"]  # what both start from
    assert full["regions_questions"] == skipped["regions_questions"] > 0
    assert len(script.table(told).splitlines()) == 11
    monkeypatch.setattr(script, "train_towers", None)
    monkeypatch.setattr(script, "PhaseTraining", None)
    assert script.measure(ablation, parts, results)
