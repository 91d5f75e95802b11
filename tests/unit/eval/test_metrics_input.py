"""What metrics refuse, and that the message says what to do."""

import subprocess
import sys

import numpy as np
import pytest

from vlm_fo1.errors import BoxError, EvaluationError
from vlm_fo1.eval import metrics
from vlm_fo1.eval.metrics import (
    average_precision,
    bootstrap,
    expected_calibration_error,
    false_positives_per_truth,
    ferret_score,
    grec,
    gres,
    hallusionbench,
    humanref,
    iou,
    mean_of,
    nms_survivors,
    ovdeval_means,
    per_image_f1,
    pooled_f1,
    proposal_recall,
    refdrone,
    referring_accuracy,
    rejection,
    reliability_bins,
    text_accuracy,
)

BOX = [0, 0, 9, 9]
OF_IMAGES = [pooled_f1, per_image_f1, false_positives_per_truth, average_precision]
OF_ITEMS = [humanref, grec, refdrone, gres]


@pytest.mark.parametrize(
    "metric", [*OF_IMAGES, *OF_ITEMS, rejection, proposal_recall, ferret_score]
)
def test_a_score_of_nothing_is_refused(metric):
    with pytest.raises(EvaluationError, match="at least one"):
        metric([])


@pytest.mark.parametrize("metric", [*OF_IMAGES, *OF_ITEMS, rejection])
def test_one_item_alone_is_no_list_of_items(metric):
    with pytest.raises(EvaluationError, match="must be a list, got dict"):
        metric({"truth": {}, "answer": {}})


@pytest.mark.parametrize("metric", [*OF_IMAGES, *OF_ITEMS])
def test_an_item_that_is_no_mapping_is_named(metric):
    with pytest.raises(EvaluationError, match="item 0 is a list"):
        metric([[BOX]])


@pytest.mark.parametrize("metric", [*OF_IMAGES, humanref, grec, refdrone])
def test_an_answer_that_is_left_out_is_no_failed_item(metric):
    truth = {"a": [BOX]} if metric in OF_IMAGES else [BOX]
    with pytest.raises(EvaluationError, match=r"item 0 has no 'answer', only \['truth'\].*None"):
        metric([{"truth": truth}])


@pytest.mark.parametrize("metric", OF_IMAGES)
def test_boxes_without_labels_are_refused_where_labels_count(metric):
    for entry in ({"truth": [BOX], "answer": {}}, {"truth": {}, "answer": [BOX], "scores": {}}):
        with pytest.raises(EvaluationError, match="a mapping of labels to boxes is needed"):
            metric([entry])


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([[0, 0, 9]], r"must have shape \(N, 4\), got \(1, 3\)"),
        ([[0, 0, 9, 9], [1]], "must be rows of four numbers"),
        ([["0", "0", "9", "9"]], "must be rows of four numbers.*got str"),
        ([[0, 0, 9, float("nan")]], r"holds \(0, 0, 9, nan\)"),
        ([[0, 0, float("inf"), 9]], r"holds \(0, 0, inf, 9\)"),
        ([[10, 10, 5, 5]], r"holds \(10, 10, 5, 5\).*is it \(x, y, width, height\)"),
        ([[True, True, True, True]], "must be rows of four numbers.*got bool"),
        ([[0, 0, 10**400, 9]], "must be rows of four numbers.*got object"),
        ([[0.0, 0.0, 9.0, 9.0], 5], "must be rows of four numbers"),
        (None, "must be rows of four numbers"),
    ],
)
def test_boxes_that_are_none_are_named_with_their_place(boxes, said):
    with pytest.raises(BoxError, match=f"^image 1, answer, 'cat' {said}"):
        pooled_f1([{"truth": {}, "answer": {}}, {"truth": {}, "answer": {"cat": boxes}}])
    with pytest.raises(BoxError, match=f"^item 0, truth {said}"):
        grec([{"truth": boxes, "answer": []}])
    with pytest.raises(BoxError, match=said):
        iou(boxes, [BOX])
    with pytest.raises(BoxError, match=said):
        average_precision([{"truth": {"cat": boxes}, "answer": {}, "scores": {}}])


