"""Figures of answers, against values worked out by hand."""

import numpy as np
import pytest

from vlm_fo1.data.answers import count_answer, label_answer
from vlm_fo1.errors import ConfigError
from vlm_fo1.parser import parse
from vlm_fo1.regions import Regions
from vlm_fo1.tasks import Task, ask_labels, ask_regions
from vlm_fo1.train.config import EvaluationConfig
from vlm_fo1.train.figures import figures_of, flat, from_flat, judge, summary
from vlm_fo1.train.standing import Standing

REGIONS = Regions(np.array([[k, 0, k + 5, 5] for k in range(6)], np.float32), (20, 20))


def judged(question, truth, *said):
    right = parse(truth, REGIONS, question)
    parts = [judge(right, parse(text, REGIONS, question)) for text in said]
    return figures_of({str(question.task): sum(parts[1:], parts[0])})


def test_detection_counts_regions_with_their_labels_and_absent_labels_kept_silent():
    question = ask_labels(Task.DETECTION, ["dog", "cat", "cow"])
    truth = label_answer({"dog": [0, 1], "cat": [2], "cow": []})
    # Once 0 is a dog, 2 a dog and not a cat, 5 a cow; once all is right.
    found = judged(
        question, truth, label_answer({"dog": [0, 2], "cat": [], "cow": [5]}), truth
    )  # fmt: skip
    hits, pointed, wanted = 1 + 3, 3 + 3, 3 + 3
    assert found["detection.precision"] == pytest.approx(hits / pointed)
    assert found["detection.recall"] == pytest.approx(hits / wanted)
    assert found["detection.f1"] == pytest.approx(2 * hits / (pointed + wanted))
    assert found["detection.absent"] == 0.5  # cow, twice
    assert found["answers"] == found["detection.f1"]


def test_counting_is_exact_or_off_by_so_many():
    question = ask_labels(Task.COUNTING, "dogs")
    truth = count_answer("dogs", [0, 1])
    found = judged(
        question, truth, count_answer("dogs", [3, 4]), count_answer("dogs", [0, 1, 2, 3, 4])
    )
    assert found["counting.exact"] == 0.5
    assert found["counting.error"] == 1.5  # of 0 and 3
    assert found["counting.f1"] == pytest.approx(2 * 2 / (2 + 5 + 2 + 2))


@pytest.mark.parametrize(
    ("task", "question"),
    [
        (Task.REFERRING, ask_labels(Task.REFERRING, "the left dog")),
        (Task.VISUAL_PROMPT, ask_regions(Task.VISUAL_PROMPT, [5], 6)),
    ],
)
def test_regions_that_a_phrase_means_are_judged_whatever_they_are_called(task, question):
    found = judged(
        question, label_answer({"the left dog": [0, 1]}),
        label_answer({"thing": [1, 0]}), label_answer({"the left dog": [2]}),
    )  # fmt: skip
    assert found[f"{task}.f1"] == pytest.approx(2 * 2 / (2 + 1 + 2 + 2))
    assert found[f"{task}.exact"] == 0.5


def test_texts_are_compared_without_case_blanks_and_a_last_full_stop():
    question = ask_regions(Task.BRIEF_CAPTION, [0], 6)
    found = judged(question, "a red car", "A red  car.", "a blue car", "")
    assert found["brief_caption.exact"] == pytest.approx(1 / 3)
    assert found["brief_caption.words"] == pytest.approx((1 + 4 / 6 + 0) / 3)
    question = ask_regions(Task.REGION_OCR, [0], 6)
    assert judged(question, "OPEN", "open", "OPEN 24") == {"region_ocr.exact": 0.5, "answers": 0.5}


def test_the_mean_is_over_main_figures_and_what_was_not_asked_is_left_out():
    detection = ask_labels(Task.DETECTION, ["dog"])
    counting = ask_labels(Task.COUNTING, "dog")
    truth = parse(label_answer({"dog": [0]}), REGIONS, detection)
    two = parse(count_answer("dog", [0, 1]), REGIONS, counting)
    counts = {
        "detection": judge(truth, truth),
        "counting": judge(two, parse(count_answer("dog", [0]), REGIONS, counting)),
    }
    found = figures_of(counts)
    assert found["answers"] == 0.5  # of 1 and 0
    assert "detection.absent" not in found
    assert summary(found) == "F1 1.00 count 0.00"
    assert figures_of({}) == {}
    assert figures_of(from_flat(flat(counts))) == found


def standing(losses, answers, **options):
    found, settings = Standing(), EvaluationConfig(mixture={}, **options)
    better, said = [], []
    for step, (loss, value) in enumerate(zip(losses, answers, strict=True)):
        figures = {"loss": float(loss), "answers": float(value)}
        better.append(found.take(settings, step, figures))
        said.append(found.stalled())
    return found, better, said


def test_a_loss_that_falls_while_answers_stay_is_said_once_with_both_figures():
    _, _, said = standing([8.6, 2.0, 0.9, 0.56, 0.5], [0.216, 0.2, 0.22, 0.208, 0.21])
    assert [bool(text) for text in said] == [False, False, True, False, False]
    assert "loss fell from 8.600 to 0.900" in said[2]
    assert "did not improve: 0.216, since then 0.220" in said[2]
    assert "answers/" in said[2]


@pytest.mark.parametrize(
    ("losses", "answers"),
    [([3, 2, 1], [0.2, 0.2, 0.4]), ([1, 2, 3], [0.2] * 3), ([3, 2, 1], [0.97] * 3)],
    ids=["answers improve", "the loss rises", "answers are good"],
)
def test_nothing_is_said_of_a_run(losses, answers):
    assert not any(standing(losses, answers)[2])


def test_the_best_is_kept_by_the_named_figure_and_less_loss_is_better():
    found, better, _ = standing([3, 2, 4, 1], [0.1, 0.4, 0.4, 0.2])
    assert better == [True, True, False, False]
    assert (found.best, found.best_step, found.since) == (0.4, 1, 2)
    assert standing([3, 2, 4, 1], [0] * 4, best="loss")[1] == [True, True, False, True]


def test_a_figure_that_is_not_measured_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match=r"'detection.f1' was not measured: one of answers, loss"):
        standing([3], [0.1], best="detection.f1")
    settings = EvaluationConfig(mixture={})
    assert not Standing().take(settings, 0, {"loss": 1.0})  # nothing is answered: none is kept
    with pytest.raises(ConfigError, match="without best"):
        EvaluationConfig(mixture={}, best="", patience=1)
