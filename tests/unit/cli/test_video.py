"""`fo1 video` with the real networks."""

import json

import pytest
from tests.helpers.scripted_model import say
from tests.helpers.video import WH, lines_of, save_folder
from typer.testing import CliRunner

from vlm_fo1.cli.main import app
from vlm_fo1.errors import BoxError
from vlm_fo1.masks import decode_rle, mask_boxes
from vlm_fo1.video.frames import open_frames

# --- frames in and out ----------------------------------------------------------------------------


# --- the real networks, by command ----------------------------------------------------------------


@pytest.fixture
def run(fo1, tmp_path, monkeypatch):
    """Types a command in an empty folder; the model names the first two regions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("vlm_fo1.fo1.FO1.from_pretrained", lambda *_, **__: fo1)
    say(monkeypatch, fo1, "<ground>cat</ground><objects><region0><region1></objects>")

    def typed(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return typed


def test_a_video_from_the_command_line(run, tmp_path, sam3_folder, av):
    save_folder(tmp_path / "in", 7, things=2)
    request = ("video", "in", "the left cat", "--query", "cat", "--proposer", f"sam3:{sam3_folder}")
    request += ("--device", "cpu", "--every", 3, "--save", "frames.jsonl", "--out", "out.mp4")
    result = run(*request)
    assert result.exit_code == 0, result.output
    assert "7 frames; " in result.stdout
    *frames, end = lines_of(tmp_path / "frames.jsonl")
    assert end["frames"] == 7
    assert [line["key"] for line in frames] == [True, False, False, True, False, False, True]
    for line in frames:
        for thing in line["objects"]:
            mask = decode_rle(thing["segmentation"])
            assert mask.shape == WH[::-1]
            assert mask_boxes(mask[None])[0].tolist() == thing["xyxy"] or line["key"]
    assert frames[0]["objects"][0]["label"] == "cat"
    assert len(list(open_frames("out.mp4").read())) == 7
    again = run(*request)
    assert again.exit_code == 0
    assert "7 frames, 7 of them from before" in again.stdout


def test_a_detector_that_returns_nan_ends_no_video(run, tmp_path, sam3_folder, monkeypatch):
    save_folder(tmp_path / "in", 3)

    def broken(*_, **__):
        raise BoxError("sam3 returned 12 of 12 things that are no numbers")

    monkeypatch.setattr("vlm_fo1.proposers.sam3.SAM3Proposer.propose", broken)
    result = run("video", "in", "cat", "--proposer", f"sam3:{sam3_folder}", "--save", "a.jsonl")
    assert result.exit_code == 1
    assert "frame 0: nothing could be chosen here: sam3 returned 12 of 12" in result.stderr
    assert len(lines_of(tmp_path / "a.jsonl")) == 4


def test_images_from_the_command_line(run, tmp_path, sam3_folder):
    save_folder(tmp_path / "in", 2, things=2)
    request = ("segment", "in", "the left cat", "--query", "cat", "--device", "cpu")
    request += ("--proposer", f"sam3:{sam3_folder}", "--save", "a.jsonl", "--out", "drawn")
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    result = run(*request)
    assert result.exit_code == 1
    assert "2 answered, 1 failed: in/broken.png" in result.stderr
    broken, *answers = lines_of(tmp_path / "a.jsonl")
    assert "is not an image" in broken["error"]
    for record in answers:
        assert len(record["segments"]) == 2
        assert decode_rle(record["segments"][0]["segmentation"]).shape == WH[::-1]
        assert record["segments"][0]["label"] == "cat"
    assert len(list((tmp_path / "drawn").iterdir())) == 2
    (tmp_path / "in" / "broken.png").unlink()
    again = run(*request)
    assert "0 answered, 2 were already in a.jsonl" in again.stderr
    one = run("segment", "in/frame0.png", "cat", "--proposer", f"sam3:{sam3_folder}", "--json")
    assert json.loads(one.stdout)["segments"] == answers[0]["segments"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--proposer", "sam3:x"), "nothing to write: name --out VIDEO, --save FILE"),
        (("--proposer", "ocr", "--save", "a.jsonl"), "--proposer ocr has no tracker"),
        (("--proposer", "sam3:x", "--out", "a.mp4", "--save", "a.mp4"), "need a file each"),
        (("--proposer", "sam3:nowhere", "--save", "a.jsonl"), "nowhere cannot be loaded as SAM 3"),
        (("--proposer", "sam4:x", "--tracker", "x", "--save", "a"), "did you mean 'sam3'"),
    ],
)
def test_a_request_that_cannot_work_says_why(run, tmp_path, words, message):
    save_folder(tmp_path / "in", 1)
    result = run("video", "in", "cat", *words)
    assert result.exit_code == 2
    assert message in result.stderr
