"""Scores, presence, fusion and calibration as functions of arrays, and answers chosen by them."""

import json

import numpy as np
import pytest

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.errors import ConfigError
from vlm_fo1.eval.metrics import expected_calibration_error as ece
from vlm_fo1.markup import scan
from vlm_fo1.merging import merge_answers, merge_groups
from vlm_fo1.parser import parse
from vlm_fo1.regions import Regions
from vlm_fo1.scores import (
    Calibration,
    ListScore,
    Pairs,
    fit,
    fit_temperature,
    fuse,
    list_scores,
    presence,
    tempered,
)
from vlm_fo1.tasks import Task, ask_labels

NAN = float("nan")
STEPS = np.array([[0.9, 0.05, 0.0], [0.01, 0.8, 0.1], [0.0, 0.01, 0.3]], np.float32)
BOXES = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]], np.float32)
"""The first two overlap by 0.82."""


def offered(**fields):
    return Regions(BOXES, (64, 60), **fields)


def answered(rows, mentions=(), labels=("cat", "dog"), **fields) -> Answer:
    regions = fields.pop("regions", offered())
    scores = None if rows is None else np.array(rows, np.float32)
    return Answer("said", regions, mentions, labels=labels, scores=scores, **fields)


# --- formulas -------------------------------------------------------------------------------------


def test_a_score_is_the_largest_over_the_steps_of_a_list_or_that_any_of_them_was_right():
    assert list_scores(STEPS) == pytest.approx([0.9, 0.8, 0.3])
    either = [1 - 0.1 * 0.99, 1 - 0.95 * 0.2 * 0.99, 1 - 0.9 * 0.7]
    assert list_scores(STEPS, "noisy_or") == pytest.approx(either)
    assert list_scores(np.zeros((0, 2), np.float32)).tolist() == [0, 0]


def test_presence_weighs_the_tags_of_the_first_step_against_nothing():
    assert presence(np.array([0.3, 0.3], np.float32), 0.2) == pytest.approx(0.75)
    assert presence(np.zeros(0, np.float32), 0.2) == 0
    assert np.isnan(presence(np.zeros(2, np.float32), 0.0))


def test_scores_are_fused_where_the_proposer_gave_some():
    scores = np.array([[0.25, 0.81, NAN]], np.float32)
    proposals = np.array([1.0, NAN, 0.5], np.float32)
    geometric = fuse(scores, proposals)
    assert geometric[0, :2] == pytest.approx([0.5, 0.81])
    assert np.isnan(geometric[0, 2])
    assert fuse(scores, proposals, weight=1.0)[0, :2] == pytest.approx([1.0, 0.81])
    assert fuse(scores, proposals, "proposal")[0, :2] == pytest.approx([1.0, 0.81])
    assert np.isnan(fuse(scores, proposals, "proposal")[0, 2])
    for same in (fuse(scores, proposals, "none"), fuse(scores, None, "geometric")):
        assert np.array_equal(same, scores, equal_nan=True)


def test_a_temperature_moves_scores_to_or_from_a_half_and_keeps_their_order():
    scores = np.array([0, 0.2, 0.5, 0.9, 1], np.float32)
    cool, warm = tempered(scores, 0.5), tempered(scores, 2)
    assert cool[1:4] == pytest.approx([1 / 17, 0.5, 81 / 82])
    assert warm[1:4] == pytest.approx([1 / 3, 0.5, 0.75])
    assert (np.diff(cool) > 0).all()
    assert (np.diff(warm) > 0).all()
    assert np.array_equal(tempered(scores, 1), scores)
    assert np.isnan(tempered(np.array([NAN]), 2)).all()


