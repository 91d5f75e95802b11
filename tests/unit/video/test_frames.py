"""Frames in and out: folders, videos, and videos that end early."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from tests.helpers.video import cut_short, save_folder, scene

from vlm_fo1.errors import ConfigError, ImageError, MissingExtraError
from vlm_fo1.video.frames import open_frames, write_video


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
    with pytest.raises(ImageError, match="1 HEIC image, which nothing here reads, and frames mu"):
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


def test_a_video_that_fails_on_the_way_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"earlier")

    def stopping():
        yield scene(0)
        raise ImageError("frame 1 is broken")

    for images, problem in ((stopping(), "frame 1 is broken"), ([], "at least one")):
        with pytest.raises(ImageError, match=problem):
            write_video(path, images, Fraction(5))
        assert [each.name for each in tmp_path.iterdir()] == ["out.mp4"]
        assert path.read_bytes() == b"earlier"


def test_an_odd_side_loses_a_line(tmp_path, av):
    path = tmp_path / "clip.mp4"
    write_video(path, [Image.new("RGB", (33, 17))], Fraction(5))
    (frame,) = open_frames(path).read()
    assert frame.image is not None
    assert frame.image.size == (32, 16)


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
