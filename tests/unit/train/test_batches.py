"""Batches of examples of all lengths, gone on with where they stopped."""

import itertools
import json

import pytest
from tests.helpers.training import (
    TokenExample,
    TokenSource,
    collate,
    first,
    length,
    tiny_model,
)

from vlm_fo1.train.batches import BucketedBatches, Feed, FeedSettings, collate_usable
from vlm_fo1.train.loss import answer_loss

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("skew", "batch_tokens"), [("lognormal", 0), ("pareto", 4000)])
def test_padding_stays_below_15_percent_on_lengths_of_all_sizes(skew, batch_tokens):
    source = TokenSource(skew=skew, regions=False)
    batches = BucketedBatches(
        source, length=length, batch_size=8, pool_batches=32, batch_tokens=batch_tokens
    )
    taken = [[example.length for example in batch] for batch in itertools.islice(batches, 200)]
    unsorted = first(TokenSource(skew=skew, regions=False), 1600)
    naive = [[example.length for example in unsorted[at : at + 8]] for at in range(0, 1600, 8)]
    assert padding(naive) > 0.4  # it would have been this bad
    assert padding(taken) < 0.15
    if batch_tokens:
        assert max(max(batch) * len(batch) for batch in taken) <= batch_tokens


def padding(batches: list[list[int]]) -> float:
    return 1 - sum(map(sum, batches)) / sum(max(batch) * len(batch) for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_feed_resumes_at_every_batch(workers):
    settings = FeedSettings(batch_size=2, pool_batches=3, workers=workers)

    def feed():
        return Feed(TokenSource, collate, length, settings)

    def rows(feed, count):
        return [next(feed).inputs["input_ids"].tolist() for _ in range(count)]

    whole = rows(feed(), 12)
    for cut in (1, 5) if workers else (1, 2, 3, 4, 6, 7, 11):
        first = feed()
        assert rows(first, cut) == whole[:cut]
        state = json.loads(json.dumps(first.state_dict()))
        second = feed()
        second.load_state_dict(state)
        assert rows(second, 12 - cut) == whole[cut:]


def test_ballast_shows_regions_but_has_no_say():
    text = TokenExample([3, 4], [5])
    shown = TokenExample([9], [8, 8], [[4, 4, 24, 30]])
    fed, bad = collate_usable([text, text], collate, ballast=shown)
    assert fed is not None
    assert not bad
    assert fed.examples == 2
    assert len(fed.inputs["input_ids"]) == 3
    assert fed.answer_tokens == 2
    model = tiny_model()
    alone, _ = collate_usable([text, text], collate)
    assert alone is not None
    loss = answer_loss(model, fed.inputs)
    assert loss.item() == pytest.approx(answer_loss(model, alone.inputs).item(), rel=1e-5)
    loss.backward()
    assert model.get_parameter("region_connector.0.weight").grad is not None
    kept, _ = collate_usable([text, shown], collate, ballast=shown)
    assert kept is not None
    assert len(kept.inputs["input_ids"]) == 2
