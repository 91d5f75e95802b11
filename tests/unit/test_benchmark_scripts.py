"""What the benchmarks count with: average precision, and the pooling they compare ours to."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vlm_fo1.train.tiny import towers

FOLDER = Path(__file__).parents[2] / "benchmarks"


def script(name: str, monkeypatch) -> ModuleType:
    """A benchmark as a module; it finds its neighbours as it does when run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_average_precision_is_a_mean_over_labels_or_of_all_answers_together(monkeypatch):
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    count = script("proposers_on_scenes", monkeypatch).average_precision
    box = [0.0, 0.0, 10.0, 10.0]
    wanted = [{"question": q, "label": label, "bbox": box} for q, label in ((0, "a"), (1, "a"))]
    wanted.append({"question": 0, "label": "b", "bbox": [20.0, 0.0, 10.0, 10.0]})
    answered = [
        {"question": 0, "label": "a", "bbox": box, "score": 0.9},
        {"question": 1, "label": "a", "bbox": box, "score": 0.5},
        {"question": 1, "label": "absent", "bbox": box, "score": 0.95},
    ]
    assert count(wanted, answered, per_label=True) == 0.5  # all of "a", nothing of "b"
    # A wrong one first, then two right ones of three: 2 / 3 up to a recall of 2 / 3, then nothing.
    assert count(wanted, answered, per_label=False) == pytest.approx(67 / 101 * 2 / 3, abs=1e-4)
    assert count(wanted, [], per_label=True) == 0.0


def test_direct_pooling_gives_the_values_and_gradients_of_ours(monkeypatch):
    module = script("train_step", monkeypatch)
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 6, 8)
    low = torch.rand(5, 2) * 8
    cells = torch.cat([low, low + 0.5 + torch.rand(5, 2) * 12], dim=1)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for pool in (towers._pool, module.direct_pool):
        leaf = maps.clone().requires_grad_()
        pooled = pool(leaf, cells, [2, 3], 7, (12, 16))
        pooled.square().sum().backward()
        assert leaf.grad is not None
        found.append((pooled.detach(), leaf.grad))
    for ours, direct in zip(*found, strict=True):
        assert torch.allclose(ours, direct, atol=1e-5)
