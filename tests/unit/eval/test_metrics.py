"""Metrics against cases worked out by hand; boxes are written (x, y, width, height) here."""

import numpy as np
import pytest

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
    official_count,
    ovdeval_means,
    per_image_f1,
    pooled_f1,
    proposal_recall,
    reachable,
    refdrone,
    referring_accuracy,
    rejection,
    reliability_bins,
    semantic_iou,
    surviving,
    text_accuracy,
)

Q = (0, 0, 10, 10)


def at(x):
    return (x, 0, 10, 10)


def xyxy(*boxes):
    return [[x, y, x + width, y + height] for x, y, width, height in boxes]


def photo(truth, answer, **more):
    by_label = [{label: xyxy(*boxes) for label, boxes in side.items()} for side in (truth, answer)]
    return {"truth": by_label[0], "answer": by_label[1], **more}


def item(truth, answer):
    return {"truth": xyxy(*truth), "answer": answer if answer is None else xyxy(*answer)}


def f1s(half, most, mean):
    return pytest.approx({"f1@.5": half, "f1@.95": most, "f1_mean": mean}, abs=1e-6)


# --- overlap and referring


def test_half_of_a_box_overlaps_it_by_one_half():
    assert iou(xyxy(Q)[0], [0, 0, 10, 5]) == 0.5
    assert iou(xyxy(Q, at(20)), xyxy((0, 0, 10, 5))).tolist() == [[0.5], [0.0]]
    assert iou([], xyxy(Q)).shape == (0, 1)
    assert iou([0, 0, 0, 0], [0, 0, 0, 0]) == 0.0


def test_an_overlap_of_exactly_the_threshold_is_a_hit():
    assert referring_accuracy([xyxy((0, 0, 10, 5))], xyxy(Q))["accuracy"] == 1


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.8, 0.7, 333.3])
def test_moving_a_box_does_not_move_it_below_the_threshold_that_it_meets(shift):
    boxes = xyxy((shift, shift, 10, 6))
    assert referring_accuracy([boxes], xyxy((shift, shift, 10, 10)), at=0.6)["accuracy"] == 1


def test_the_first_box_counts_and_the_best_box_is_the_oracle():
    score = referring_accuracy([xyxy((0, 0, 20, 20), (10, 10, 20, 20))], xyxy((10, 10, 20, 20)))
    assert score == {"accuracy": 0, "oracle": 1, "several": 1}
    assert iou([0, 0, 20, 20], [10, 10, 30, 30]) == pytest.approx(100 / 700)


def test_two_of_four_expressions_are_right_without_a_box_and_with_a_poor_one():
    answers = [xyxy(Q), [], xyxy(Q), xyxy((0, 0, 10, 4))]
    assert referring_accuracy(answers, xyxy(Q, Q, Q, Q))["accuracy"] == 0.5


def test_an_expression_that_failed_is_wrong_even_for_the_oracle():
    score = referring_accuracy([None, xyxy(Q)], xyxy(Q, Q))
    assert score == {"accuracy": 0.5, "oracle": 0.5, "several": 0}


# --- F1 pooled by label

CAT = {"cat": [Q, at(20)], "dog": [(0, 20, 10, 10)]}
CAT_ANSWER = {"cat": [Q, (20, 0, 10, 6.2), (50, 50, 10, 10)], "dog": [(0, 20, 10, 10)]}
TRUCKS = [
    photo({"car": [Q]}, {"car": [Q], "truck": [(40, 40, 10, 10)]}),
    photo({"truck": [(20, 20, 10, 10)]}, {"truck": [(20, 20, 10, 9.2)]}),
]
HALF_FOUND = [
    photo({"person": [Q, at(20), at(40), at(60)], "bicycle": [Q, at(20)]},
          {"person": [Q, at(20), at(40)]})
]  # fmt: skip


