"""`fo1 calibrate`: pairs from answers with truth, files it reads, and what it writes."""

import io
import json
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.cli.calibrate import Fusing, _show, calibrated, read_samples
from vlm_fo1.cli.main import app
from vlm_fo1.cli.options import Scoring
from vlm_fo1.cli.running import Outcome
from vlm_fo1.errors import DataError
from vlm_fo1.eval.calibration import measured, pairs_of, reliability_svg
from vlm_fo1.regions import Regions
from vlm_fo1.scores import Calibration, Pairs

NAN = float("nan")
BOXES = [[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 9]]


def answered(rows, labels, scores=None, **fields) -> Answer:
    regions = Regions(np.array(BOXES, np.float32), (40, 40), scores)
    table = np.array(rows, np.float32)
    return Answer("", regions, (Mention(labels[0], ()),), labels=labels, scores=table, **fields)


def test_a_pair_is_true_where_the_region_covers_a_thing_of_the_label():
    proposals = np.array([0.5, 0.75, 1], np.float32)
    first = answered(
        [[0.9, 0.2, NAN], [0.1, 0.3, 0.2]], ("cat", "dog"), proposals,
        presence={"cat": 0.8, "dog": 0.4}, spelt={" cat": "cat"},
    )  # fmt: skip
    truth = {" cat": [[0, 0, 10, 10]], "dog": [], "owl": [[0, 0, 10, 10]]}
    pairs, presences = pairs_of([first], [truth])
    assert pairs.scores.tolist() == pytest.approx([0.9, 0.2, 0.1, 0.3, 0.2])
    assert pairs.true.tolist() == [True, False, False, False, False]
    assert pairs.proposals is not None
    assert pairs.proposals.tolist() == [0.5, 0.75, 0.5, 0.75, 1]
    assert (presences.scores.tolist(), presences.true.tolist()) == (
        pytest.approx([0.8, 0.4]), [True, False],
    )  # fmt: skip
    double = answered([[0.3, 0.2, 0.9]], ("cat",))
    assert pairs_of([double], [{"cat": [[0, 0, 10, 10]]}])[0].true.tolist() == [False, False, True]
    second = answered([[0.5, 0.5, 0.5]], ("cat",))
    assert pairs_of([first, second], [truth, {"cat": []}])[0].proposals is None


def test_what_was_measured_names_both_sides_of_a_calibration():
    true = np.array([True, False] * 50)
    pairs = Pairs(np.where(true, 0.6, 0.4).astype(np.float32), true)
    told = measured(pairs, pairs, Calibration(temperature=0.1))
    assert (told["pairs"], told["true_pairs"]) == (100, 50)
    assert told["ece_before"] == pytest.approx(0.4)
    assert told["ece_after"] < 0.05
    assert told["presence_ece_after"] == told["presence_ece_before"]


def test_reliability_diagrams_are_an_image_with_a_dot_for_each_bin():
    scores = np.array([0.05, 0.06, 0.95], np.float32)
    svg = reliability_svg(Pairs(scores, scores > 0.5), Calibration())
    dots = [element for element in ET.fromstring(svg).iter() if element.tag.endswith("circle")]
    assert len(dots) == 2 * 2


# --- files ----------------------------------------------------------------------------------------


def coco(folder, crowd=0):
    names = ["a.png", "b.png", "c.png", "d.png"]
    for name in names:
        Image.new("RGB", (40, 40)).save(folder / name)
    values = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": 2 * i + part, "image_id": i, "category_id": part, "bbox": [*box[:2], 10, 10],
             "iscrowd": crowd if part else 0}
            for i in range(4) for part, box in enumerate(BOXES[:2])
        ],
        "categories": [
            {"id": i, "name": name} for i, name in enumerate(("cat", "dog", "owl", "fox"))
        ],
    }  # fmt: skip
    file = folder / "truth.json"
    file.write_text(json.dumps(values))
    return file


def test_a_coco_data_set_asks_for_what_is_there_and_as_many_absent_labels(tmp_path):
    samples = read_samples(coco(tmp_path), None, seed=0)
    assert sorted(sample.image.name for sample in samples) == ["a.png", "b.png", "c.png", "d.png"]
    for sample in samples:
        assert sample.labels[:2] == ("cat", "dog")
        assert sorted(sample.labels[2:]) == ["fox", "owl"]
        truth = sample.true_boxes()
        assert {name: box.tolist() for name, box in truth.items()} == {
            "cat": [BOXES[0]], "dog": [BOXES[1]], "owl": [], "fox": [],
        }  # fmt: skip
    assert [s.image for s in read_samples(tmp_path / "truth.json", None, 0)] == [
        s.image for s in samples
    ]


def test_crowds_are_no_things(tmp_path):
    sample = read_samples(coco(tmp_path, crowd=1), None, seed=0)[0]
    assert sample.labels[0] == "cat"
    assert len(sample.labels) == 2
    assert sample.true_boxes()["cat"].tolist() == [BOXES[0]]


