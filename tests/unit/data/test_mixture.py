"""Mixtures of sources: in their shares, gone on with, and without bad records."""

import json
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from tests.helpers.annotations import jsonl

from vlm_fo1.data.mixture import Mixture, Part
from vlm_fo1.data.recipe import make_mixture
from vlm_fo1.data.sources import JsonlSource
from vlm_fo1.errors import ConfigError, DataError

# Mixtures


def mixture(tmp_path, **options):
    first = JsonlSource(jsonl(tmp_path, "a", 5))
    second = JsonlSource(jsonl(tmp_path, "b", 7))
    return Mixture([Part("a", first, 3.0), Part("b", second, 1.0)], seed=1, **options)


def ids(stream, count):
    return [example.id for example in islice(iter(stream), count)]


def test_a_finite_source_is_gone_through_in_a_new_order_each_time(tmp_path):
    source = JsonlSource(jsonl(tmp_path, "a", 20))
    epochs = [[source.example(e * 20 + i).id for i in range(20)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_a_mixture_keeps_to_its_weights_and_seed(tmp_path):
    drawn = ids(mixture(tmp_path), 400)
    assert drawn == ids(mixture(tmp_path), 400)
    share = sum(name.startswith("a") for name in drawn) / 400
    assert 0.68 < share < 0.82


def test_a_resumed_mixture_goes_on_where_it_stopped(tmp_path):
    stream = mixture(tmp_path)
    iterator = iter(stream)
    for _ in range(37):
        next(iterator)
    state = json.loads(json.dumps(stream.state_dict()))
    expected = [next(iterator).id for _ in range(50)]
    resumed = mixture(tmp_path)
    resumed.load_state_dict(state)
    assert ids(resumed, 50) == expected


def test_shards_share_out_the_stream(tmp_path):
    whole = ids(mixture(tmp_path), 30)
    shards = [ids(mixture(tmp_path, rank=rank, world_size=3), 10) for rank in range(3)]
    assert [shards[k % 3][k // 3] for k in range(30)] == whole


def test_a_bad_record_is_reported_with_file_and_line_and_left_out(tmp_path, caplog):
    path = jsonl(tmp_path, "a", 6, bad=[3])
    stream = Mixture([Part("a", JsonlSource(path))])
    drawn = ids(stream, 10)
    assert len(drawn) == 10
    assert "a3" not in drawn
    assert stream.bad_records >= 1
    assert "a.jsonl:4" in stream.problems[0]
    assert "a.jsonl:4" in caplog.text
    with pytest.raises(DataError, match=r"a\.jsonl:4"):
        ids(Mixture([Part("a", JsonlSource(path))], strict=True), 10)


def test_nothing_but_bad_records_ends_the_stream(tmp_path):
    stream = Mixture([Part("a", JsonlSource(jsonl(tmp_path, "a", 2, bad=[0, 1])))])
    with pytest.raises(DataError, match="in a row"):
        next(iter(stream))


def test_mixtures_that_cannot_be_are_refused(tmp_path):
    source = JsonlSource(jsonl(tmp_path, "a", 2))
    for parts in ([], [Part("a", source), Part("a", source)], [Part("a", source, -1.0)]):
        with pytest.raises(ConfigError):
            Mixture(parts)
    with pytest.raises(ConfigError, match="rank"):
        Mixture([Part("a", source)], rank=2, world_size=2)
    state = mixture(tmp_path).state_dict()
    with pytest.raises(ConfigError, match="world_size"):
        mixture(tmp_path, world_size=2).load_state_dict(state)
    with pytest.raises(ConfigError, match="parts"):
        Mixture([Part("z", source)], seed=1).load_state_dict(state)


def augmented(tmp_path, images, **changes):
    line = {
        "image": str(images / "1.jpg"),
        "regions": [[10, 10, 50, 50], [100, 20, 150, 80]],
        "turns": [{"question": "What is <region0>?", "answer": "a dog", "task": "free"}],
    }
    (tmp_path / "b.jsonl").write_text(json.dumps(line) + "\n")
    entry = {"type": "jsonl", "path": str(tmp_path / "b.jsonl"), "augment": changes}
    return make_mixture({"sources": [entry]}, seed=5)


def test_a_mixture_can_change_its_images_and_boxes_follow(tmp_path, images):
    only = {"light": 0, "renumber": False, "mirror": 1.0, "scale": [0.5, 0.5]}
    example = next(iter(augmented(tmp_path, images, **only)))
    assert isinstance(example.image, Image.Image)
    assert example.image.size == (100, 80)
    assert example.regions_xyxy.tolist() == [[75, 5, 95, 25], [25, 10, 50, 40]]


def test_changed_images_are_the_same_after_a_restart_and_other_ones_each_time(tmp_path, images):
    whole = augmented(tmp_path, images, jitter=0.1)
    before = [np.asarray(example.image) for example in islice(iter(whole), 3)]
    state = whole.state_dict()
    later = list(islice(iter(whole), 2))
    resumed = augmented(tmp_path, images, jitter=0.1)
    resumed.load_state_dict(state)
    for one, other in zip(later, islice(iter(resumed), 2), strict=True):
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
        assert np.array_equal(one.regions_xyxy, other.regions_xyxy)
        assert one.turns == other.turns
    assert len({image.tobytes() for image in before}) == 3


def test_an_image_that_cannot_be_changed_is_a_bad_record(tmp_path, images):
    stream = augmented(tmp_path, images)
    (images / "1.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="in a row"):
        next(iter(stream))
    assert "b.jsonl:1" in stream.problems[0]
