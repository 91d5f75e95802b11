"""The cache gives back what was offered, whoever wrote it, and never what is not whole."""

import logging
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_fo1.errors import BoxError, ConfigError, PromptError
from vlm_fo1.proposers.base import Proposer
from vlm_fo1.proposers.cache import CachedProposer, pack, unpack
from vlm_fo1.regions import Regions

SIZE = (16, 12)


class Counting:
    """Offers a box made from the colour of the image, and counts what it is asked."""

    name = "counting"

    def __init__(self, fingerprint="1", *, requires_labels=False, masks=False):
        self.fingerprint = fingerprint
        self.requires_labels = requires_labels
        self.masks = masks
        self.asked = []

    def propose(self, images, *, queries=None):
        self.asked.append((len(images), queries))
        return [self.of(image) for image in images]

    def of(self, image):
        red = image.getpixel((0, 0))[0] % 8
        masks = np.zeros((2, image.height, image.width), np.bool_)
        masks[0, :, :red] = True
        return Regions(
            np.array([[0, 0, red + 1, 5], [1, 1, 4, 4]], np.float32),
            image.size,
            np.array([0.75, 0.123456789], np.float32),
            labels=("größe\0", "b"),
            masks=masks if self.masks else None,
        )


def floats(values):
    return np.array(values, np.float32)


def photo(red, size=SIZE):
    return Image.new("RGB", size, (red, 0, 0))


def assert_equal(first, second):
    for name in ("xyxy", "scores", "confidence", "masks"):
        one, two = getattr(first, name), getattr(second, name)
        assert (one is None) == (two is None), name
        if one is not None:
            np.testing.assert_array_equal(one, two)
    assert (first.labels, first.size_wh) == (second.labels, second.size_wh)


def entries(folder):
    return sorted(Path(folder).glob("*/*.regions"))


def test_an_image_is_looked_at_once(tmp_path):
    inner = Counting(masks=True)
    cached = CachedProposer(inner, tmp_path)
    assert isinstance(cached, Proposer)
    first = cached.propose([photo(1), photo(2), photo(1)])
    again = CachedProposer(inner, tmp_path).propose([photo(2), photo(1), photo(3)])
    assert inner.asked == [(2, None), (1, None)]
    for regions, red in zip([*first, *again], [1, 2, 1, 2, 1, 3], strict=True):
        assert_equal(regions, inner.of(photo(red)))
    assert (cached.hits, cached.misses) == (1, 2)


@pytest.mark.parametrize(
    "regions",
    [
        Regions.empty(SIZE),
        Regions(
            floats([]).reshape(0, 4), SIZE, floats([]), labels=(),
            masks=np.zeros((0, 12, 16), np.bool_),
        ),
        Regions(
            floats([[0, 0, 0.1, 5]]), SIZE, floats([np.nan]), floats([0.3]), ("x",),
            np.ones((1, 12, 16), np.bool_),
        ),
    ],
    ids=["none", "none with fields", "all fields"],
)  # fmt: skip
def test_an_entry_holds_all_of_the_regions(regions):
    assert_equal(unpack(pack(regions)), regions)


def test_the_key_is_what_decides_the_regions(tmp_path):
    inner = Counting(requires_labels=True)
    cached = CachedProposer(inner, tmp_path)
    cached.propose([photo(1)], queries=["cat", "dog"])
    cached.propose([photo(1)], queries=[" cat ", "dog"])
    assert len(inner.asked) == 1
    cached.propose([photo(1)], queries=["dog"])
    cached.propose([photo(1, (12, 16))], queries=["cat", "dog"])
    inner.fingerprint = "2"
    cached.propose([photo(1)], queries=["cat", "dog"])
    assert len(inner.asked) == len(entries(tmp_path)) == 4


def test_queries_are_checked_before_the_folder_is_looked_into(tmp_path):
    with pytest.raises(PromptError, match="counting looks for named things"):
        CachedProposer(Counting(requires_labels=True), tmp_path).propose([])
    with pytest.raises(PromptError, match="leave out queries"):
        CachedProposer(Counting(), tmp_path).propose([photo(1)], queries=["cat"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"X" + data[1:],
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        lambda data: data + b"more",
    ],
    ids=["half", "empty", "one bit", "another mark", "another hash", "too long"],
)
def test_a_corrupt_entry_is_made_anew_and_said(tmp_path, damage, caplog):
    inner = Counting()
    cached = CachedProposer(inner, tmp_path)
    cached.propose([photo(1)])
    (path,) = entries(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING, "vlm_fo1.proposers.cache"):
        (regions,) = cached.propose([photo(1)])
    assert_equal(regions, inner.of(photo(1)))
    assert len(inner.asked) == 2
    (record,) = caplog.records
    assert path.name in record.getMessage()
    assert "made anew" in record.getMessage()
    assert_equal(unpack(path.read_bytes()), inner.of(photo(1)))


