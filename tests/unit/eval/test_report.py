"""Reports: figures beside figures, ceilings, failures, plots and the worst cases."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from tests.helpers.benchmark_cases.counting import write_questions
from tests.helpers.evaluation import answer_to, records_of, silent, truthful, write_coco

from vlm_fo1.errors import ItemError
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.eval.files import Header
from vlm_fo1.eval.report import as_markdown, as_page, make_report, write_report
from vlm_fo1.eval.report.outcomes import best_possible, outcomes_of
from vlm_fo1.eval.report.plots import count_confusion, plots_of, precision_recall, reliability
from vlm_fo1.images import image_size

OBJECTS = {
    "a.png": [("cat", [2, 2, 20, 20]), ("dog", [30, 5, 50, 40])],
    "b.png": [("dog", [10, 10, 40, 30])],
    "c|<b>.png": [("dog", [10, 10, 40, 30])],
}
BOXES = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
FOLDER = load_benchmark("folder")


def report_of(folder, says, benchmark=FOLDER, name="folder", **values):
    records = records_of(benchmark, folder, says)
    header = Header(
        benchmark=name, options={}, items=len(records), digest="x",
        model={"model": "stand-in", "proposer": "truth"}, command="fo1 eval folder",
        versions={"python": "3"}, **values,
    )  # fmt: skip
    return make_report(benchmark, header, records, samples=50)


class Tags(HTMLParser):
    """Sees that every tag that opens also closes."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.images = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def mixed(item):
    """Right in the first image, silent in the second, broken in the third."""
    says = {"1": truthful, "2": silent}.get(item.id, lambda _: ItemError("the <disk> | broke"))
    return says(item)


def test_a_report_says_scores_intervals_ceiling_failures_and_how_it_was_run(tmp_path):
    write_coco(tmp_path, OBJECTS)
    report = report_of(tmp_path, mixed)
    assert report.values["all f1@.5"] == pytest.approx(100 * 2 * (2 / 3) / (1 + 2 / 3))
    assert all(report.intervals[name] for name in ("ap", "ap@.75", "false positives per truth all"))
    low, high = report.intervals["all f1@.5"] or (0, 0)
    assert low < 80 < high
    assert report.ceiling["all f1@.5"] == pytest.approx(100 * 2 * (5 / 6) / (1 + 5 / 6))
    assert report.proposals["recall@.5"] == pytest.approx(75)
    assert [record.id for record in report.failures] == ["3"]
    text = as_markdown(report)
    for piece in ("Failed: 1 of 3 items", "the <disk> \\| broke", "fo1 eval folder", "python 3"):
        assert piece in text
    assert "| all f1@.5 | 80.00 |" in text


def test_the_files_hold_the_same_and_the_page_is_whole(tmp_path):
    data = tmp_path / "data"
    write_coco(data, OBJECTS)
    report = report_of(data, mixed)
    files = write_report(report, tmp_path, data)
    assert [path.name for path in files] == ["report.md", "report.json", "report.html"]
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["values"] == report.values
    assert values["failed"] == [
        {"id": "3", "image": "c|<b>.png", "error": "the <disk> | broke"}
    ]  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    tags = Tags(page)
    assert tags.open == []
    assert tags.seen.count("svg") == 3
    assert "<disk>" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_gallery_shows_the_worst_first_and_nothing_that_is_right(tmp_path):
    write_coco(tmp_path, {name: OBJECTS[name] for name in ("a.png", "b.png")})
    report = report_of(tmp_path, silent)
    assert [record.id for record in report.worst] == ["1", "2"]
    assert report_of(tmp_path, truthful).worst == []
    benchmark_images = tmp_path / "images"
    tags = Tags(as_page(report, benchmark_images))
    assert len(tags.images) == 4  # truth and answer of each
    assert all(source.startswith("data:image/jpeg;base64,") for source in tags.images)
    assert Tags(as_page(report)).images == []


def test_an_image_that_is_gone_does_not_keep_the_page_from_being_made(tmp_path):
    write_coco(tmp_path, OBJECTS)
    report = report_of(tmp_path, silent)
    page = as_page(report, tmp_path / "nowhere")
    assert Tags(page).images == []
    assert "nowhere" in page


def test_the_best_possible_answer_takes_the_best_box_of_each_object(tmp_path):
    write_coco(tmp_path, {"a.png": [("cat", [0, 0, 20, 20]), ("dog", [30, 0, 50, 20])]})

    def offering(item):
        near, far = [0, 0, 20, 16], [30, 0, 50, 8]
        return answer_to(item.request, image_size(item.image), {}, beside=[far, near, [1, 0, 9, 9]])

    (record,) = best_possible(records_of(FOLDER, tmp_path, offering))
    assert record.answer is not None
    assert record.answer.by_label == {"cat": [[0, 0, 20, 16]]}  # of the dog there is too little
    assert record.answer.scores_by_label("confidence") == {"cat": [0.8]}


def test_outcomes_say_what_is_right_found_and_wrong(tmp_path):
    write_coco(tmp_path, {"a.png": [("cat", [0, 0, 20, 20]), ("dog", [30, 0, 50, 20])]})

    def says(item):
        boxes = {"dog": [[0, 0, 20, 20]], "cat": [[0, 0, 20, 20], [0, 0, 20, 19]]}
        return answer_to(item.request, image_size(item.image), boxes, score=0.25)

    outcomes = outcomes_of(records_of(FOLDER, tmp_path, says))
    assert sorted(outcomes.right_N.tolist()) == [False, False, True]
    assert outcomes.score_N is not None
    assert outcomes.score_N.tolist() == [0.25] * 3
    assert outcomes.area_M.tolist() == [400, 400]
    assert outcomes.found_M.tolist() == [True, False]
    assert outcomes.wrong_I.tolist() == [3]


