"""Records: what a file may hold, what is refused and how, and what is drawn of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from recipes.synthetic.__main__ import main as render_synthetic
from vlm_fo1.cli.data import app
from vlm_fo1.data import Example, Turn, check_file, read_examples, write_examples
from vlm_fo1.data.augment import AugmentConfig, augment, renumbered
from vlm_fo1.data.show import contact_sheet, draw_record
from vlm_fo1.errors import ConfigError, DataError

BOXES = np.array([[10, 20, 60, 70], [30, 5, 90, 40], [0, 50, 30, 80]], np.float32)
FIND = Turn(
    question="Please detect dog in this image.",
    answer="<ground>dog</ground><objects><region0><region2></objects>",
    task="detection",
)


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    Image.effect_noise((100, 80), 60).convert("RGB").save(path)
    return path


def record(photo, **changes) -> Example:
    values = {"image": photo, "regions_xyxy": BOXES, "turns": (FIND,), "id": "a"} | changes
    return Example(**values)


def lines(tmp_path, *records):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


def test_what_is_written_is_read_again(tmp_path, photo):
    scores = np.array([0.5, 0.25, 1], np.float32)
    text = Example(image=None, turns=(Turn(question="Hello?", answer=""),), id="t")
    assert write_examples(tmp_path / "d.jsonl", [record(photo, scores=scores), text]) == 2
    first, second = read_examples(tmp_path / "d.jsonl")
    assert first.image == photo
    assert json.loads((tmp_path / "d.jsonl").read_text().split("\n")[0])["image"] == "images/a.png"
    assert np.array_equal(first.regions_xyxy, BOXES)
    assert first.scores is not None
    assert first.scores.tolist() == [0.5, 0.25, 1]
    assert first.turns == (FIND,)
    assert first.source == f"{tmp_path / 'd.jsonl'}:1"
    assert second.image is None
    assert second.regions_xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"turns": ()}, "turns is empty"),
        ({"image": None}, "no image"),
        ({"scores": np.zeros(2, np.float32)}, "3 regions"),
        ({"turns": (Turn(question="What is <region3>?", answer="a dog"),)}, "<region3>"),
        ({"turns": (Turn(question=" ", answer="a dog"),)}, "the question of turn 0 is empty"),
        ({"turns": (Turn(question="Hi?", answer="Yo", task="detecton"),)}, "mean 'detection'"),
        ({"turns": (Turn(question="Hi?", answer="\ud83d"),)}, "the answer .* surrogate"),
        ({"turns": (Turn(question="Hi?", answer="<ground>a<objects>"),)}, "broken markup"),
    ],
)
def test_records_that_do_not_fit_together_are_refused(photo, values, said):
    with pytest.raises(DataError, match=said):
        record(photo, **values)


def test_a_check_lists_every_bad_line_with_its_reason(tmp_path, photo):
    good = {"image": "images/a.png", "regions": [[1, 2, 30, 40]]}
    turn = {"question": "What is <region0>?", "answer": "a dog"}
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    path = lines(
        tmp_path,
        {**good, "turns": [turn]},
        "{not json",
        {**good, "turns": [turn], "boxes": []},
        {**good, "turns": [{"question": "What is <region4>?", "answer": ""}]},
        {**good, "turns": [turn], "regions": [[50, 2, 30, 40]]},
        {**good, "turns": [turn], "image": "images/none.png"},
        "",
        {**good, "turns": [turn], "image": "images/broken.png"},
        {**good, "turns": [{**turn, "answer": "<ground>dog<objects>"}]},
        {**good, "turns": [turn], "regions": [["a", 2, 30, 40]]},
        {**good, "turns": [turn], "scores": ["high"]},
        {**good, "turns": "none"},
        [1, 2],
    )
    problems = {problem.line: problem.reason for problem in check_file(path)}
    assert sorted(problems) == [2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]
    assert "Expecting" in problems[2]
    assert "boxes" in problems[3]
    assert "<region4>" in problems[4]
    assert "reversed" in problems[5]
    assert "does not exist" in problems[6]
    assert "is not an image that can be read" in problems[8]
    assert "broken markup" in problems[9]


def test_a_missing_file_is_one_problem(tmp_path):
    (problem,) = check_file(tmp_path / "none.jsonl")
    assert problem.line == 0
    assert "does not exist" in problem.reason
    with pytest.raises(DataError, match="does not exist"):
        next(read_examples(tmp_path / "none.jsonl"))


def test_reading_a_bad_line_names_file_and_line(tmp_path):
    path = lines(tmp_path, {"image": None, "turns": [{"question": "a", "answer": "b"}]}, "{")
    with pytest.raises(DataError, match=r"data\.jsonl:2"):
        list(read_examples(path))


def test_a_sheet_shows_image_and_text(photo):
    cell = draw_record(record(photo), width=200)
    assert cell.width == 200
    assert cell.height > 160
    sheet = contact_sheet([record(photo)] * 3, columns=2, width=200)
    assert sheet.width > 400
    assert sheet.height > 2 * 160
    text = Example(image=None, turns=(Turn(question="Hello?", answer="Yes " * 40),))
    assert draw_record(text, width=200).height > 60
    with pytest.raises(DataError, match="no record"):
        contact_sheet([])


# Augmentation


def test_renumbering_keeps_what_texts_point_at(photo):
    changed = renumbered(record(photo), [2, 1, 0])
    assert np.array_equal(changed.regions_xyxy, BOXES[[2, 1, 0]])
    assert changed.turns[0].answer == FIND.answer  # both regions of the run swap, and are sorted
    changed = renumbered(record(photo), [1, 0, 2])
    assert changed.turns[0].answer == ("<ground>dog</ground><objects><region1><region2></objects>")


def test_an_augmented_record_points_at_the_same_things(photo):
    config = AugmentConfig(drop=0.5, mirror=1.0)
    rng = np.random.default_rng(0)
    for _ in range(10):
        changed = augment(record(photo), config, rng)
        assert isinstance(changed.image, Image.Image)
        width, height = changed.image.size
        numbers = [int(n) for n in re.findall(r"region(\d+)", changed.turns[0].answer)]
        assert numbers == sorted(numbers)
        scaled = changed.regions_xyxy * np.array([100 / width, 80 / height] * 2, np.float32)
        mirrored = np.stack([100 - scaled[:, 2], scaled[:, 1], 100 - scaled[:, 0], scaled[:, 3]], 1)
        found = {tuple(np.round(box).astype(int)) for box in mirrored[numbers].tolist()}
        assert found == {(10, 20, 60, 70), (0, 50, 30, 80)}


@pytest.mark.parametrize(
    ("answer", "task"),
    [("the dog on the left", "free"), ("a sign that says A", "free"), ("OPEN", "region_ocr")],
)
def test_what_speaks_of_sides_or_is_read_is_not_mirrored(photo, answer, task):
    turn = Turn(question="What is <region0>?", answer=answer, task=task)
    config = AugmentConfig(mirror=1.0, scale=(1.0, 1.0), renumber=False, light=0.0)
    changed = augment(record(photo, turns=(turn,)), config, np.random.default_rng(0))
    assert np.array_equal(changed.regions_xyxy, BOXES)


def test_a_record_without_an_image_stays_as_it_is():
    text = Example(image=None, turns=(Turn(question="Hello?", answer="Yes"),))
    assert augment(text, AugmentConfig(), np.random.default_rng(0)) is text


def test_augmentation_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="mirror"):
        AugmentConfig(mirror=2.0)
    with pytest.raises(ConfigError, match="scale"):
        AugmentConfig(scale=(2.0, 1.0))


# Command line


def test_the_commands_render_check_and_show(tmp_path):
    run = CliRunner()
    render = typer.Typer()
    render.command()(render_synthetic)
    made = run.invoke(render, [str(tmp_path / "s"), "--count", "2", "--kinds", "5"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout.splitlines()[-1])["images"] == 2
    file = tmp_path / "s" / "records.jsonl"
    assert run.invoke(app, ["check", str(file)]).exit_code == 0
    shown = run.invoke(app, ["show", str(file), "--out", str(tmp_path / "sheet.png")])
    assert shown.exit_code == 0, shown.output
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 500
    file.write_text(file.read_text() + "{\n")
    checked = run.invoke(app, ["check", str(file)])
    assert checked.exit_code == 1
    assert "records.jsonl:3" in checked.output
    missing = run.invoke(app, ["show", str(tmp_path / "none.jsonl")])
    assert missing.exit_code == 2
    assert "does not exist" in missing.output


def test_a_file_of_records_may_hold_the_mark_of_utf_8_and_end_in_what_a_power_cut_left(tmp_path):
    line = json.dumps({"turns": [{"question": "a", "answer": "b"}]}).encode()
    mark = b"\xef\xbb\xbf"
    (tmp_path / "d.jsonl").write_bytes(mark + line + b"\n" + mark + line + b"\n\0\0\0")
    assert [example.id for example in read_examples(tmp_path / "d.jsonl")] == ["1", "2"]
    assert check_file(tmp_path / "d.jsonl") == []


def test_regions_named_in_running_text_are_no_fault(photo):
    said = "A dog <region0> beside <ground>cats</ground><objects><region1><region2></objects>."
    assert record(photo, turns=(Turn(question="What is here?", answer=said),))


@pytest.mark.parametrize("out", ["sheet.abc", "sheet", "a-file/sheet.png"])
def test_a_sheet_that_cannot_be_written_is_refused_in_one_line(tmp_path, photo, out):
    (tmp_path / "a-file").write_text("")
    good = {"image": "images/a.png", "turns": [{"question": "a", "answer": "b"}]}
    run = CliRunner().invoke(
        app, ["show", str(lines(tmp_path, good)), "--out", str(tmp_path / out)]
    )
    assert run.exit_code == 2
    assert run.output.startswith("error: ")
    assert out in run.output
    assert run.output.count("\n") == 1


def test_an_annotation_file_given_for_records_says_where_to_name_it(tmp_path):
    (tmp_path / "coco.json").write_text("{}")
    run = CliRunner().invoke(app, ["check", str(tmp_path / "coco.json")])
    assert run.exit_code == 2
    assert "type: coco, annotations:" in run.output
