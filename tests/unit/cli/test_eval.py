"""`fo1 eval` with the bundled model: real predictions on two images, and all that can be typed."""

import importlib.resources
import json
import shutil
from pathlib import Path

import pytest
from tests.helpers.benchmark_cases.counting import QUESTION
from typer.testing import CliRunner

from vlm_fo1 import FO1
from vlm_fo1.cli.main import app
from vlm_fo1.eval.benchmarks import BENCHMARKS

DEMO = Path(str(importlib.resources.files("vlm_fo1"))) / "assets" / "demo"
THINGS = {
    "orange": [[220, 23, 273, 89], [127, 119, 159, 158], [162, 114, 228, 194]],
    "apple": [[81, 141, 123, 184], [4, 54, 85, 132]],
}


def write_data(folder):
    """The bundled image, twice, as a COCO folder with the fruit that is in it."""
    folder.mkdir()
    annotations = []
    for number in (1, 2):
        shutil.copy(DEMO / "photo.jpg", folder / f"{number}.jpg")
        for category, boxes in enumerate(THINGS.values()):
            for x1, y1, x2, y2 in boxes:
                annotations.append({
                    "id": len(annotations), "image_id": number, "category_id": category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                })  # fmt: skip
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(THINGS)],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def fo1():
    return FO1.from_pretrained("tiny")


@pytest.fixture
def loads(fo1, monkeypatch):
    """How often a command loaded the model."""
    times = []
    monkeypatch.setattr("vlm_fo1.fo1.FO1.from_pretrained", lambda *_, **__: times.append(1) or fo1)
    return times


@pytest.fixture
def run(loads, tmp_path, monkeypatch):
    """Types `fo1 eval ...` in a folder that holds data/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write_data(tmp_path / "data")

    def typed(*words, code=0):
        result = CliRunner().invoke(app, ["eval", *map(str, words)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.output

    return typed


def lines_of(path):
    lines = [json.loads(line) for path in [*path] for line in path.read_text().splitlines()]
    return sorted(
        ({k: v for k, v in line.items() if k != "seconds"} for line in lines if "index" in line),
        key=lambda line: line["index"],
    )


def test_the_bundled_model_finds_the_fruit_and_half_a_run_gone_on_with_or_in_shards_is_the_same(
    run, loads, tmp_path
):
    alone = ("folder", "--data", "data", "--batch-size", 1, "--samples", 20)
    said = run(*alone)
    assert "all f1@.5" in said
    assert "2 items, 0 failed" in said
    whole = tmp_path / "evaluations" / "folder"
    values = json.loads((whole / "report.json").read_text())
    assert values["values"]["all f1@.5"] == pytest.approx(100)
    assert values["values"]["ap@.5"] == pytest.approx(100)
    assert values["proposal_recall"]["recall@.5"] == pytest.approx(100)
    assert values["run"]["model"]["proposer"] == "tiny"
    assert values["run"]["versions"]["torch"]
    (first, second) = lines_of([whole / "predictions.jsonl"])
    assert first["answer"] == second["answer"]

    half = tmp_path / "half"
    half.mkdir()
    lines = (whole / "predictions.jsonl").read_text().splitlines(keepends=True)
    (half / "predictions.jsonl").write_text("".join(lines[:2]) + lines[2][:70])
    run(*alone, "--out", half, "--resume")
    assert lines_of([half / "predictions.jsonl"]) == lines_of([whole / "predictions.jsonl"])

    for part in ("2/2", "1/2"):
        said = run(*alone, "--out", "parts", "--shard", part)
        assert ("--score-only --out parts" in said) == (part == "2/2")
    parts = tmp_path / "parts"
    assert lines_of(sorted(parts.glob("*.jsonl"))) == lines_of([whole / "predictions.jsonl"])
    assert json.loads((parts / "report.json").read_text())["values"] == values["values"]

    loads.clear()
    run(*alone, "--resume")  # nothing is left to ask: only scored again
    shutil.rmtree(tmp_path / "data")  # scoring needs neither model nor data
    before = (whole / "report.json").read_bytes()
    run("--score-only", "--out", whole, "--samples", 20)
    assert (whole / "report.json").read_bytes() == before
    assert not loads


def test_items_that_fail_are_named_and_the_exit_status_is_one(run, tmp_path):
    (tmp_path / "data" / "2.jpg").write_bytes(b"")
    said = run("folder", "--data", "data", "--samples", 5, code=1)
    assert "2 items, 1 failed and count as wrong: 2" in said
    run("--score-only", "--out", "evaluations/folder", "--samples", 5, code=1)
    run("folder", "--data", "data", "--limit", 1, "--fresh", "--samples", 5)


def test_boxes_of_a_file_take_the_place_of_the_proposers(run, tmp_path):
    boxes = {"1.jpg": THINGS["orange"][:1], "2.jpg": THINGS["orange"][:1]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    run("folder", "--data", "data", "--limit", 1, "--boxes", "boxes.json", "--samples", 5)
    (line,) = lines_of([tmp_path / "evaluations" / "folder" / "predictions.jsonl"])
    assert line["answer"]["regions"]["xyxy"] == [[220, 23, 273, 89]]


def test_countbench_end_to_end(run, tmp_path):
    rows = [{
        "question": QUESTION.format("penguins"), "answer": 5, "image": "count.jpg",
        "bboxes": json.loads((DEMO / "count.boxes.json").read_text()),
    }]  # fmt: skip
    folder = tmp_path / "countbench"
    folder.mkdir()
    shutil.copy(DEMO / "count.jpg", folder)
    (folder / "countbench_with_upn_score_0.3_0.8.json").write_text(json.dumps(rows))
    said = run("countbench", "--data", folder, "--samples", 5)
    assert "accuracy" in said
    text = (tmp_path / "evaluations" / "countbench" / "report.md").read_text()
    assert "| FO1 + UPN | 89.73 |" in text
    assert "| **tiny** (this run) |" in text  # the boxes are the file's: no proposer was asked


def test_the_list_shows_every_benchmark_with_files_and_choices(run, loads):
    said = run("--list")
    for name in BENCHMARKS:
        assert f"{name}: " in said
    assert "ask=all (or present)" in said
    assert not loads


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a benchmark and its folder"),
        (["folder"], "name a benchmark and its folder"),
        (["foldr", "--data", "data"], "did you mean 'folder'"),
        (["folder", "--data", "nowhere"], "is no folder"),
        (["folder", "--data", "data", "--option", "ask=some"], "one of 'all', 'present'"),
        (["folder", "--data", "data", "--shard", "3/2"], "shard 3/2 cannot be"),
        (["folder", "--data", "data", "--score-only"], "run the benchmark first"),
        (["folder", "--data", "data", "--boxes", "no.json"], "no.json"),
        (["folder", "--data", "data", "--tile", "large"], "--tile large"),
    ],
)
def test_what_cannot_be_run_ends_with_a_line_before_the_model_is_loaded(run, loads, words, message):
    said = run(*words, code=2)
    assert message in said.replace("\n", " ")
    assert not loads