@pytest.mark.parametrize(
    ("images", "variant", "expected"),
    [
        ([photo(CAT, CAT_ANSWER)], "all", (0.909091, 0.705882, 0.767027)),
        ([photo(CAT, CAT_ANSWER)], "present", (0.909091, 0.705882, 0.767027)),
        ([photo(CAT, CAT_ANSWER)], "published", (1.0, 0.857143, 0.904110)),
        (TRUCKS, "present", (1.0, 0.5, 0.95)),
        (TRUCKS, "all", (0.857143, 0.5, 0.822388)),
        (HALF_FOUND, "all", (0.428571, 0.428571, 0.428571)),
        (HALF_FOUND, "present", (0.428571, 0.428571, 0.428571)),
        (HALF_FOUND, "published", (0.857143, 0.857143, 0.857143)),
    ],
)
def test_pooled_f1_averages_labels_before_it_forms_f1(images, variant, expected):
    assert pooled_f1(images, variant) == f1s(*expected)


def test_the_published_f1_lets_a_label_inherit_the_precision_before_it():
    assert pooled_f1(TRUCKS, "published")["f1@.95"] == 1
    assert pooled_f1(TRUCKS, "published", labels=["truck", "car"])["f1@.95"] == 1
    first = photo({"a": [Q]}, {"a": [at(50), Q]})  # precision 1 / 2
    second = photo({"b": [Q]}, {"b": []})
    third = photo({"c": [Q]}, {"c": [Q]})
    orders = {("a", "b", "c"): (0.5 + 0.5 + 1) / 3, ("c", "b", "a"): (1 + 1 + 0.5) / 3}
    for labels, precision in orders.items():
        score = pooled_f1([first, second, third], "published", labels=labels)
        assert score["f1@.5"] == pytest.approx(2 * precision / (precision + 1))


def test_the_published_f1_compares_names_without_case_and_underscores():
    images = [photo({"Baseball_Bat": [Q]}, {"baseball bat": [Q]})]
    assert pooled_f1(images, "published")["f1_mean"] == 1
    assert pooled_f1(images, "all")["f1_mean"] == 0


def test_the_published_f1_looks_at_so_many_answers_of_a_label():
    images = [photo({"a": [Q]}, {"a": [*[at(50)] * 100, Q]})]
    assert pooled_f1(images, "published")["f1@.5"] == 0
    assert pooled_f1(images, "published", most=None)["f1@.5"] == pytest.approx(2 / 102)


def test_the_published_f1_forgives_false_answers_where_a_label_is_not_exhaustive():
    told = photo({"a": [Q]}, {"a": [at(50), Q]}, not_exhaustive=["a"])
    assert pooled_f1([told], "published")["f1@.5"] == 1
    plain = photo({"a": [Q]}, {"a": [at(50), Q]})
    assert pooled_f1([plain], "published")["f1@.5"] == pytest.approx(2 * 0.5 / 1.5)


def test_a_crowd_swallows_answers_that_then_count_neither_way():
    crowd = {"a": xyxy((100, 0, 100, 100))}
    inside = [(100, 0, 10, 10), (120, 0, 10, 10)]
    assert pooled_f1([photo({"a": [Q]}, {"a": [Q, *inside]}, crowd=crowd)])["f1_mean"] == 1
    half_out = photo({"a": [Q]}, {"a": [Q, (95, 0, 10, 10)]}, crowd=crowd)
    assert pooled_f1([half_out])["f1@.5"] == 1
    assert pooled_f1([half_out])["f1@.95"] == pytest.approx(2 * 0.5 / 1.5)


def test_a_label_with_a_crowd_alone_has_no_precision():
    with_crowd = photo({"a": [Q]}, {"a": [Q], "b": [at(500)]}, crowd={"b": xyxy(Q)})
    assert pooled_f1([with_crowd])["f1_mean"] == 1


def test_an_image_that_failed_has_found_nothing():
    images = [photo({"a": [Q]}, {"a": [Q]}), {"truth": {"a": xyxy(Q)}, "answer": None}]
    assert pooled_f1(images)["f1@.5"] == pytest.approx(2 * 0.5 / 1.5)
    assert pooled_f1(images[1:])["f1@.5"] == 0


