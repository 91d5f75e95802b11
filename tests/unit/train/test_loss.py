"""The loss in slices is the loss of the whole."""

import pytest
import torch
from tests.helpers.training import (
    TokenSource,
    collate,
    tiny_model,
)

from vlm_fo1.train.loss import answer_loss


def test_the_loss_is_that_of_the_whole_logits():
    model = tiny_model().eval()
    examples = [TokenSource().example(number) for number in (2, 3, 5)]
    batch = collate(examples)
    labels = batch["labels"]
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = model(**inputs).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    assert answer_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)
