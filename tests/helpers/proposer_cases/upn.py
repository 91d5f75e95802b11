"""UPN under the contract of proposers."""

from pathlib import Path

import torch

from tests.helpers.proposer_cases import ProposerCase
from vlm_fo1.proposers.upn import UPN, UPNConfig, UPNProposer

TINY = UPNConfig(
    embed_dim=8, depths=(2, 1, 1, 1), backbone_heads=(1, 2, 2, 4), window=3, encoder_layers=1,
    decoder_layers=2, heads=4, points=2, ffn_dim=32, queries=20,
)  # fmt: skip


def build(folder: Path, seed: int = 3) -> UPNProposer:
    torch.manual_seed(seed)
    UPN(TINY).eval().save_pretrained(folder)
    return UPNProposer.from_pretrained(folder, device="cpu", shorter=64, longer_max=100)


def build_other(folder: Path) -> UPNProposer:
    return build(folder, seed=4)


CASES = [ProposerCase(name="upn", build=build, queries=None, other=build_other)]