def test_without_an_object_there_is_no_pooled_f1():
    nothing = {"f1@.5": None, "f1@.95": None, "f1_mean": None}
    for variant in ("all", "present", "published"):
        assert pooled_f1([photo({}, {"a": [Q]})], variant) == nothing


# --- F1 of images


def test_the_mean_of_per_image_f1_is_the_mean_of_ten():
    images = [
        photo({"cat": CAT["cat"]}, {"cat": CAT_ANSWER["cat"]}),
        photo({"cat": [Q]}, {"cat": [Q]}),
    ]
    for labels in ("aware", "blind"):
        assert per_image_f1(images, labels) == f1s(0.909091, 0.705882, 0.766845)


def test_a_truck_called_car_is_found_by_those_who_do_not_read_labels():
    images = [photo({"car": [Q]}, {"truck": [Q]}), photo({}, {}), photo({}, {"car": [Q]})]
    assert per_image_f1(images, "blind") == f1s(2 / 3, 2 / 3, 2 / 3)
    assert per_image_f1(images, "aware") == f1s(1 / 3, 1 / 3, 1 / 3)


def test_objects_in_order_take_what_a_later_one_needs():
    images = [photo({"a": [Q, at(4)]}, {"a": [at(3)]})]
    assert per_image_f1(images)["f1_mean"] == pytest.approx(7 * (2 / 3) / 10)
    images = [photo({"a": [Q, at(4)]}, {"a": [at(3), (-3.1, 0, 10, 10)]})]
    assert per_image_f1(images)["f1@.5"] == 0.5
    assert per_image_f1(images)["f1_mean"] == pytest.approx(0.35)


def test_an_image_without_objects_that_failed_is_not_one_without_boxes():
    failed = {"truth": {}, "answer": None}
    assert per_image_f1([failed]) == f1s(0, 0, 0)
    assert per_image_f1([photo({}, {})]) == f1s(1, 1, 1)
    assert per_image_f1([failed, photo({}, {"a": []})]) == f1s(0.5, 0.5, 0.5)


# --- HumanRef

HUMANREF = [
    (item([Q, at(20)], [Q, at(20), at(100), at(200)]), (0.5, 1, 1 / 3)),
    (item([Q, at(20)], [Q]), (1, 0.5, 2 / 3)),
    (item([Q], [(0, 0, 10, 7.7)]), (0.6, 0.6, 0.6)),
]


@pytest.mark.parametrize(("entry", "expected"), HUMANREF)
def test_df1_pays_for_boxes_too_many(entry, expected):
    assert tuple(humanref([entry]).values()) == pytest.approx(expected)


def test_humanref_is_a_mean_over_items():
    score = humanref([entry for entry, _ in HUMANREF])
    expected = {"precision": 0.7, "recall": 0.7, "df1": 1.6 / 3}
    assert score == pytest.approx(expected)
    with_failed = humanref([*(entry for entry, _ in HUMANREF), item([Q], None)])
    assert with_failed == pytest.approx({key: value * 0.75 for key, value in expected.items()})


def test_a_failed_run_is_no_rejection():
    assert rejection([[], [[]], xyxy(Q), None]) == 0.5


# --- gRefCOCO

GREC = [
    item([Q, at(20)], [Q, at(20)]),
    item([Q, at(20)], [Q, at(20), at(50)]),
    item([], []),
    item([], [Q]),
    item([Q], []),
]


def test_grec_counts_exactly_right_answers():
    assert grec(GREC) == pytest.approx({"pr": 0.4, "n_acc": 0.5, "t_acc": 2 / 3})


def test_the_official_grec_compares_generalised_iou():
    shifted = [item([Q], [(1.8, 1.8, 10, 10)])]
    assert iou(shifted[0]["truth"][0], shifted[0]["answer"][0]) == pytest.approx(67.24 / 132.76)
    assert grec(shifted)["pr"] == 1
    assert grec(shifted, overlap="giou")["pr"] == 0


