"""Videos: frames in and out, things followed, runs gone on with, and videos that end early.

The networks are SAM 3 and the bundled model at tiny size; where a test is about the loop around
them, they are replaced by plain stand-ins that follow a white square.
"""

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.helpers_sam3 import save_tiny_sam3
from tests.helpers_script import say
from typer.testing import CliRunner

from vlm_fo1 import FO1
from vlm_fo1.answer import Answer, Mention
from vlm_fo1.cli.main import app
from vlm_fo1.errors import BoxError, ConfigError, ImageError, MissingExtraError
from vlm_fo1.masks import decode_rle, mask_boxes
from vlm_fo1.regions import Regions
from vlm_fo1.video.follow import Follower
from vlm_fo1.video.frames import Frame, open_frames, write_video
from vlm_fo1.video.records import FrameFile, FrameRecord
from vlm_fo1.video.track import track_video

WH = (64, 48)
SIDE = 12


def scene(step, things=1):
    """White squares on grey; each moves two pixels a frame."""
    image = Image.new("RGB", WH, (60, 60, 60))
    for thing in range(things):
        left, top = 2 + 2 * step, 4 + 24 * thing
        image.paste((255, 255, 255), (left, top, left + SIDE, top + SIDE))
    return image


def squares_of(image):
    """Masks of the white squares, upper first."""
    white = np.asarray(image).mean(2) > 150
    rows = [slice(0, 24), slice(24, 48)]
    masks = np.zeros((2, *white.shape), bool)
    for mask, row in zip(masks, rows, strict=True):
        mask[row] = white[row]
    return masks[masks.any((1, 2))]


def same(first, second):
    """Masks that are there and equal."""
    return first is not None and second is not None and np.array_equal(first, second)


class SquareTracker:
    """Sees the squares that it was told of, and counts how often it was told."""

    def __init__(self):
        self.starts = 0

    def start(self, image: Any, regions: Any) -> Any:
        self.starts += 1
        middles = (regions.xyxy[:, 1] + regions.xyxy[:, 3]) / 2
        self.rows = [int(middle > 24) for middle in middles]
        return self

    def follow(self, image: Any) -> tuple[Any, Any]:
        masks = np.zeros((len(self.rows), *image.size[::-1]), bool)
        for mask, row in zip(masks, self.rows, strict=True):
            for square in squares_of(image):
                if int(mask_boxes(square[None])[0, 1] >= 24) == row:
                    mask[:] = square
        return masks, masks.any((1, 2)).astype(np.float32)


def choose_all(image, *, masks=True):
    found = squares_of(image)
    if not len(found):
        return Answer("", Regions.empty(image.size), labels=("square",))
    regions = Regions(mask_boxes(found), image.size, masks=found if masks else None)
    return Answer("", regions, (Mention("square", tuple(range(len(found)))),), plain="found")


def frames_of(images, start=0):
    return [Frame(start + i, (start + i) / 10, image) for i, image in enumerate(images)]


def save_folder(folder, count, things=1):
    folder.mkdir(exist_ok=True)
    for index in range(count):
        scene(index, things).save(folder / f"frame{index}.png")
    return folder


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- frames in and out ----------------------------------------------------------------------------


@pytest.fixture
def av():
    return pytest.importorskip("av", reason="PyAV is not installed: pip install 'vlm-fo1[video]'")


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    frames = open_frames(save_folder(tmp_path / "in", 12), rate=10.0)
    read = list(frames.read())
    assert [frame.index for frame in read] == list(range(12))
    assert [frame.time_s for frame in read] == [index / 10 for index in range(12)]
    for frame in read:
        assert frame.image is not None
        assert frame.image.tobytes() == scene(frame.index).tobytes()
    assert [frame.index for frame in frames.read(10)] == [10, 11]


def test_a_broken_image_of_a_folder_is_handed_on_as_one(tmp_path):
    folder = save_folder(tmp_path / "in", 3)
    (folder / "frame1.png").write_bytes(b"no image")
    first, broken, last = open_frames(folder).read()
    assert first.image is not None
    assert last.image is not None
    assert broken.image is None
    assert "frame1.png' is not an image" in broken.problem


