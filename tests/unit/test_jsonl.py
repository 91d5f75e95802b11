"""Files of records that a stopped run goes on with."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlm_fo1 import jsonl
from vlm_fo1.errors import ConfigError, FO1Error, OutputError
from vlm_fo1.jsonl import JsonlFile, line_of, lock_file, writing


def note_file(path: Path, *decisive: Any, fresh: bool = False) -> JsonlFile:
    return JsonlFile(path, decisive, thing="note", is_one=lambda one: "note" in one, fresh=fresh)


def notes(file: JsonlFile) -> list[Any]:
    return [line.values["note"] for line in file.lines()]


@pytest.fixture
def path(tmp_path) -> Path:
    file = note_file(tmp_path / "new" / "notes.jsonl", "request")
    for note in (1, "zwei é", 3):
        file.append({"note": note})
    return file.path


def test_records_come_back_with_their_place_in_the_file(path):
    found = list(note_file(path, "request").lines())
    assert [line.values["note"] for line in found] == [1, "zwei é", 3]
    assert b"".join(line.raw for line in found) == path.read_bytes()
    assert [path.read_bytes()[line.start : line.start + 8] for line in found] == [b'{"run": '] * 3


@pytest.mark.parametrize("lost", [1, 2, 10, 28])
def test_a_last_line_that_was_cut_off_is_left_out_wherever_it_was_cut(path, lost):
    path.write_bytes(path.read_bytes()[:-lost])  # with one byte lost it still is JSON
    file = note_file(path, "request")
    assert notes(file) == [1, "zwei é"]
    file.keep(list(file.lines()))
    file.append({"note": 4})
    assert notes(file) == [1, "zwei é", 4]


@pytest.mark.parametrize("lost", [0, 1, 2, 10, 28])
@pytest.mark.parametrize("tail", [b"\0" * 500, b"\0\n\0\n", b"\n", b" \r\n\n", b'\0\0e"}\n'])
def test_what_a_power_cut_leaves_at_the_end_is_mended(path, lost, tail):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - lost] + tail)
    file = note_file(path, "request")
    expected = [1, "zwei é"] + [3] * (lost == 0)
    if lost == 1 and not tail.startswith(b"\0"):
        expected.append(3)  # only its line break was lost, and it has one again
    assert notes(file) == expected
    file.keep(list(file.lines()))
    file.append({"note": 4})
    assert notes(file) == [*expected, 4]


@pytest.mark.parametrize(
    "text", ['{"note": 1}\n'.encode("utf-16-le"), b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"a\0"]
)
def test_a_foreign_file_with_zeros_in_it_is_no_mended_one(tmp_path, text):
    (tmp_path / "mine").write_bytes(text)
    with pytest.raises(ConfigError, match=r"line 1 of .*mine is no note of this program"):
        notes(note_file(tmp_path / "mine"))


def test_a_file_that_an_editor_saved_with_a_mark_and_its_own_line_breaks_is_gone_on_with(path):
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    file = note_file(path, "request")
    file.append({"note": 4})
    assert notes(file) == [1, "zwei é", 3, 4]


def test_a_second_writer_of_a_file_of_records_is_refused_at_once(path):
    first = note_file(path, "request")
    with pytest.raises(ConfigError, match=r"is being written by another run .*place for the notes"):
        note_file(path, "request", fresh=True)
    first.close()
    assert notes(note_file(path, "request")) == [1, "zwei é", 3]


def test_a_file_that_cannot_be_written_is_refused_before_there_is_a_record(path, monkeypatch):
    before = path.read_bytes()
    (path.parent / "file").write_text("")
    with pytest.raises(
        OutputError, match=r"file/notes\.jsonl cannot be written: (File exists|Not a d)"
    ):
        note_file(path.parent / "file" / "notes.jsonl")
    file = note_file(path, "request")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"notes\.jsonl cannot be written: No space left"):
        file.append({"note": 4})
    assert path.read_bytes().startswith(before)


def test_lines_can_be_taken_out_or_cut_off(path):
    file = note_file(path, "request")
    first, _, third = file.lines()
    file.keep([first, third])
    assert notes(file) == [1, 3]
    file.cut(len(first.raw))
    assert notes(file) == [1]
    file.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["notes.jsonl"]


def test_a_file_that_is_not_there_holds_nothing_and_a_fresh_one_is_empty(path, tmp_path):
    assert notes(note_file(tmp_path / "none.jsonl")) == []
    assert notes(note_file(path, "other", fresh=True)) == []
    assert not path.exists()


def test_records_of_another_request_are_refused_and_kept(path):
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"holds the notes of another request.*--fresh"):
        notes(note_file(path, "another"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", ["", "my notes", "[]", '{"note": 1}', '{"run": "a", "x": 1}'])
def test_what_is_no_record_is_refused_with_its_line(path, line):
    with path.open("a") as file:
        file.write(line + "\n")
        file.write('{"run": "a"}\n')
    with pytest.raises(ConfigError, match=r"line 4 of .*notes\.jsonl is no note of this program"):
        notes(note_file(path, "request"))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no file: name one to keep the notes in"):
        note_file(tmp_path)


def test_a_name_that_is_no_utf_8_is_written_in_a_way_that_can_be_read():
    assert json.loads(line_of({"file": "a\udcff"})) == {"file": "a\udcff"}
    assert line_of({"file": "ä"}) == '{"file": "ä"}'


def held_elsewhere(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of a place until its input ends, or it is killed."""
    program = (
        "import sys; from pathlib import Path; from vlm_fo1.jsonl import lock_file\n"
        "lock = lock_file(Path(sys.argv[1]), 'run'); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


@pytest.mark.parametrize("folder", [True, False])
def test_a_second_writer_is_refused_until_the_first_is_gone_however_it_went(tmp_path, folder):
    path = tmp_path if folder else tmp_path / "answers.jsonl"
    for end in ("close", "kill"):
        other = held_elsewhere(path)
        with pytest.raises(ConfigError, match=rf"another run \(process {other.pid}\): wait"):
            lock_file(path, "run")
        other.kill() if end == "kill" else other.communicate()
        other.wait()
        for stream in (other.stdin, other.stdout):
            assert stream is not None
            stream.close()
        with lock_file(path, "run"):
            names = [".lock" if folder else "answers.jsonl.lock"]
            assert [entry.name for entry in tmp_path.iterdir()] == names
        assert not list(tmp_path.iterdir())


def test_a_lock_holds_in_its_own_process_until_nobody_has_it(tmp_path):
    first = lock_file(tmp_path / "a", "run")
    with pytest.raises(ConfigError, match="a is being written by another run"):
        lock_file(tmp_path / "a", "run")
    lock_file(tmp_path / "b", "run").release()
    del first
    second = lock_file(tmp_path / "a", "run")
    second.release()
    second.release()


def test_a_fork_leaves_the_lock_to_its_parent(tmp_path):
    with lock_file(tmp_path / "a", "run") as lock:
        jsonl._unlock(tmp_path / "a.lock", os.open(os.devnull, os.O_RDONLY), os.getpid() + 1)
        assert (tmp_path / "a.lock").exists()
        assert lock is not None


def test_where_there_are_no_locks_a_warning_says_so(tmp_path, monkeypatch, caplog):
    def no_locks(handle: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(jsonl, "_try_lock", no_locks)
    with lock_file(tmp_path / "a", "run"):
        assert "is not protected from a second writer: No locks available" in caplog.text


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/a cannot be written: Not a directory; make room"):
        lock_file(tmp_path / "file" / "a", "run")
    full = pytest.raises(OutputError, match=r"^a\.jsonl cannot be written: No space left")
    with full, writing("a.jsonl"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert issubclass(OutputError, FO1Error)
    assert issubclass(OutputError, OSError)
