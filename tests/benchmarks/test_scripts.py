"""What the benchmarks count with: average precision, and the encoding they compare ours to."""

import pytest

from benchmarks import encode


def test_average_precision_is_a_mean_over_labels_or_of_all_answers_together():
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    from benchmarks.proposers_on_synthetic import average_precision as count

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


def test_both_ways_of_encoding_give_the_same_in_many_and_in_few_operators():
    model = encode.build(width=80, depth=2)
    inputs = encode.make_inputs(3, (224, 140), boxes=2)
    found = encode.measure(model, inputs, rounds=1)
    assert found["difference"] < 1e-4
    assert found["fewer_operators"] > 2