def test_labels_are_told_each_by_itself_where_they_recur(tmp_path):
    write_coco(tmp_path, {**OBJECTS, "d.png": [("dog", [10, 10, 40, 30])]})
    report = report_of(tmp_path, mixed)
    assert report.outcomes is not None
    assert report.outcomes.by_label == {
        "cat": {"objects": 1, "found": 1, "answered": 1},
        "dog": {"objects": 4, "found": 1, "answered": 1},
    }
    text = as_markdown(report)
    assert "| dog | 4 | 1 | 1 | 25.00 | 100.00 |\n| cat | 1 | 1 | 1 | 100.00 | 100.00 |" in text
    assert report.to_dict()["by_label"] == report.outcomes.by_label
    write_coco(tmp_path, OBJECTS)
    assert "By label" not in as_markdown(report_of(tmp_path, mixed))  # two labels of three images


def test_problems_of_answers_are_counted_whatever_numbers_they_hold(tmp_path):
    write_coco(tmp_path, OBJECTS)

    def says(item):
        return replace(truthful(item), problems=(f"{item.id} regions were left out", "b|c"))

    text = as_markdown(report_of(tmp_path, says))
    assert "| N regions were left out | 3 |\n" in text
    assert "| b\\|c | 3 |" in text


def test_a_run_that_asked_for_what_is_there_alone_says_so(tmp_path):
    write_coco(tmp_path, OBJECTS)
    asking = load_benchmark("folder", ["ask=present"])
    assert "only the labels that an image has" in as_markdown(report_of(tmp_path, mixed, asking))


def test_scores_stand_beside_their_boxes(tmp_path):
    write_coco(tmp_path, {"a.png": [("dog", [30, 0, 50, 20]), ("cat", [0, 0, 20, 20])]})

    def says(item):
        answer = answer_to(
            item.request, image_size(item.image),
            {"fox": [[0, 30, 9, 40]], "cat": [[0, 0, 20, 20]], "dog": [[50, 30, 60, 40]]},
        )  # fmt: skip
        sure = {"fox": 0.1, "cat": 0.8, "dog": 0.3}
        for mention in answer.mentions:
            object.__setattr__(mention, "confidence", (sure[mention.label],))
        return answer

    outcomes = outcomes_of(records_of(FOLDER, tmp_path, says))
    assert outcomes.score_N is not None
    assert {*zip(outcomes.score_N.tolist(), outcomes.right_N.tolist(), strict=True)} == {
        (0.1, False), (0.8, True), (0.3, False),
    }  # fmt: skip


def test_counting_has_a_table_of_counts_and_figures_in_print(tmp_path):
    benchmark = load_benchmark("countbench")
    rows = [("dogs", 3, BOXES), ("cats", 2, BOXES)]

    def says(item):
        (label,) = item.request.labels
        return answer_to(item.request, image_size(item.image), {label: BOXES}, "There are 3.")

    report = report_of(write_questions(tmp_path, rows), says, benchmark, "countbench")
    assert report.values["accuracy"] == pytest.approx(50)
    assert report.ceiling == {}
    assert report.proposals == {}
    text = as_markdown(report)
    assert "| **stand-in + truth** (this run) | 50.00 |" in text
    assert "| FO1 + UPN | 89.73 |" in text
    assert list(plots_of(report.outcomes, report.counts)) == [
        "Counts: the truth (rows) and the answer (columns)"
    ]


def test_the_curve_starts_at_the_surest_answer_and_takes_equal_scores_together():
    svg = precision_recall(np.array([0.9, 0.5, 0.5]), np.array([True, False, True]), 4)
    points = svg.split('polyline points="')[1].split('"')[0].split()
    assert len(points) == 2  # (1/4, 1) and (2/4, 2/3)
    assert points[0] == f"{44 + 0.25 * 264:.1f},14.0"
    assert points[1] == f"{44 + 0.5 * 264:.1f},{200 - 186 * 2 / 3:.1f}"


def test_bars_of_the_reliability_plot_are_as_high_as_answers_are_right():
    svg = reliability(np.array([0.05, 0.95, 0.95]), np.array([False, True, False]))
    assert svg.count("<rect") == 2
    assert "0.500 of 2 answers" in svg


def test_counts_above_ten_share_a_row():
    svg = count_confusion([(3, 3), (250, 12), (3, 0)])
    assert svg.count("&gt;10") == 2
    assert svg.count(">1</text>") == 3 + 2  # three cells, and the names of row and column 1


def test_a_run_in_which_everything_failed_has_a_report(tmp_path):
    write_coco(tmp_path, OBJECTS)
    report = report_of(tmp_path, lambda item: ItemError("broken"))
    assert report.values["all f1@.5"] == 0
    assert report.boxes_per_item is None
    Tags(as_page(report, tmp_path))


def test_images_without_any_object_have_a_report_whose_shares_are_unknown(tmp_path):
    path = write_coco(tmp_path, {"a.png": [("cat", [2, 2, 20, 20])], "b.png": []})
    content = json.loads(path.read_text())
    content["annotations"] = []
    path.write_text(json.dumps(content))

    def says(item):
        return answer_to(item.request, image_size(item.image), {"cat": [[1, 1, 9, 9]]})

    report = report_of(tmp_path, says)
    assert set(report.values.values()) == {None}
    assert report.proposals == {"recall@.5": None, "recall@.75": None, "recall@.95": None}
    assert [record.id for record in report.worst] == ["1", "2"]
    assert "| ap | - | - | - |" in as_markdown(report)
    Tags(as_page(report, tmp_path / "images"))