def test_grec_items_that_failed_are_wrong_and_shares_of_nothing_are_none():
    assert grec([item([], None)]) == {"pr": 0, "n_acc": 0, "t_acc": None}
    assert grec([item([Q], None)]) == {"pr": 0, "n_acc": None, "t_acc": 0}


def masks(intersection, union, truth_area, answer_area):
    return {"intersection": intersection, "union": union, "truth_area": truth_area,
            "answer_area": answer_area}  # fmt: skip


def test_gres_adds_a_false_mask_to_the_union():
    score = gres([masks(30, 60, 45, 45), masks(0, 0, 0, 0), masks(0, 20, 0, 20)])
    assert score == {"giou": 0.5, "ciou": 0.375, "n_acc": 0.5, "t_acc": 1, "pr@.7": 0}


def test_gres_items_that_failed_are_wrong():
    score = gres([masks(30, 30, 30, 30), masks(None, None, 50, None), masks(0, 0, 0, None)])
    assert score == {"giou": 1 / 3, "ciou": 30 / 80, "n_acc": 0, "t_acc": 0.5, "pr@.7": 0.5}


# --- RefDrone


def drone(f1_instance, acc_instance, f1_image, acc_image):
    return pytest.approx({"f1_instance": f1_instance, "acc_instance": acc_instance,
                          "f1_image": f1_image, "acc_image": acc_image}, abs=1e-6)  # fmt: skip


def test_refdrone_counts_an_alarm_once_and_an_inexact_image_as_missed():
    three = [Q, at(20), at(40)]
    items = [
        item(three, [*three, at(60)]),
        item([Q], [Q]),
        item([], []),
        item([], [at(k * 20) for k in range(5)]),
    ]
    assert refdrone(items) == drone(0.8, 5 / 7, 0.5, 0.5)
    items = [item([Q, at(20)], []), item([Q, at(20)], [Q, at(50)]), item([], [])]
    assert refdrone(items) == drone(1 / 3, 1 / 3, 0, 1 / 3)


def test_refdrone_takes_the_best_pair_of_all_first():
    assert refdrone([item([Q, at(4)], [at(3), (-3.1, 0, 10, 10)])]) == drone(1, 1, 1, 1)


def test_refdrone_items_that_failed_are_missed_or_an_alarm():
    assert refdrone([item([Q, at(20)], None), item([], None), item([Q], [Q])]) == drone(
        2 / 5, 1 / 4, 2 / 4, 1 / 3
    )


# --- OVDEval and averages


def ap_image(truth, answer, scores):
    return photo(truth, answer, scores=scores)


def test_of_two_names_for_one_object_the_surer_survives():
    assert nms_survivors(xyxy(Q), xyxy((0, 0, 10, 9), Q), [0.9, 0.8]) == [0]
    answer = {"red car": [(0, 0, 10, 9)], "blue car": [Q]}
    asked = ap_image({"blue car": [Q]}, answer, {"red car": [0.9], "blue car": [0.8]})
    assert average_precision([asked])["ap"] == pytest.approx(1)
    assert average_precision([surviving(asked)])["ap"] == 0


def test_what_overlaps_no_object_survives():
    boxes = xyxy((0, 0, 10, 9), (100, 0, 10, 9), (50, 50, 9, 9))
    assert nms_survivors(xyxy(Q, at(100)), boxes, [0.5, 0.7, 0.9]) == [0, 1, 2]
    assert nms_survivors([], boxes, [0.5, 0.7, 0.9]) == [0, 1, 2]
    assert nms_survivors(xyxy(Q), [], []) == []


def test_what_one_object_keeps_another_cannot_remove():
    assert nms_survivors(xyxy(Q, (0, 0, 10, 5)), xyxy(Q, (0, 0, 10, 6)), [0.9, 0.5]) == [0, 1]


def test_of_equal_scores_the_last_survives():
    assert nms_survivors(xyxy(Q), xyxy(Q, Q, Q), [0.5, 0.5, 0.4]) == [1]