def test_arrays_of_any_number_type_are_read_and_left_as_they_are():
    truth = np.array([BOX], np.int32)
    answer = np.array([BOX], np.float32)
    assert grec([{"truth": truth, "answer": answer}])["pr"] == 1
    assert truth.dtype == np.int32
    assert grec([{"truth": np.zeros((0, 4)), "answer": np.zeros((0, 4))}])["pr"] == 1


def test_a_word_that_is_no_variant_is_answered_with_those_that_are():
    images = [{"truth": {"a": [BOX]}, "answer": {}}]
    with pytest.raises(EvaluationError, match="variant is 'best': one of all, present, published"):
        pooled_f1(images, "best")
    with pytest.raises(EvaluationError, match="labels is 'no': one of aware, blind"):
        per_image_f1(images, "no")
    with pytest.raises(EvaluationError, match="overlap is 'ioo'"):
        grec([{"truth": [BOX], "answer": []}], "ioo")
    with pytest.raises(EvaluationError, match="style is 'voc'"):
        average_precision(images, "voc")
    with pytest.raises(EvaluationError, match="variant is 'published': one of all, present"):
        metrics.pooled_f1_tally(images, "published")


def test_answers_and_truths_pair_up():
    with pytest.raises(EvaluationError, match=r"got 1 and 2.*None as the answer"):
        referring_accuracy([[BOX]], [BOX, BOX])
    with pytest.raises(EvaluationError, match="got 2 and 1"):
        text_accuracy(["a", "b"], ["a"])


@pytest.mark.parametrize("at", [0, 50, float("nan"), True])
def test_an_overlap_that_every_box_reaches_or_none_is_refused(at):
    with pytest.raises(EvaluationError, match=rf"IoU of {at}.* must be in \(0, 1\]"):
        referring_accuracy([[BOX]], [BOX], at=at)
    with pytest.raises(EvaluationError, match=rf"IoU of {at}.* must be in \(0, 1\]"):
        metrics.proposal_recall([{"truth": [BOX], "proposals": [BOX]}], at=[0.5, at])


def test_an_expression_of_several_objects_is_no_item_of_refcoco():
    with pytest.raises(EvaluationError, match=r"truth 0 holds 2 boxes.*grec"):
        referring_accuracy([[BOX]], [[BOX, BOX]])
    with pytest.raises(EvaluationError, match="truth 0 holds 0 boxes"):
        referring_accuracy([[BOX]], [[]])


def test_an_item_without_an_object_is_for_rejection():
    with pytest.raises(EvaluationError, match=r"item 1 has no object.*rejection"):
        humanref([{"truth": [BOX], "answer": []}, {"truth": [[]], "answer": []}])


def test_areas_that_no_masks_have_are_refused():
    item = {"intersection": 9, "union": 9, "truth_area": 5, "answer_area": 9}
    with pytest.raises(EvaluationError, match="intersection of 9 and a union of 9"):
        gres([item])
    with pytest.raises(EvaluationError, match="item 0, truth_area is -1"):
        gres([{**item, "truth_area": -1}])
    with pytest.raises(EvaluationError, match="item 0, union is None: a number"):
        gres([{**item, "union": None}])
    with pytest.raises(EvaluationError, match="item 0 has no 'answer_area'"):
        gres([{"truth_area": 5, "intersection": 0, "union": 5}])