def overconfident(seed, pairs=4000):
    """Scores whose logits are three times too large, and what is true."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, pairs)
    true = rng.random(pairs) < 1 / (1 + np.exp(-logits))
    return (1 / (1 + np.exp(-3 * logits))).astype(np.float32), true


def test_a_temperature_fitted_on_one_set_calibrates_another():
    temperature = fit_temperature(*overconfident(0))
    assert temperature == pytest.approx(3, rel=0.1)
    scores, true = overconfident(1)
    assert ece(scores, true) > 0.12
    assert ece(tempered(scores, temperature), true) < 0.03


def test_a_fitted_fusion_weighs_the_proposer_by_what_it_knows():
    rng = np.random.default_rng(3)
    true = rng.random(3000) < 0.5
    knows = np.where(true, 0.9, 0.1).astype(np.float32)
    guesses = rng.random(3000).astype(np.float32)
    of_model = fit(Pairs(knows, true, guesses), fusion="geometric")
    of_proposer = fit(Pairs(guesses, true, knows), fusion="geometric")
    assert of_model.weight < 0.2
    assert of_proposer.weight > 0.8
    assert fit(Pairs(knows, true)).fusion == "none"


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    made = Calibration(temperature=2.5, fusion="geometric", weight=0.25, measured={"ece": 0.01})
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(made.to_dict()))
    assert Calibration.read(file) == made


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": 0}, "calibration.json: temperature is 0.0: a number above 0 is needed"),
        ({"temperature": "hot"}, "temperature = 'hot'"),
        ({"presence_temperature": -1}, "presence_temperature is -1"),
        ({"fusion": "sum"}, "fusion = 'sum': it must be one of"),
        ({"weight": 2}, "weight is 2.0: a number from 0 to 1"),
        ({"temprature": 2}, "unknown key 'temprature': did you mean 'temperature'"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused_with_its_file(tmp_path, values, said):
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=said):
        Calibration.read(file)


# --- from text to scores --------------------------------------------------------------------------


def test_each_mention_knows_which_opening_of_a_list_is_its_own():
    text = (
        "<ground>a</ground> b <ground>c</ground><objects><objects><region1></objects>"
        "<ground>d</ground><objects>None</objects>"
    )
    assert [(m.label, m.opened) for m in scan(text).mentions] == [("c", 0), ("d", 2)]
    assert scan("<region1>").mentions[0].opened is None


def test_a_label_scores_what_its_lists_say_and_what_was_not_listed_is_unknown():
    question = ask_labels(Task.DETECTION, ["cat", "dog", "owl"])
    text = (
        "<ground>a dog</ground><objects><region2></objects><ground>cat</ground><objects>None"
        "</objects><ground>dog</ground><objects><region0></objects><ground>fox</ground><objects>"
    )
    lists = {
        0: ListScore(np.array([0.1, NAN, 0.9], np.float32), 0.8),
        1: ListScore(np.array([0.2, NAN, 0.1], np.float32), 0.3),
        2: ListScore(np.array([0.7, NAN, 0.2], np.float32), 0.9),
    }
    answer = parse(text, offered(), question, lists=lists)
    assert list(answer) == ["cat", "dog", "owl", "fox"]
    assert answer.scores is not None
    rows = [[0.2, NAN, 0.1], [0.7, NAN, 0.9], [NAN] * 3, [NAN] * 3]
    assert answer.scores.tolist() == [pytest.approx(row, nan_ok=True) for row in rows]
    assert answer.presence == {"cat": 0.3, "dog": 0.9}
    assert answer.scores_of(" dog ").tolist() == pytest.approx([0.7, NAN, 0.9], nan_ok=True)
    plain = parse(text, offered(), question)
    assert (plain.scores, plain.presence) == (None, {})
    assert np.isnan(plain.scores_of("cat")).all()


# --- merging --------------------------------------------------------------------------------------


def test_a_region_seen_in_two_windows_has_the_larger_score():
    left = answered([[0.3, 0.9, NAN], [0.5, NAN, NAN]], presence={"cat": 0.6})
    right = answered(
        [[0.4, NAN, 0.2], [NAN, NAN, NAN], [0.1, 0.1, 0.1]], (Mention("owl", (0,)),),
        presence={"cat": 0.2, "owl": 1.0},
    )  # fmt: skip
    merged = merge_answers([left, right])
    assert list(merged) == ["cat", "dog", "owl"]
    assert merged.scores is not None
    rows = [[0.4, 0.9, 0.2], [0.5, NAN, NAN], [0.1, 0.1, 0.1]]
    assert merged.scores.tolist() == [pytest.approx(row, nan_ok=True) for row in rows]
    assert merged.presence == {"cat": 0.6, "owl": 1.0}
    assert merge_answers([answered(None), answered(None)]).scores is None


def test_a_label_scores_what_was_said_where_it_was_asked():
    first = answered([[0.3, 0, 0], [0.9, 0.9, 0.9]], (Mention("dog", (0,)),), ("cat",))
    second = answered([[0.1, 0.2, 0.3]], (), ("dog",))
    merged = merge_groups([first, second])
    assert list(merged) == ["cat", "dog"]
    assert merged.scores is not None
    assert merged.scores.tolist() == [pytest.approx([0.3, 0, 0]), pytest.approx([0.1, 0.2, 0.3])]


# --- thresholds without the model -----------------------------------------------------------------

SAID = (Mention("cat", (2, 0), (0.5, 0.75)), Mention("dog", (1,), (0.4,)))
ROWS = [[0.9, 0.8, 0.1], [0.2, 0.6, NAN]]


def picked(answer, **bounds):
    return [(m.label, m.indices, m.confidence) for m in answer.select(**bounds).mentions]


def test_without_a_bound_the_regions_that_were_named_stay_best_first():
    answer = answered(ROWS, SAID)
    assert picked(answer) == [("cat", (0, 2), (0.75, 0.5)), ("dog", (1,), (0.4,))]


def test_a_least_score_takes_what_scores_it_named_or_not():
    answer = answered(ROWS, SAID)
    cat, dog = picked(answer, min_score=0.5)
    assert cat[:2] == ("cat", (0, 1))
    assert cat[2] == pytest.approx((0.75, NAN), nan_ok=True)
    assert dog == ("dog", (1,), (0.4,))
    assert picked(answer, min_score=0.0)[1][1] == (1, 0)  # an unknown score is not 0
    assert picked(answer, min_score=1.0) == [("cat", (), None), ("dog", (), None)]


def test_bounds_on_presence_number_and_overlap_each_leave_some_out():
    answer = answered(ROWS, SAID, presence={"dog": 0.3})
    assert picked(answer, min_presence=0.5)[1] == ("dog", (), None)
    assert picked(answer, min_presence=0.3)[1] == ("dog", (1,), (0.4,))
    assert picked(answer, min_score=0.05, max_per_label=1)[0][1] == (0,)
    assert picked(answer, min_score=0.05, nms_iou=0.7)[0][1] == (0, 2)
    spread = answered(ROWS, SAID, windows=2)
    assert picked(spread, min_score=0.05)[0][1] == (0, 2)
    assert picked(spread, min_score=0.05, nms_iou=1.0)[0][1] == (0, 1, 2)


def test_the_count_follows_the_selection_and_the_text_stays():
    answer = answered(ROWS, SAID, count=7, plain="7 cats")
    chosen = answer.select(min_score=0.7)
    assert (chosen.count, chosen.text, chosen.plain) == (2, "said", "7 cats")
    assert answered(ROWS, SAID).select(min_score=0.7).count is None
    assert np.array_equal(chosen.scores_of("dog"), answer.scores_of("dog"), equal_nan=True)


@pytest.mark.parametrize(
    ("answer", "bounds", "said"),
    [
        (answered(None, SAID), {"min_score": 0.5}, "this answer has no scores to select by"),
        (answered(ROWS, SAID), {"min_score": 50.0}, "min_score is 50.0: a number from 0 to 1"),
        (answered(ROWS, SAID), {"min_presence": NAN}, "min_presence is nan"),
        (answered(ROWS, SAID), {"max_per_label": 0}, "max_per_label is 0: at least 1"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(answer, bounds, said):
    with pytest.raises(ConfigError, match=said):
        answer.select(**bounds)


def test_exports_and_drawings_take_the_score_where_it_is_known():
    answer = answered(
        [[0.9, 0.8, 0.1], [0.2, NAN, NAN]], SAID,
        regions=offered(scores=np.array([0.3, 0.4, 0.5], np.float32)),
    )  # fmt: skip
    assert [box["score"] for box in answer.to_coco(1)] == [0.1, 0.9, 0.4]
    assert [box["score"] for box in answer.to_coco(1, score="confidence")] == [0.5, 0.75, 0.4]
    assert [box["score"] for box in answer.to_coco(1, score="proposal")] == [0.5, 0.3, 0.4]
    assert answer._sure(SAID[0]) == pytest.approx([0.1, 0.9])
    assert answer._sure(SAID[1]) == pytest.approx([0.4])


def test_a_saved_answer_is_read_back_with_its_scores():
    regions = offered(
        scores=np.array([0.3, NAN, 0.5], np.float32), masks=np.ones((3, 60, 64), bool)
    )
    answer = answered(
        [*ROWS, [NAN] * 3], (*SAID, Mention("owl", ())), ("cat", "dog", "owl"),
        regions=regions, presence={"cat": 0.5}, count=2, windows=2, problems=("p",), thought="t",
    )  # fmt: skip
    saved = json.loads(answer.to_json(masks=True))
    again = Answer.from_dict({"file": "a.jpg", **saved})
    assert again.to_dict(masks=True) == saved
    assert picked(again, min_score=0.5) == picked(answer, min_score=0.5)
    with pytest.raises(ConfigError, match="this is no saved answer: KeyError"):
        Answer.from_dict({"file": "a.jpg", "error": "broken"})


def test_a_calibration_changes_scores_and_presences_and_nothing_else():
    regions = offered(scores=np.array([1.0, 0.25, 0.5], np.float32))
    answer = answered(ROWS, SAID, presence={"cat": 0.9}, regions=regions)
    cool = Calibration(temperature=2, presence_temperature=0.5, fusion="geometric", weight=0.5)
    changed = answer.calibrated(cool)
    fused = np.array([0.9, 0.8 * 0.25]) ** 0.5
    odds = (fused / (1 - fused)) ** 0.5
    assert changed.scores_of("cat")[:2] == pytest.approx(odds / (1 + odds))
    assert np.isnan(changed.scores_of("dog")[2])
    assert changed.presence == {"cat": pytest.approx(81 / 82)}
    assert (changed.mentions, changed.problems) == (answer.mentions, ())
    assert answer.calibrated(Calibration()) is answer


@pytest.mark.parametrize(
    ("scores", "what"),
    [
        (None, "no scores"),
        ([95, 25, 50], "scores that are not from 0 to 1"),
        ([0.5, NAN, 0.5], "scores that are not from 0 to 1"),
    ],
)
def test_a_fusion_without_scores_of_a_proposer_changes_none_and_says_so(scores, what):
    regions = offered(scores=None if scores is None else np.array(scores, np.float32))
    fusing = Calibration(temperature=0.5, fusion="geometric")
    changed = answered(ROWS, SAID, regions=regions).calibrated(fusing)
    assert changed.scores_of("cat") == pytest.approx(ROWS[0])
    said = f"scores are not calibrated: that wants a proposer's, and the regions have {what}"
    assert changed.problems == (said,)
    assert changed.calibrated(Calibration(temperature=2)).problems == (said,)
