"""What holds of every metric whatever the boxes: bounds, the best answer, the order of images."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_fo1.eval.metrics import (
    false_positives_per_truth,
    grec,
    humanref,
    iou,
    nms_survivors,
    per_image_f1,
    pooled_f1,
    proposal_recall,
    reachable,
    refdrone,
    referring_accuracy,
    rejection,
    semantic_iou,
)

few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
sides = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 20)] * 2)
boxes = st.lists(sides.map(lambda s: [s[0], s[1], s[0] + s[2], s[1] + s[3]]), max_size=4)
by_label = st.dictionaries(st.sampled_from("abc"), boxes, max_size=3)
named = st.fixed_dictionaries({"truth": by_label, "answer": st.none() | by_label})
images = st.lists(named, min_size=1, max_size=4)
plain = st.fixed_dictionaries({"truth": boxes, "answer": st.none() | boxes})
items = st.lists(plain, min_size=1, max_size=4)


def named_scores(entries):
    return {
        **{f"all {key}": value for key, value in pooled_f1(entries, "all").items()},
        **{f"present {key}": value for key, value in pooled_f1(entries, "present").items()},
        **{f"aware {key}": value for key, value in per_image_f1(entries, "aware").items()},
        **{f"blind {key}": value for key, value in per_image_f1(entries, "blind").items()},
    }


def plain_scores(entries):
    scores = {**grec(entries), **refdrone(entries)}
    with_object = [entry for entry in entries if entry["truth"]]
    scores |= {"rejection": rejection([entry["answer"] for entry in entries])}
    if with_object:
        scores |= humanref(with_object)
        first = [entry["truth"][0] for entry in with_object]
        scores |= referring_accuracy([entry["answer"] for entry in with_object], first)
    return scores


def with_answer(entries, answer):
    return [{"truth": entry["truth"], "answer": answer(entry["truth"])} for entry in entries]


@few
@given(images, st.randoms(use_true_random=False))
def test_named_scores_are_bounded_and_do_not_depend_on_the_order_of_images(entries, random):
    scores = named_scores(entries)
    assert all(value is None or 0 <= value <= 1 for value in scores.values())
    shuffled = random.sample(entries, len(entries))
    assert named_scores(shuffled) == pytest.approx(scores)
    assert false_positives_per_truth(shuffled) == false_positives_per_truth(entries)


@few
@given(items, st.randoms(use_true_random=False))
def test_scores_of_expressions_are_bounded_and_do_not_depend_on_their_order(entries, random):
    scores = plain_scores(entries)
    assert all(value is None or 0 <= value <= 1 for value in scores.values())
    assert plain_scores(random.sample(entries, len(entries))) == pytest.approx(scores)


@few
@given(images)
def test_the_truth_itself_scores_the_maximum(entries):
    for value in named_scores(with_answer(entries, dict)).values():
        assert value is None or value == pytest.approx(1)
    for value in pooled_f1(with_answer(entries, dict), "published").values():
        assert value is None or value == pytest.approx(1)
    hallucinated = false_positives_per_truth(with_answer(entries, dict))
    assert set(hallucinated.values()) <= {0, None}


@few
@given(items)
def test_the_true_boxes_score_the_maximum(entries):
    scores = plain_scores(with_answer(entries, list))
    scores.pop("rejection")
    scores.pop("several", None)
    for value in scores.values():
        assert value is None or value == pytest.approx(1)
    recall = proposal_recall([{"truth": e["truth"], "proposals": e["truth"]} for e in entries])
    assert set(recall.values()) <= {1, None}


@few
@given(images)
def test_an_answer_of_nothing_finds_nothing(entries):
    for value in pooled_f1(with_answer(entries, lambda _: {})).values():
        assert value in {0, None}
    with_object = [entry for entry in entries if any(entry["truth"].values())]
    if with_object:
        assert set(per_image_f1(with_answer(with_object, lambda _: {})).values()) == {0}


@few
@given(images)
def test_failing_never_scores_more_than_answering_nothing(entries):
    nothing = named_scores(with_answer(entries, lambda _: {}))
    failed = named_scores(with_answer(entries, lambda _: None))
    assert all(value is None or value <= (nothing[key] or 0) for key, value in failed.items())
    assert all(value in {0, None} for value in failed.values())
    false = false_positives_per_truth(with_answer(entries, lambda _: None))["all"]
    assert false is None or false > 0


@few
@given(items)
def test_expressions_that_failed_are_wrong_everywhere(entries):
    failed = plain_scores(with_answer(entries, lambda _: None))
    assert set(failed.values()) <= {0, None}


@few
@given(boxes, boxes)
def test_overlap_is_bounded_symmetric_and_one_of_a_box_with_itself(first, second):
    table = np.asarray(iou(first, second))
    assert table.shape == (len(first), len(second))
    assert ((table >= 0) & (table <= 1)).all()
    np.testing.assert_array_equal(table, np.asarray(iou(second, first)).T)
    np.testing.assert_array_equal(np.diag(iou(first, first)), np.ones(len(first)))


@few
@given(boxes, boxes, st.data())
def test_survivors_are_some_of_the_answers_and_survive_again(truth, answers, data):
    count = len(answers)
    scores = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    kept = nms_survivors(truth, answers, scores)
    assert kept == sorted(set(kept))
    again = nms_survivors(truth, [answers[k] for k in kept], [scores[k] for k in kept])
    assert again == list(range(len(kept)))


@few
@given(boxes, boxes, boxes)
def test_no_choice_of_proposals_has_more_recall_than_what_is_reachable(truth, proposals, chosen):
    best = [proposals[k] for k in reachable(truth, proposals)]
    hits = {"best": best, "some": [box for box in chosen if box in proposals]}
    covered = {
        key: sum(any(iou(box, answer) >= 0.5 for answer in answers) for box in truth)
        for key, answers in hits.items()
    }
    assert covered["best"] >= covered["some"]
    every = sum(any(iou(box, answer) >= 0.5 for answer in proposals) for box in truth)
    assert covered["best"] == every


@few
@given(st.text(max_size=20), st.text(max_size=20))
def test_words_in_common_are_a_share(prediction, category):
    assert 0 <= semantic_iou(prediction, category) <= 1