def test_hidden_files_are_no_frames_and_frames_that_nothing_reads_are_refused(tmp_path):
    folder = save_folder(tmp_path / "in", 2)
    (folder / "._frame0.png").write_bytes(b"no image")
    assert open_frames(folder).count == 2
    (folder / "frame2.HEIC").write_bytes(b"")
    with pytest.raises(ImageError, match="1 HEIC images, which nothing here reads, and frames mu"):
        open_frames(folder)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_video_comes_back_as_it_was_written(suffix, tmp_path, av):
    path = tmp_path / f"clip{suffix}"
    assert write_video(path, (scene(step) for step in range(10)), Fraction(10)) == 10
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    frames = open_frames(path)
    assert frames.rate == 10
    assert frames.count == 10
    read = list(frames.read(4))
    assert [frame.index for frame in read] == [4, 5, 6, 7, 8, 9]
    assert read[0].time_s == pytest.approx(0.4, abs=0.002)
    for frame in read:
        assert frame.image is not None
        difference = np.asarray(frame.image, float) - np.asarray(scene(frame.index), float)
        assert np.abs(difference).mean() < 5


def test_an_odd_side_loses_a_line(tmp_path, av):
    path = tmp_path / "clip.mp4"
    write_video(path, [Image.new("RGB", (33, 17))], Fraction(5))
    (frame,) = open_frames(path).read()
    assert frame.image is not None
    assert frame.image.size == (32, 16)


def cut_short(path, share=0.5, suffix=".mkv"):
    """A video of twenty frames of noise, cut off in the middle of the file."""
    noise = (
        Image.fromarray(np.random.default_rng(step).integers(0, 256, (48, 64, 3), np.uint8))
        for step in range(40)
    )
    whole = path.with_name("whole" + suffix)
    write_video(whole, noise, Fraction(10))
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def test_a_video_that_ends_early_says_so_after_its_last_frame(tmp_path, av):
    *read, last = open_frames(cut_short(tmp_path / "cut.mkv")).read()
    assert 5 < len(read) < 35
    assert all(frame.image is not None for frame in read)
    assert last.image is None
    assert last.index == len(read)
    assert f"cut.mkv ends early or is damaged: {len(read)} of 40 frames" in last.problem


def test_an_mp4_that_lost_its_end_gives_what_can_be_decoded(tmp_path, av):
    path = tmp_path / "cut.mp4"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for step in range(20):
            container.mux(stream.encode(av.VideoFrame.from_image(scene(step))))
        container.mux(stream.encode())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 300])
    *read, last = open_frames(path).read()
    assert 5 < len(read) < 20
    assert f"cut.mp4 ends early or is damaged: {len(read)} of 20 frames" in last.problem


def test_a_video_that_cannot_be_opened_is_an_error_with_its_name(tmp_path, av):
    with pytest.raises(ImageError, match=r"cut.mp4 cannot be opened as a video"):
        open_frames(cut_short(tmp_path / "cut.mp4", suffix=".mp4"))  # its index stood at the end
    with pytest.raises(ImageError, match="there is no"):
        open_frames(tmp_path / "missing.mp4")


