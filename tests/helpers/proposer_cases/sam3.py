"""SAM 3 under the contract of proposers."""

from tests.helpers.proposer_cases import ProposerCase
from tests.helpers.sam3 import save_tiny_sam3
from vlm_fo1.proposers.sam3 import SAM3Proposer


def build(folder):
    return SAM3Proposer.from_pretrained(str(save_tiny_sam3(folder)), device="cpu")


def build_other(folder):
    return SAM3Proposer.from_pretrained(str(save_tiny_sam3(folder, seed=1)), device="cpu")


CASES = [ProposerCase(name="sam3", build=build, queries=["cat", "a red thing"], other=build_other)]