def test_an_entry_that_is_whole_but_holds_no_regions_is_refused():
    data = pack(Regions.empty(SIZE))
    with pytest.raises(BoxError, match="do not begin"):
        unpack(b"hello")
    with pytest.raises(BoxError, match="do not have the hash"):
        unpack(data[:-1])


def test_what_was_used_longest_ago_goes_first(tmp_path):
    inner = Counting()
    size = len(pack(inner.of(photo(0))))
    cached = CachedProposer(inner, tmp_path, max_bytes=size * 3 + size // 2)
    for red in range(3):
        cached.propose([photo(red)])
    now = time.time()
    for age, red in enumerate([1, 2, 0]):  # 1 was used last
        os.utime(cached._path(photo(red), []), (now - 100 * age, now - 100 * age))
    cached.propose([photo(2)])  # used: now the oldest is 0
    cached.propose([photo(5)])
    assert not cached._path(photo(0), []).exists()
    assert all(cached._path(photo(red), []).exists() for red in (1, 2, 5))
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= cached.max_bytes


def test_a_limit_below_one_entry_keeps_nothing_and_still_answers(tmp_path):
    inner = Counting()
    cached = CachedProposer(inner, tmp_path, max_bytes=1)
    for _ in range(2):
        assert_equal(cached.propose([photo(1)])[0], inner.of(photo(1)))
    assert entries(tmp_path) == []
    assert len(inner.asked) == 2


def test_files_that_were_never_finished_are_not_read_and_go_in_time(tmp_path):
    inner = Counting()
    cached = CachedProposer(inner, tmp_path, max_bytes=1)
    path = cached._path(photo(1), [])
    path.parent.mkdir()
    old, new = (path.with_suffix(f".{age}.partial") for age in ("old", "new"))
    for file in (old, new):
        file.write_bytes(pack(inner.of(photo(1)))[:30])
    os.utime(old, (0, 0))
    cached.propose([photo(1)])
    assert len(inner.asked) == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_a_full_disk_loses_no_answer(tmp_path, monkeypatch, caplog):
    inner = Counting()
    cached = CachedProposer(inner, tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with caplog.at_level(logging.WARNING, "vlm_fo1.proposers.cache"):
        (regions,) = cached.propose([photo(1)])
    assert_equal(regions, inner.of(photo(1)))
    assert "No space left" in caplog.text


def test_a_folder_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written to"):
        CachedProposer(Counting(), tmp_path / "file")
    with pytest.raises(ConfigError, match="max_bytes = 0"):
        CachedProposer(Counting(), tmp_path, max_bytes=0)


def test_what_a_proposer_raises_is_not_remembered(tmp_path):
    class Broken(Counting):
        def propose(self, images, *, queries=None):
            raise BoxError("counting returned 1 of 1 boxes that are no numbers")

    with pytest.raises(BoxError, match="no numbers"):
        CachedProposer(Broken(), tmp_path).propose([photo(1)])
    assert entries(tmp_path) == []


def test_threads_may_share_a_folder(tmp_path):
    inner = Counting(masks=True)
    shared = [CachedProposer(inner, tmp_path, max_bytes=1500) for _ in range(2)]
    jobs = [(index % 2, index % 5) for index in range(60)]
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda job: shared[job[0]].propose([photo(job[1])])[0], jobs)
        for (_, red), regions in zip(jobs, results, strict=True):
            assert_equal(regions, inner.of(photo(red)))


def hammer(folder, start):
    inner = Counting(masks=True)
    cached = CachedProposer(inner, folder, max_bytes=2500)
    for turn in range(40):
        red = (start + turn) % 7
        assert_equal(cached.propose([photo(red)])[0], inner.of(photo(red)))


def test_processes_may_share_a_folder(tmp_path, caplog):
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    with caplog.at_level(logging.WARNING):
        workers = [context.Process(target=hammer, args=(tmp_path, start)) for start in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
    assert not list(tmp_path.glob("*/*.partial"))
    for path in entries(tmp_path):
        unpack(path.read_bytes())