def test_a_video_is_turned_upright(tmp_path, av):
    path = tmp_path / "clip.mp4"
    write_video(path, [scene(0)] * 2, Fraction(5))
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # the matrix, for a phone held upright
    turned = np.array([0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data[:at] + turned + data[at + 36 :])
    frame = next(iter(open_frames(path).read()))
    assert frame.image is not None
    expected = scene(0).rotate(-90, expand=True)
    assert frame.image.size == expected.size
    assert np.abs(np.asarray(frame.image, float) - np.asarray(expected, float)).mean() < 5


def test_a_folder_needs_no_pyav_but_a_file_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert len(list(open_frames(save_folder(tmp_path / "in", 2)).read())) == 2
    (tmp_path / "clip.mp4").write_bytes(b"video")
    with pytest.raises(MissingExtraError, match=r"vlm-fo1\[video\]"):
        open_frames(tmp_path / "clip.mp4")


@pytest.mark.parametrize("rate", [0.0, -1.0, 2000.0])
def test_a_rate_that_is_none_is_refused(rate, tmp_path):
    with pytest.raises(ConfigError, match="frames a second: more than 0"):
        open_frames(save_folder(tmp_path / "in", 1), rate=rate)


# --- from frame to frame --------------------------------------------------------------------------


def test_the_same_thing_keeps_its_number_over_key_frames():
    tracker = SquareTracker()
    follower = Follower(choose_all, tracker, every=4)
    records = [follower.step(frame) for frame in frames_of(scene(i, 2) for i in range(10))]
    assert [record.key for record in records] == [i % 4 == 0 for i in range(10)]
    assert tracker.starts == 3
    for index, record in enumerate(records):
        assert record.ids == (0, 1)
        assert record.regions is not None
        assert record.regions.labels == ("square", "square")
        assert same(record.regions.masks, squares_of(scene(index, 2)))
        left = 2 + 2 * index
        assert record.regions.xyxy.tolist() == [
            [left, 4, left + SIDE, 4 + SIDE],
            [left, 28, left + SIDE, 28 + SIDE],
        ]


def test_a_new_thing_gets_a_new_number_and_a_lost_one_leaves():
    follower = Follower(choose_all, SquareTracker(), every=2)
    images = [scene(0), scene(1), scene(2, 2), scene(3, 2), scene(4, 0), scene(5, 0), scene(6)]
    records = [follower.step(frame) for frame in frames_of(images)]
    assert [record.ids for record in records] == [(0,), (0,), (0, 1), (0, 1), (), (), (2,)]


def test_a_thing_out_of_sight_between_key_frames_is_left_out_there():
    follower = Follower(choose_all, SquareTracker(), every=4)
    images = [scene(0, 2), scene(1, 1), scene(2, 2)]
    records = [follower.step(frame) for frame in frames_of(images)]
    assert [record.ids for record in records] == [(0, 1), (0,), (0, 1)]


def test_boxes_become_masks_by_the_tracker():
    follower = Follower(lambda image: choose_all(image, masks=False), SquareTracker(), every=4)
    record = follower.step(frames_of([scene(0)])[0])
    assert record.regions is not None
    assert same(record.regions.masks, squares_of(scene(0)))


def test_a_chosen_thing_without_a_mask_is_followed_by_its_box_or_takes_no_number():
    def choose(image):
        answer = choose_all(scene(0, 2))
        assert answer.regions.masks is not None
        hollow = np.array(answer.regions.masks)
        hollow[0] = False
        regions = Regions(answer.regions.xyxy, WH, masks=hollow)
        return Answer("", regions, answer.mentions)

    follower = Follower(choose, SquareTracker(), every=4)
    seen = [follower.step(frame) for frame in frames_of([scene(0, 2), scene(1, 2)])]
    assert [record.ids for record in seen] == [(0, 1), (0, 1)]
    lower = scene(0, 2)
    lower.paste((60, 60, 60), (0, 0, 64, 24))  # the upper square is not to be seen
    follower = Follower(choose, SquareTracker(), every=4)
    seen = [follower.step(frame) for frame in frames_of([lower, scene(1, 2)])]
    assert [record.ids for record in seen] == [(0,), (0,)]
    assert seen[1].regions is not None
    assert seen[1].regions.xyxy[0, 1] == 28


OURS = BoxError("sam3 returned 12 of 12 things that are no numbers")


def failing_at(failures, error: Exception = OURS):
    """Chooses as `choose_all`, but raises on some of the images it is shown."""
    shown = []

    def choose(image):
        shown.append(image)
        if len(shown) - 1 in failures:
            raise error
        return choose_all(image)

    return choose


@pytest.mark.parametrize("error", [OURS, RuntimeError("no numbers")])
def test_where_choosing_fails_the_masks_of_the_frame_before_are_carried_on(error):
    follower = Follower(failing_at({1}, error), SquareTracker(), every=3)
    records = [follower.step(frame) for frame in frames_of(scene(i) for i in range(9))]
    assert [record.ids for record in records] == [(0,)] * 9
    assert "no numbers; the masks of the frame before are carried on" in records[3].error
    assert not any(record.error for record in records if record.index != 3)
    assert records[4].regions is not None
    assert same(records[4].regions.masks, squares_of(scene(4)))


def test_where_choosing_fails_at_once_later_key_frames_still_work():
    follower = Follower(failing_at({0}), SquareTracker(), every=2)
    records = [follower.step(frame) for frame in frames_of(scene(i) for i in range(4))]
    assert [record.ids for record in records] == [(), (), (0,), (0,)]
    assert "nothing could be chosen here" in records[0].error


class LosingTracker(SquareTracker):
    error: Exception

    def follow(self, image: Any) -> tuple[Any, Any]:
        if mask_boxes(squares_of(image))[0, 0] == 2 + 2 * 1:
            raise self.error
        return super().follow(image)


@pytest.mark.parametrize("error", [BoxError("no number"), IndexError("a fault of the tracker")])
def test_where_the_tracker_fails_nothing_is_claimed_until_the_next_key_frame(error):
    tracker = LosingTracker()
    tracker.error = error
    follower = Follower(choose_all, tracker, every=3)
    records = [follower.step(frame) for frame in frames_of(scene(i) for i in range(4))]
    assert [record.ids for record in records] == [(0,), (), (), (1,)]
    assert "nothing is followed" in records[1].error


def test_a_frame_of_another_size_is_left_out():
    follower = Follower(choose_all, SquareTracker(), every=3)
    records = [
        follower.step(frame) for frame in frames_of([scene(0), scene(1).resize((32, 24)), scene(2)])
    ]
    assert "the frame has (32, 24) pixels, those before (64, 48)" in records[1].error
    assert records[2].ids == (0,)


# --- files ----------------------------------------------------------------------------------------


def test_a_record_comes_back_from_its_line():
    follower = Follower(choose_all, SquareTracker(), every=3)
    record = follower.step(frames_of([scene(0, 2)])[0])
    again = FrameRecord.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again.to_dict() == record.to_dict()
    assert again.regions is not None
    assert record.regions is not None
    assert same(again.regions.masks, record.regions.masks)


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


# --- the real networks, by command ----------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def fo1():
    return FO1.from_pretrained("tiny")


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


def test_a_video_from_the_command_line(run, tmp_path, checkpoint, av):
    save_folder(tmp_path / "in", 7, things=2)
    request = ("video", "in", "the left cat", "--query", "cat", "--proposer", f"sam3:{checkpoint}")
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


def test_a_detector_that_returns_nan_ends_no_video(run, tmp_path, checkpoint, monkeypatch):
    save_folder(tmp_path / "in", 3)

    def broken(*_, **__):
        raise BoxError("sam3 returned 12 of 12 things that are no numbers")

    monkeypatch.setattr("vlm_fo1.proposers.sam3.SAM3Proposer.propose", broken)
    result = run("video", "in", "cat", "--proposer", f"sam3:{checkpoint}", "--save", "a.jsonl")
    assert result.exit_code == 1
    assert "frame 0: nothing could be chosen here: sam3 returned 12 of 12" in result.stderr
    assert len(lines_of(tmp_path / "a.jsonl")) == 4


def test_images_from_the_command_line(run, tmp_path, checkpoint):
    save_folder(tmp_path / "in", 2, things=2)
    request = ("segment", "in", "the left cat", "--query", "cat", "--device", "cpu")
    request += ("--proposer", f"sam3:{checkpoint}", "--save", "a.jsonl", "--out", "drawn")
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
    one = run("segment", "in/frame0.png", "cat", "--proposer", f"sam3:{checkpoint}", "--json")
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