def test_a_missing_set_is_an_error_and_not_a_smaller_mean():
    names = ["boats", "hands", "pistols"]
    with pytest.raises(EvaluationError, match=r"no score of hands: the mean is over 3 sets"):
        mean_of({"boats": 1.0, "pistols": 2.0}, names)
    with pytest.raises(EvaluationError, match="no score of hands"):
        mean_of({"boats": 1.0, "hands": None, "pistols": 2.0}, names)
    with pytest.raises(EvaluationError, match="unknown sets rockets"):
        mean_of({"boats": 1.0, "hands": 1.0, "pistols": 2.0, "rockets": 3.0}, names)
    with pytest.raises(EvaluationError, match="no score of logo"):
        ovdeval_means({"coco": 40.0})


def test_scores_are_needed_one_per_answer():
    with pytest.raises(EvaluationError, match=r"shape \(1,\) for 2 boxes.*such as 1.0"):
        nms_survivors([BOX], [BOX, BOX], [1.0])
    with pytest.raises(EvaluationError, match="finite numbers are needed"):
        nms_survivors([BOX], [BOX], [float("nan")])
    image = {"truth": {"a": [BOX]}, "answer": {"a": [BOX]}}
    with pytest.raises(EvaluationError, match="item 0 has no 'scores'"):
        average_precision([image])
    with pytest.raises(EvaluationError, match=r"shape \(0,\) for 1 boxes of image 0, answer, 'a'"):
        average_precision([{**image, "scores": {}}])
    with pytest.raises(EvaluationError, match="frequency of 'a' is None: one of r, c, f"):
        average_precision([{**image, "scores": {"a": [1]}}], frequency={})


def test_average_precision_counts_images_by_whole_numbers():
    image = {"truth": {"a": [BOX]}, "answer": {"a": [BOX]}, "scores": {"a": [1.0]}}
    tally = metrics.precision_tally([image, image])
    assert tally.score([2, 1])["ap"] == pytest.approx(1)
    with pytest.raises(EvaluationError, match="weights must be whole numbers"):
        tally.score([0.5, 1])


def test_ratings_rows_and_texts_of_another_form_are_refused():
    with pytest.raises(EvaluationError, match=r"pair 1 is \(8, 11\): ratings lie between 0 and 10"):
        ferret_score([(8, 6), (8, 11)])
    with pytest.raises(EvaluationError, match="pair 0 is '8 6'"):
        ferret_score(["8 6"])
    with pytest.raises(EvaluationError, match=r"row 0 is \('VD', 0, 1\)"):
        hallusionbench([("VD", 0, 1)])
    with pytest.raises(EvaluationError, match="row 0 has 'yes' as 'right'"):
        hallusionbench([("VD", 0, 0, 1, "yes")])
    with pytest.raises(EvaluationError, match="truth is 7: a text is needed"):
        text_accuracy(["7"], [7])


def test_scores_that_are_no_probabilities_are_not_calibrated():
    with pytest.raises(EvaluationError, match=r"numbers in \[0, 1\]"):
        expected_calibration_error([0.5, 1.5], [True, False])
    with pytest.raises(EvaluationError, match="equal length"):
        reliability_bins([0.5], [True, False])
    with pytest.raises(EvaluationError, match="not empty"):
        reliability_bins([], [])
    with pytest.raises(EvaluationError, match="True or False"):
        reliability_bins([0.5], [0.7])


def test_an_interval_needs_items_and_a_group_for_each():
    tally = metrics.rejection_tally([[], []])
    with pytest.raises(EvaluationError, match="got 0 items"):
        bootstrap(tally.score, 0)
    with pytest.raises(EvaluationError, match="1 groups for 2 items"):
        bootstrap(tally.score, 2, groups=["a"])
    with pytest.raises(EvaluationError, match=r"shape \(3,\) for 2 items"):
        tally.score([1, 1, 1])
    with pytest.raises(EvaluationError, match="above zero"):
        tally.score([0, 0])


def test_metrics_load_neither_torch_nor_the_scorer_of_average_precision():
    heavy = {"torch", "faster_coco_eval", "scipy"}
    code = f"import sys, vlm_fo1.eval.metrics; print(*({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
