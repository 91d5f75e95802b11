"""Files that runs write: records, a line of JSON each, that a stopped run goes on with; locks."""

import errno
import hashlib
import json
import logging
import os
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_fo1.errors import ConfigError, OutputError

logger = logging.getLogger(__name__)

_START = b'{"run": "'
"""How each line begins."""

_BLANK = b"\0 \t\r\n"
"""What a power cut leaves where a line was being written, besides a part of it."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Let what the disk refuses be an `OutputError` that names the file.

    Args:
        path: What is being written.

    Raises:
        OutputError: No room, no permission, a folder of that name, ...
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise OutputError(
            f"{path} cannot be written: {reason}; make room for it, or name another place"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that there is all of it or, if that fails, what was there before.

    Args:
        path: The file; its folder is there.
        content: What it shall hold.

    Raises:
        OutputError: The disk refuses it.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write a file that takes the place of another when the block ends well.

    Args:
        path: What is to be written; its folder is there.

    Yields:
        A hidden name beside it, with its suffix; what is there is removed if the block fails.

    Raises:
        OutputError: The disk refuses it.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    with writing(path):
        try:
            yield partial
            partial.replace(path)
        except BaseException:
            _remove(partial)
            raise


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def check_writable(path: Path) -> None:
    """Make the folders to a file and see that it can be written, before work is done for it.

    Args:
        path: The file, there or not.

    Raises:
        OutputError: No permission, a full disk, a folder of that name, ...
    """
    if path.is_dir():
        raise OutputError(f"{path} cannot be written: it is a folder; name another place")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


class Lock:
    """A place that no other process writes meanwhile; made by `lock_file`.

    It ends with `release`, at the end of a ``with`` block, or with the process, however that ends.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self._release = weakref.finalize(self, _unlock, path, handle, os.getpid())

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others write; more than once does no harm."""
        self._release()


def lock_file(path: Path, thing: str) -> Lock:
    """Keep every other writer away from a file or a folder, or say that there is one.

    A file is locked by ``NAME.lock`` beside it, a folder by ``.lock`` in it. That file goes with
    the lock; what a killed process leaves of it locks nothing. Where the file system knows no
    locks, a warning says so.

    Args:
        path: The file, there or not, or a folder that is there.
        thing: What is written, for the message: "answers", "run".

    Returns:
        The lock. Keep it: when it is gone, so is the protection.

    Raises:
        ConfigError: Another process, or another part of this one, holds it.
        OutputError: The place cannot be written.
    """
    beside = path / ".lock" if path.is_dir() else path.with_name(path.name + ".lock")
    while True:
        with writing(path):
            handle = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _try_lock(handle)
        except OSError as error:
            logger.warning("%s is not protected from a second writer: %s", path, error.strerror)
            locked = True
        if not locked:
            holder = os.read(handle, 32).decode("ascii", "replace").strip()
            os.close(handle)
            raise ConfigError(
                f"{path} is being written by another run{f' (process {holder})' * bool(holder)}: "
                f"wait until it has ended, or name another place for the {thing}"
            )
        if _is_there(handle, beside):
            with suppress(OSError):  # the number is for the message alone
                os.truncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
            return Lock(beside, handle)
        os.close(handle)  # its holder took it away between the two steps: there may be a new one


def _is_there(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _unlock(path: Path, handle: int, process: int) -> None:
    """Take a lock and its file away; a fork of the process that made it only closes its own."""
    if sys.platform == "win32":
        os.close(handle)  # an open file cannot be taken away there, nor can one of a new holder
    if os.getpid() == process:
        _remove(path)
    if sys.platform != "win32":
        os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        os.lseek(handle, 2**30, os.SEEK_SET)  # away from the text, which others may read
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True
else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        """Whether the lock of an open file is ours now.

        Raises:
            OSError: This file system knows no locks.
        """
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}:
                return False
            raise
        return True


@dataclass(frozen=True)
class Line:
    """One record of a file."""

    values: dict[str, Any]
    raw: bytes
    """As it stands in the file, line break included."""
    start: int
    """Where it begins in the file, in bytes."""


class JsonlFile:
    """Records on disk, each as soon as it is there; locked until `close`, or until it is gone.

    Args:
        path: The file; folders to it are made.
        decisive: What decides the records, in plain values; a short hash of it stands in each line.
        thing: What a record is, for messages.
        is_one: Whether the values of a line are a record of this kind.
        fresh: Start anew.

    Raises:
        ConfigError: The path is there and no file, or another run writes it.
        OutputError: It cannot be written.
    """

    def __init__(
        self,
        path: Path,
        decisive: Sequence[Any],
        *,
        thing: str,
        is_one: Callable[[dict[str, Any]], bool],
        fresh: bool = False,
    ) -> None:
        self.path = path
        self.identity = hashlib.sha256(json.dumps(list(decisive)).encode()).hexdigest()[:16]
        self._thing = thing
        self._is_one = is_one
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is no file: name one to keep the {thing}s in")
        self._lock = lock_file(path, f"{thing}s")
        with writing(path):
            if fresh:
                path.unlink(missing_ok=True)
            elif path.exists():
                path.open("ab").close()  # refused now rather than after the first record is made

    def close(self) -> None:
        """Let others write the file."""
        self._lock.release()

    def append(self, values: dict[str, Any]) -> None:
        """Write one line and make sure it is on disk.

        Raises:
            OutputError: The disk refuses it.
        """
        with writing(self.path), self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line_of({"run": self.identity, **values}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def lines(self) -> Iterator[Line]:
        """Every record, one at a time; without what a stop or a power cut left at the end.

        Raises:
            ConfigError: A line is something else, or a record of another request.
        """
        if not self.path.exists():
            return
        start = 0
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if _was_cut(raw) and not file.read().strip(_BLANK):
                    return
                yield Line(self._checked(raw, number), raw, start)
                start += len(raw)

    def cut(self, end: int) -> None:
        """Leave only so many bytes."""
        with writing(self.path), self.path.open("r+b") as file:
            file.truncate(end)

    def keep(self, lines: Sequence[Line]) -> None:
        """Leave only these lines."""
        write_whole(self.path, b"".join(line.raw for line in lines))

    def _checked(self, raw: bytes, number: int) -> dict[str, Any]:
        values = _object(raw)
        if not isinstance(values.get("run"), str) or not self._is_one(values):
            raise ConfigError(
                f"line {number} of {self.path} is no {self._thing} of this program: choose another "
                "file, or start fresh (--fresh) and lose what it holds"
            )
        if values["run"] != self.identity:
            raise ConfigError(
                f"{self.path} holds the {self._thing}s of another request: choose another file, or "
                "start fresh (--fresh) and lose them"
            )
        return values


def _was_cut(raw: bytes) -> bool:
    """Whether this can be what is left of lines that were being written."""
    text = raw.strip(_BLANK)
    if not text or raw.startswith(b"\0"):
        return True
    whole = raw.endswith(b"\n") and _object(raw)
    return _START.startswith(text[: len(_START)]) and not whole


def _object(raw: bytes) -> dict[str, Any]:
    """What a line holds; nothing where it is no JSON object."""
    try:
        values = json.loads(raw)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def line_of(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    line = json.dumps(record, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in line):
        return json.dumps(record)  # a file name that is no UTF-8
    return line