def test_an_overlap_of_exactly_one_half_is_no_rival():
    assert nms_survivors(xyxy(Q), xyxy(Q, (0, 0, 10, 5)), [0.9, 0.5]) == [0, 1]


def test_ovdeval_has_two_averages():
    names = ["coco", "logo", "landmark", "celebrity", "color", "material", "position",
             "relationship", "negation"]  # fmt: skip
    glip = dict(zip(names, [48.9, 10.2, 20.3, 4.6, 3.7, 7.4, 30.9, 10.0, 29.3], strict=True))
    dino = dict(zip(names, [52.5, 10.3, 15.1, 0.7, 9.4, 9.0, 67.5, 10.7, 52.5], strict=True))
    vlm_r1 = dict(zip(names[1:], [34.6, 47.9, 55.0, 4.5, 9.7, 42.9, 21.5, 37.7], strict=True))
    assert ovdeval_means(glip) == pytest.approx({"nine_mean": 18.366667, "five_aspect": 17.49})
    assert ovdeval_means(dino) == pytest.approx({"nine_mean": 25.3, "five_aspect": 29.72})
    assert ovdeval_means(vlm_r1)["five_aspect"] == pytest.approx(31.006667)
    assert ovdeval_means(vlm_r1)["nine_mean"] is None


def named(values):
    return dict(zip("abcdefghijklm", values, strict=False))


def test_means_over_sets_are_plain():
    splits = named([91.15, 93.74, 87.56, 86.44, 90.5, 80.57, 88.87, 88.34])
    assert mean_of(splits, list(splits)) == pytest.approx(88.39625)
    odinw = named([40, 50, 60, 70, 30, 55, 65, 45, 35, 80, 25, 48, 52])
    assert mean_of(odinw, list(odinw)) == pytest.approx(655 / 13)
    eight = {
        "Qwen2.5-VL-3B": ([76.8, 81.4, 56.3, 46.6, 82.8, 61.2, 60, 51.2], 64.5375),
        "FO1": ([78.2, 81.2, 56.9, 47.9, 82.3, 65.6, 54.9, 49.9], 64.6125),
    }
    for values, expected in eight.values():
        assert mean_of(named(values), list("abcdefgh")) == pytest.approx(expected)


# --- words, text, counts


@pytest.mark.parametrize(
    ("prediction", "category", "expected"),
    [
        ("wooden baseball bat", "baseball_bat", 2 / 3),
        ("A red Car.", "car_(automobile)", 1 / 4),
        ("It is: a dog.", "dog", 1 / 2),
        ("tennis_racket", "tennis_racket", 0),
        ("Answer: it: dog", "dog", 0),
        ("car", "car_(automobile)", 1 / 2),
        ("", "dog", 0),
        (None, "dog", 0),
    ],
)
def test_words_are_compared_as_sets(prediction, category, expected):
    assert semantic_iou(prediction, category) == pytest.approx(expected)


def test_texts_are_cleaned_as_by_the_official_scorer():
    assert metrics.clean_prediction("It is: a dog.") == "a dog"
    assert metrics.clean_prediction("Answer: it: dog") == "it"
    assert metrics.clean_prediction(" A red Car. ") == "A red Car"
    assert metrics.clean_prediction("tennis_racket") == "tennis_racket"
    assert metrics.clean_category("car_(automobile)") == "car (automobile)"
    assert metrics.clean_category("dog:left_ear") == "dog left ear"


