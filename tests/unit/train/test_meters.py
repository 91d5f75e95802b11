"""What is counted between two lines of a log survives a checkpoint."""

import json

import pytest
import torch

from vlm_fo1.errors import CheckpointError
from vlm_fo1.train.batches import Batch
from vlm_fo1.train.meters import Meters


def test_sums_come_back_to_the_last_bit():
    meters = Meters(torch.device("cpu"))
    meters.count(Batch({}, examples=2, targets=7, tokens=30, padded_tokens=40, bad=[]))
    for value in (0.1, 1 / 3):
        meters.add(loss=torch.tensor(value), right=2.0)
    again = Meters(torch.device("cpu"))
    again.load_state_dict(json.loads(json.dumps(meters.state_dict())))
    assert again.counts == {"targets": 7, "examples": 2, "tokens": 30, "padded_tokens": 40}
    assert again.sums.keys() == {"loss", "right"}
    assert torch.equal(again.sums["loss"], meters.sums["loss"])
    assert again.sums["right"].item() == 4


def test_counts_of_another_version_are_refused():
    with pytest.raises(CheckpointError, match="from another version"):
        Meters(torch.device("cpu")).load_state_dict({"loss": 1.0, "slots": 4.0})
