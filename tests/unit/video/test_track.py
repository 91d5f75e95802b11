"""A video from its frames to its file, gone on with where it stopped."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.helpers.video import SquareTracker, choose_all, cut_short, lines_of, save_folder

from vlm_fo1.errors import ConfigError
from vlm_fo1.video.frames import open_frames
from vlm_fo1.video.records import FrameFile
from vlm_fo1.video.track import track_video


@pytest.fixture
def stand_ins(monkeypatch):
    """Models whose place is taken; `track_video` chooses white squares."""
    calls = []

    def segment(image, phrase, **options):
        calls.append(phrase)
        return choose_all(image)

    fo1 = SimpleNamespace(segment=segment)
    models = SimpleNamespace(fo1=fo1, proposer=None, tracker=SquareTracker())
    return lambda: models, calls


def test_a_run_that_stopped_goes_on_and_ends_the_same(tmp_path, stand_ins):
    models, calls = stand_ins
    folder = save_folder(tmp_path / "in", 11, things=2)
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    report = track_video(models, folder, "square", every=4, save=whole)
    assert (report.frames, report.resumed, report.objects, report.errors) == (11, 0, 2, ())
    complete = whole.read_bytes()
    lines = complete.splitlines(keepends=True)
    for kept, redone in ((0, 3), (3, 3), (4, 2), (6, 2), (8, 1), (10, 1), (11, 1), (12, 0)):
        part.write_bytes(b"".join(lines[:kept]) + (lines[kept][:20] if kept < 12 else b""))
        calls.clear()
        report = track_video(models, folder, "square", every=4, save=part)
        assert part.read_bytes() == complete, kept
        assert len(calls) == redone, kept
        assert report.frames == 11


def test_a_finished_run_loads_no_models(tmp_path, stand_ins):
    models, _ = stand_ins
    folder = save_folder(tmp_path / "in", 2)
    track_video(models, folder, "square", save=tmp_path / "frames.jsonl")

    def load():
        pytest.fail("loaded")

    report = track_video(load, folder, "square", save=tmp_path / "frames.jsonl")
    assert (report.frames, report.resumed) == (2, 2)


def test_a_file_of_something_else_is_not_touched(tmp_path, stand_ins):
    models, _ = stand_ins
    folder = save_folder(tmp_path / "in", 2)
    path = tmp_path / "frames.jsonl"
    track_video(models, folder, "square", save=path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="frames of another request"):
        track_video(models, folder, "circle", save=path)
    assert path.read_bytes() == before
    path.write_text("notes\n")
    with pytest.raises(ConfigError, match=r"line 1 of .* is no frame of this program"):
        FrameFile(path, ["x"], every=3)
    assert path.read_text() == "notes\n"
    assert track_video(models, folder, "circle", save=path, fresh=True).frames == 2


def test_a_video_that_ends_early_is_reported_and_nothing_is_lost(tmp_path, av, stand_ins):
    models, calls = stand_ins
    source = cut_short(tmp_path / "cut.mkv")
    whole = (tmp_path / "whole.mkv").read_bytes()
    save, out = tmp_path / "frames.jsonl", tmp_path / "out.mp4"
    report = track_video(models, source, "square", every=4, save=save, out=out)
    assert 5 < report.frames < 35
    (error,) = report.errors
    assert "ends early" in error
    assert [line["frame"] for line in lines_of(save)] == list(range(report.frames + 1))
    assert len(list(open_frames(out).read())) == report.frames
    source.write_bytes(whole)  # the rest of it came
    calls.clear()
    again = track_video(models, source, "square", every=4, save=save, out=out)
    assert again.frames == 40
    assert again.resumed == report.frames // 4 * 4
    assert again.errors == ()
    assert len(calls) == 10 - report.frames // 4
    assert [line.get("frame") for line in lines_of(save)] == [*range(40), None]


def test_the_annotated_video_shows_what_was_followed(tmp_path, av, stand_ins):
    models, _ = stand_ins
    out = tmp_path / "out.mp4"
    seen = []
    report = track_video(
        models,
        save_folder(tmp_path / "in", 5),
        "square",
        every=3,
        rate=5.0,
        out=out,
        on_progress=lambda *step: seen.append(step),
    )
    assert report.frames == 5
    assert seen == [(what, i, 5) for what in ("following", "drawing") for i in range(1, 6)]
    drawn = list(open_frames(out).read())
    assert len(drawn) == 5
    for frame in drawn:
        assert frame.image is not None
        inside = np.asarray(frame.image, float)[12, 8 + 2 * frame.index]
        assert np.ptp(inside) > 30  # the white square is veiled in a colour


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every = 0: 1 to 600 frames from key frame"),
        ({"every": 601}, "every = 601: 1 to 600 frames from key frame"),
        ({"out": Path("clip.gif")}, "no video can be written as .gif"),
        ({"out": Path("in.mp4")}, "is the video itself"),
    ],
)
def test_what_cannot_come_to_anything_is_refused_first(options, message, stand_ins, av):
    with pytest.raises(ConfigError, match=message):
        track_video(stand_ins[0], "in.mp4", "square", **options)