def test_read_text_is_right_whatever_its_case_but_not_its_punctuation():
    assert text_accuracy(["stop", "EXIT 12."], ["STOP", "Exit 12"]) == 0.5
    assert text_accuracy(["time: 10", None], ["Time: 10", "7"]) == 0.5
    answers = ["stop", "EXIT 12.", "time: 10", None, " cafe "]
    assert text_accuracy(answers, ["STOP", "Exit 12", "Time: 10", "7", "cafe"]) == 0.6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There are 7 <ground>apples</ground><objects><region3><region12></objects>.", 7),
        ("<ground>2 door car</ground><objects><region1><region4><region9></objects>"
         " There are 3 in total.", 2),
        ("There are five dogs.", 0),
        ("<region4><region5> 10 people", 10),
        ("see region12", 2),
        ("region 5 and 6", 5),
        ("\u0663 cats", 3),  # digits of any script, as the official pattern has them
        ("<region\uff13>\uff14 cats", 4),
        ("9" * 5000, int("9" * 4000)),  # a model that repeats itself stops no scoring
        ("", 0),
        (None, 0),
    ],
)  # fmt: skip
def test_the_official_count_is_the_first_number_outside_the_tags(text, expected):
    assert official_count(text) == expected


@pytest.mark.parametrize(
    ("pairs", "score", "unreadable"),
    [
        ([(8, 6), (9, 9), (7, 7)], 91.7, 0),
        ([(8, 6), None, (7, 7)], 86.7, 1),
        (np.array([[8, 6], [7, 7]]), 86.7, 0),
        ([(8, 6), (-1, -1), (7, 7)], 86.7, 1),
        ([(9, 8), (8, 9), (10, 5), (7, 7)], 85.3, 0),
        ([None], None, 1),
    ],
)
def test_the_ferret_score_leaves_out_what_cannot_be_read(pairs, score, unreadable):
    assert ferret_score(pairs) == {"score": score, "unreadable": unreadable}


def test_hallusionbench_is_the_mean_of_questions_figures_and_both():
    rows = [("VD", 0, 0, 0, 1), ("VD", 0, 0, 1, 1), ("VD", 0, 1, 0, 1), ("VD", 0, 1, 1, 0),
            ("VS", 1, 0, 0, 1), ("VS", 1, 0, 1, 1)]  # fmt: skip
    expected = {"aAcc": 500 / 6, "fAcc": 200 / 3, "qAcc": 75, "mean": 75}
    assert hallusionbench(rows) == pytest.approx(expected)
    keys = ("category", "set", "figure", "question", "right")
    assert hallusionbench([dict(zip(keys, row, strict=True)) for row in rows]) == hallusionbench(
        rows
    )
    failed = [(*row[:4], row[4] or None) for row in rows]
    assert hallusionbench(failed) == hallusionbench(rows)


# --- hallucination

SEEN = [
    photo(
        {"person": [Q, at(20), at(40)]},
        {"person": [Q, at(20), at(40)], "car": [Q, at(9)], "bus": []},
    ),
    photo({"car": [Q]}, {"car": [Q, at(50)], "dog": []}),
]


def test_false_boxes_are_pooled_over_images():
    assert false_positives_per_truth(SEEN) == {"absent": 50, "all": 75}
    without = photo({}, {"ship": [Q]})
    assert false_positives_per_truth([*SEEN, without]) == {"absent": 75, "all": 100}
    few = photo({"a": [Q]}, {"a": [Q], "b": [Q]})
    many = photo({"a": [at(20 * k) for k in range(9)]}, {"a": [at(20 * k) for k in range(9)]})
    assert false_positives_per_truth([few, many]) == {"absent": 10, "all": 10}


def test_failing_is_worse_than_answering_nothing():
    nothing = false_positives_per_truth([photo({"a": [Q]}, {})])
    failed = false_positives_per_truth([{"truth": {"a": xyxy(Q)}, "answer": None}])
    assert nothing == {"absent": 0, "all": 0}
    assert failed == {"absent": 100, "all": 100}
    assert false_positives_per_truth([photo({}, {})]) == {"absent": None, "all": None}


# --- average precision


@pytest.mark.parametrize(
    ("boxes", "expected"), [([(50, 50, 10, 10), Q], 0.5), ([Q, (50, 50, 10, 10)], 1)]
)
def test_ap_of_equal_scores_depends_on_their_order(boxes, expected):
    score = average_precision([ap_image({"a": [Q]}, {"a": boxes}, {"a": [1, 1]})])
    assert score["ap"] == pytest.approx(expected)


