"""`fo1 propose`: boxes of each image, saved for the other commands and for a later run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlm_fo1.cli.main import app
from vlm_fo1.errors import BoxError
from vlm_fo1.formats.boxes import given_regions, read_boxes
from vlm_fo1.regions import Regions

SIZE = (120, 80)


class Corners:
    """Offers three boxes whose place depends on the image."""

    name = "corners"
    requires_labels = False
    fingerprint = "1"

    def __init__(self, asked):
        self.asked = asked

    def propose(self, images, *, queries=None):
        self.asked.append(len(images))
        return [self.of(image) for image in images]

    def of(self, image):
        if image.getpixel((0, 0))[0] > 250:
            raise BoxError("corners returned 1 of 3 boxes that are no numbers")
        x = image.getpixel((0, 0))[0] % 16
        boxes = [[x, 0, x + 40, 40], [x + 1, 0, x + 40, 40], [60, 40, 120, 80]]
        return Regions(
            np.array(boxes, np.float32), image.size, np.array([0.9, 0.6, 0.3], np.float32),
            labels=("a", "b", "c"),
        )  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """Sizes of the batches that the proposer was asked about."""
    sizes = []

    def load(name, **options):
        sizes.append((name, options))
        return Corners(sizes)

    monkeypatch.setattr("vlm_fo1.proposers.base.load_proposer", load)
    return sizes


@pytest.fixture
def run(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def typed(*words):
        result = CliRunner().invoke(app, ["propose", *map(str, words)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return typed


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", SIZE, (index, 0, 0)).save(folder / f"{index}.png")
    return folder


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def truth(path, *names):
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    annotations = [{"image_id": i, "bbox": [i, 0, 40, 40]} for i in range(len(names))]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_boxes_of_one_image_are_counted_in_words(run, photos, asked):
    result = run(photos / "1.png", "--proposer", "upn:x.pth", "--device", "cpu", "--nms", 0.5)
    assert result.exit_code == 0
    assert "1.png: 2 of 3 boxes, scores 0.90 to 0.30" in result.stdout
    assert asked[0] == ("upn:x.pth", {"device": "cpu"})


def test_json_holds_what_the_selection_left(run, photos):
    result = run(photos, "--json", "--min-score", 0.5, "--limit", 1)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(record["file"]).name for record in records] == ["0.png", "1.png", "2.png"]
    assert records[1]["regions"] == {"xyxy": [[1, 0, 41, 40]], "scores": [0.9], "labels": ["a"]}
    assert (records[1]["offered"], records[1]["proposer"]) == (3, "corners")
    assert records[1]["image"] == {"width": 120, "height": 80}


def test_what_is_saved_can_be_given_to_the_other_commands(run, photos):
    for name in ("boxes.jsonl", "boxes.json"):
        assert run("photos", "--save", name, "--fresh").exit_code == 0
        boxes = read_boxes(Path(name))
        for image in ("photos/2.png", photos / "2.png", "2.png"):
            regions = given_regions(boxes, SIZE, image=image).regions
            assert regions.xyxy.tolist() == [[2, 0, 42, 40], [3, 0, 42, 40], [60, 40, 120, 80]]
            assert regions.labels == ("a", "b", "c")


def test_a_run_goes_on_where_it_stopped(run, photos, asked):
    (photos / "3.png").write_bytes(b"no image")
    first = run("photos", "--save", "b.jsonl")
    assert first.exit_code == 1
    assert "3 done, 1 failed: photos/3.png" in first.stderr
    assert "is not an image" in first.stderr
    assert [("error" in line) for line in lines_of("b.jsonl")] == [False, False, False, True]
    Image.new("RGB", SIZE, (3, 0, 0)).save(photos / "3.png")
    del asked[:]
    again = run("photos", "--save", "b.jsonl")
    assert again.exit_code == 0
    assert "1 done, 3 were already in b.jsonl" in again.stderr
    assert asked[1:] == [1]
    assert len(lines_of("b.jsonl")) == 4
    assert run("photos", "--save", "b.jsonl", "--limit", 1).exit_code == 2  # another command


def test_one_bad_image_does_not_stop_the_rest(run, photos):
    Image.new("RGB", SIZE, (255, 0, 0)).save(photos / "0.png")
    (photos / "1.png").write_bytes(b"")
    result = run("photos")
    assert result.exit_code == 1
    assert "boxes that are no numbers" in result.stderr
    assert "is empty" in result.stderr
    assert "2.png: 3 boxes" in result.stdout
    assert "1 done, 2 failed" in result.stderr


def test_no_image_is_looked_at_twice_with_a_cache(run, photos, asked):
    first = run("photos", "--cache", "kept")
    assert "0 of them from the cache" in first.stderr
    del asked[:]
    again = run("photos", "--cache", "kept")
    assert asked[1:] == []
    assert "3 done, 3 of them from the cache" in again.stderr
    assert again.stdout.count("cached") == 3


def test_recall_is_shown_and_counts_images_of_an_earlier_run(run, photos):
    truth(Path("gt.json"), "0.png", "1.png", "2.png")
    whole = run("photos", "--recall", "gt.json", "--json").stdout.splitlines()[-1]
    report = json.loads(whole)["recall"]
    assert report["average_recall"]["medium"] == {"10": 1.0, "50": 1.0, "100": 1.0}
    assert (report["images"], report["boxes_per_image"], report["images_without"]) == (3, 3, 0)
    assert report["latency_s"] >= 0
    (photos / "2.png").rename(photos.parent / "2.png")
    run("photos", "--save", "b.jsonl")
    (photos.parent / "2.png").rename(photos / "2.png")
    shown = run("photos", "--save", "b.jsonl", "--recall", "gt.json")
    assert shown.exit_code == 0
    assert "AR@10" in shown.stdout
    assert "3 images, 3.0 boxes each, 0.0% without a box" in shown.stdout


def test_an_image_that_the_truth_does_not_know_is_told_of(run, photos):
    truth(Path("gt.json"), "0.png", "1.png")
    result = run("photos", "--recall", "gt.json")
    assert result.exit_code == 1
    assert "hold nothing for '2.png'; they are about '0.png', '1.png'" in result.stderr


def test_drawings_are_made(run, photos):
    assert run("photos", "--out", "drawn").exit_code == 0
    for name in ("0.jpg", "1.jpg", "2.jpg"):
        with Image.open(Path("drawn") / name) as drawing:
            assert drawing.size == SIZE
    with Image.open("drawn/0.jpg") as drawing:
        assert len(drawing.getcolors(maxcolors=10**5) or ()) > 50


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere/*.png",), "no image matches"),
        (("photos", "--queries", "cat, dog"), "leave out queries=['cat', 'dog']"),
        (("photos", "--save", "boxes.txt"), "ends in .json or .jsonl"),
        (("photos", "--recall", "none.json"), "none.json does not exist"),
        (("photos", "--cache", "photos/0.png"), "cannot be written to"),
    ],
)
def test_what_cannot_start_is_said_with_code_two(run, photos, words, said):
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_an_unknown_proposer_is_refused_with_the_nearest(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    monkeypatch.setenv("COLUMNS", "300")
    result = CliRunner().invoke(app, ["propose", "photos", "--proposer", "upm:x"])
    assert result.exit_code == 2
    assert "there is no proposer 'upm', did you mean 'upn'?" in result.stderr


def test_masks_are_saved_as_run_lengths_and_come_back(run, photos, monkeypatch):
    masks = np.zeros((3, SIZE[1], SIZE[0]), np.bool_)
    masks[:, 5:30, 5:20], masks[2, 40:, 60:] = True, True
    of = Corners.of
    monkeypatch.setattr(Corners, "of", lambda self, image: replace(of(self, image), masks=masks))
    for name in ("boxes.jsonl", "boxes.json"):
        assert run("photos", "--save", name, "--fresh", "--cache", "seen").exit_code == 0
        again = given_regions(read_boxes(Path(name)), SIZE, image="2.png").regions
        np.testing.assert_array_equal(again.masks, masks)
    assert lines_of("boxes.jsonl")[0]["regions"]["masks"][0]["size"] == [80, 120]
    few = json.loads(run(photos / "1.png", "--json", "--min-score", 0.8).stdout)
    assert len(few["regions"]["masks"]) == 1
