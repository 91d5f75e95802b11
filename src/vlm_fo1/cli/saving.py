"""The ``--save`` file: one line of JSON a picture, and going on where a run stopped."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vlm_fo1.errors import FO1Error

_START = b'{"run": "'
"""How each line begins."""


def line_of(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    line = json.dumps(record, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in line):
        return json.dumps(record)  # a file name that is no UTF-8
    return line


class AnswerFile:
    """Answers on disk, each as soon as it is there.

    An existing file is gone on with: pictures that failed, and a last line that was cut off while
    being written, are taken out of it.

    Args:
        path: The file.
        decisive: What decides the answers, in plain values; a short hash of it stands in each line.
        fresh: Start anew.

    Raises:
        FO1Error: The file holds something else than answers of the same command.
    """

    def __init__(self, path: Path, decisive: list[Any], *, fresh: bool = False) -> None:
        self.path = path
        self.identity = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]
        self.finished: set[str] = set()
        """Pictures that have an answer in it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise FO1Error(f"--save {path} is no file: name one, or use --json to print answers")
        if fresh:
            path.unlink(missing_ok=True)
        elif path.exists():
            self._go_on()

    def append(self, record: dict[str, Any]) -> None:
        """Write one line and make sure it is on disk."""
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line_of({"run": self.identity, **record}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _go_on(self) -> None:
        kept: list[bytes] = []
        *lines, last = self.path.read_bytes().split(b"\n")
        if not _START.startswith(last[: len(_START)]):
            lines.append(last)  # no cut line of ours: it is looked at like the others
        for number, line in enumerate(lines, start=1):
            record = _read(line)
            if record is None:
                raise FO1Error(
                    f"line {number} of {self.path} is no answer of this program: "
                    "choose another file, or --fresh to lose what it holds"
                )
            if record["run"] != self.identity:
                raise FO1Error(
                    f"{self.path} holds the answers of another command: "
                    "choose another file, or --fresh to lose them"
                )
            if "error" not in record:
                kept.append(line)
                self.finished.add(record["file"])
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_bytes(b"".join(line + b"\n" for line in kept))
        partial.replace(self.path)


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    known = isinstance(record, dict) and isinstance(record.get("file"), str) and "run" in record
    return record if known else None