def test_lvis_looks_at_three_hundred_answers_of_an_image_over_all_labels():
    answer = {"one": [*[at(100)] * 300, Q], "two": [Q]}
    scores = {"one": [*[0.9] * 300, 0.95], "two": [0.5]}
    images = [ap_image({"one": [Q], "two": [Q]}, answer, scores)]
    assert average_precision(images, "lvis")["ap"] == pytest.approx(0.5)
    assert average_precision(images, "coco")["ap"] == pytest.approx(1)


# --- proposals, intervals, calibration


def test_recall_of_proposals_asks_for_no_name():
    images = [
        {"truth": xyxy(Q, at(20)), "proposals": xyxy((0, 0, 10, 8), at(50))},
        {"truth": xyxy(Q), "proposals": None},
    ]
    expected = {"recall@.5": 1 / 3, "recall@.75": 1 / 3, "recall@.95": 0}
    assert proposal_recall(images) == pytest.approx(expected)
    images[0]["proposals"].reverse()
    assert proposal_recall(images, most=1)["recall@.5"] == 0


def test_the_best_answer_names_the_best_proposal_of_each_object_within_reach():
    proposals = xyxy((0, 0, 10, 8), Q, (20, 0, 10, 4))
    assert reachable(xyxy(at(20), Q, (0, 0, 10, 9.9)), proposals) == [1]
    assert reachable([], proposals) == []
    assert reachable(xyxy(Q), []) == []


def test_intervals_hold_the_score_and_repeat_with_their_seed():
    tally = metrics.referring_tally([xyxy(Q)] * 60 + [[]] * 40, xyxy(*[Q] * 100))
    ends = bootstrap(tally.score, 100, seed=3)
    low, high = ends["accuracy"] or (0, 0)
    assert low < 0.6 < high
    assert 0.15 < high - low < 0.25  # 2 x 1.96 x sqrt(.6 x .4 / 100) = .192
    assert ends == bootstrap(tally.score, 100, seed=3)
    assert ends != bootstrap(tally.score, 100, seed=4)


def test_sentences_of_one_image_are_drawn_together():
    answers = [xyxy(Q)] * 50 + [[]] * 50
    tally = metrics.referring_tally(answers, xyxy(*[Q] * 100))
    ends = bootstrap(tally.score, 100, groups=["a"] * 50 + ["b"] * 50)
    assert ends["accuracy"] == (0, 1)


def test_an_interval_of_a_value_without_a_denominator_is_none():
    tally = metrics.grec_tally([item([Q], [Q])])
    assert bootstrap(tally.score, 1)["n_acc"] is None
    assert bootstrap(tally.score, 1)["pr"] == (1, 1)


def test_a_resample_of_pooled_f1_is_the_f1_of_its_images():
    images = [*TRUCKS, *HALF_FOUND, photo(CAT, CAT_ANSWER)]
    weights = [2, 0, 1, 3]
    drawn = [images[k] for k, times in enumerate(weights) for _ in range(times)]
    for variant in ("all", "present"):
        tally = metrics.pooled_f1_tally(images, variant)
        assert tally.score(weights) == pytest.approx(pooled_f1(drawn, variant))
        assert tally.score() == pooled_f1(images, variant)


def test_calibration_compares_scores_with_what_is_right():
    scores, right = [0.05, 0.95, 0.95, 1.0, 0.1], [False, True, True, False, True]
    bins = reliability_bins(scores, right)
    assert [row["count"] for row in bins] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert bins[9]["accuracy"] == pytest.approx(2 / 3)
    assert bins[9]["score"] == pytest.approx(2.9 / 3)
    assert bins[2]["accuracy"] is None
    expected = (0.05 + 0.9 + 3 * (2.9 / 3 - 2 / 3)) / 5
    assert expected_calibration_error(scores, right) == pytest.approx(expected)
    assert expected_calibration_error([1, 1, 0], [True, True, False]) == 0