def test_a_line_gives_an_image_with_its_labels_boxes_and_truth(tmp_path):
    coco(tmp_path)
    file = tmp_path / "lines.jsonl"
    first = {"image": "a.png", "truth": {"cat": [BOXES[1]], "dog": []}, "boxes": BOXES}
    second = {"image": "b.png", "labels": ["owl", "cat"], "truth": {"cat": [BOXES[0]]}}
    file.write_text(f"{json.dumps(first)}\n\n{json.dumps(second)}\n")
    known = {sample.image.name: sample for sample in read_samples(file, None, 0)}
    assert known["a.png"].labels == ("cat", "dog")
    assert known["a.png"].boxes == BOXES
    assert known["b.png"].true_boxes()["owl"].shape == (0, 4)
    assert known["b.png"].boxes is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"image": "a.png"}, "line 1: 'image' and 'truth' are needed"),
        ({"truth": {"cat": []}}, "line 1"),
        ({"image": "a.png", "truth": [[0, 0, 1, 1]]}, "has to hold boxes for each of its labels"),
        ({"image": "a.png", "truth": {"cat": []}, "labels": ["dog"]}, "has to hold boxes"),
        ({"image": "a.png", "truth": {"cat": []}}, "has 1 images: one to fit to and one"),
    ],
)
def test_a_line_that_says_too_little_is_refused_by_its_number(tmp_path, line, said):
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps(line))
    with pytest.raises(DataError, match=said):
        read_samples(file, None, 0)


# --- fitting --------------------------------------------------------------------------------------


class Unsure:
    """Knows what is true and says it with too little heart."""

    def answer(self, path, request, boxes, *, scores):
        assert (boxes, scores) == (None, "branches")
        if path.name == "d.png":
            raise ZeroDivisionError("broken")
        row = {"cat": [0.6, 0.4, 0.4], "dog": [0.4, 0.6, 0.4]}
        rows = [row.get(label, [0.4] * 3) for label in request.labels]
        presence = {label: 0.6 if label in row else 0.4 for label in request.labels}
        return answered(rows, request.labels, presence=presence)


def test_half_of_the_images_are_fitted_to_and_a_broken_one_is_told(tmp_path):
    samples = read_samples(coco(tmp_path), None, seed=0)
    outcome = Outcome()
    errors = Console(stderr=True, quiet=True)
    fo1: Any = Unsure()
    made, svg = calibrated(
        fo1, samples, Scoring.BRANCHES, Fusing.NONE, {"model": "unsure"}, outcome, errors
    )  # fmt: skip
    assert made.temperature < 0.1
    assert made.presence_temperature < 0.1
    assert made.measured["model"] == "unsure"
    assert sorted(made.measured["images"]) == [1, 2]
    assert made.measured["ece_before"] == pytest.approx(0.4, abs=0.01)
    assert made.measured["ece_after"] < 0.02
    assert svg.startswith("<svg")
    assert [failed.endswith("d.png") for failed in outcome.failed] == [True]


@pytest.mark.parametrize(("after", "told"), [(0.3, False), (0.5, True), (None, False)])
def test_a_calibration_that_makes_things_worse_is_told(tmp_path, after, told):
    numbers = {
        f"{kind}{name}_{when}": 0.4
        for kind in ("", "presence_")
        for name in ("ece", "log_loss")
        for when in ("before", "after")
    }
    numbers |= {"images": [1, 1], "pairs": 2, "true_pairs": 1, "presence_log_loss_after": after}
    errors = Console(record=True, quiet=False, file=io.StringIO())
    _show(Calibration(measured=numbers), tmp_path / "c.json", errors)
    said = "presences tell the truth worse than before: take more images"
    assert (said in errors.export_text()) == told


def test_data_without_anything_true_is_refused(tmp_path):
    file = coco(tmp_path)
    values = json.loads(file.read_text())
    for one in values["annotations"]:
        one["bbox"] = [33, 33, 3, 3]
    file.write_text(json.dumps(values))
    fo1: Any = Unsure()
    with pytest.raises(DataError, match=r"none of \d+ pairs"):
        calibrated(
            fo1, read_samples(file, None, 0), Scoring.BRANCHES, Fusing.NONE, {}, Outcome(),
            Console(stderr=True, quiet=True),
        )  # fmt: skip


def test_what_cannot_be_calibrated_is_one_line_and_code_two(tmp_path):
    file = coco(tmp_path)
    for options, said in (
        (["--scores", "none"], "--scores none leaves nothing to calibrate"),
        (["--out", str(tmp_path / "no" / "where" / "c.json"), "--model", "nowhere"], "error:"),
    ):
        done = CliRunner().invoke(app, ["calibrate", str(file), *options])
        assert done.exit_code == 2
        assert said in done.output
    (tmp_path / "boxes.json").write_text("[[0, 0, 1, 1]]")
    done = CliRunner().invoke(app, ["calibrate", str(tmp_path / "boxes.json")])
    assert "is no COCO data set" in " ".join(done.output.split())
