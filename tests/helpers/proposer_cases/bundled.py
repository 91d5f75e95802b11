"""The bundled proposer under the contract of all: with tiny random weights, and as it is."""

import json
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.helpers.proposer_cases import ProposerCase
from vlm_fo1.config import plain
from vlm_fo1.proposers.bundled import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    BoxNetwork,
    BoxNetworkConfig,
    BundledProposer,
)


def _random(folder: Path, seed: int) -> BundledProposer:
    config = BoxNetworkConfig(widths=(4, 8, 8, 8, 8), blocks=(0, 0, 0, 0), neck=8)
    torch.manual_seed(seed)
    network = BoxNetwork(config)
    torch.nn.init.normal_(network.score.weight, std=2.0)
    save_file(network.state_dict(), folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(plain(config)))
    return BundledProposer.from_pretrained(folder)


def random_weights(folder: Path) -> BundledProposer:
    return _random(folder, 0)


def other_weights(folder: Path) -> BundledProposer:
    return _random(folder, 1)


def bundled(folder: Path) -> BundledProposer:
    del folder
    return BundledProposer.from_pretrained("")


CASES = [
    ProposerCase(name="tiny-random", build=random_weights, queries=None, other=other_weights),
]
if (Path(str(files("vlm_fo1"))) / "assets" / "tiny-proposer" / WEIGHTS_FILE).is_file():
    CASES.append(ProposerCase(name="tiny", build=bundled, queries=None, other=random_weights))
