"""A file of records, one line of JSON each, that a run which stopped can go on with."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_fo1.errors import ConfigError

_START = b'{"run": "'
"""How each line begins."""


@dataclass(frozen=True)
class Line:
    """One record of a file."""

    values: dict[str, Any]
    raw: bytes
    """As it stands in the file, line break included."""
    start: int
    """Where it begins in the file, in bytes."""


class LineFile:
    """Records on disk, each as soon as it is there.

    Args:
        path: The file; folders to it are made.
        decisive: What decides the records, in plain values; a short hash of it stands in each line.
        thing: What a record is, for messages.
        is_one: Whether the values of a line are a record of this kind.
        fresh: Start anew.

    Raises:
        ConfigError: The path is there and no file.
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
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is no file: name one to keep the {thing}s in")
        if fresh:
            path.unlink(missing_ok=True)

    def append(self, values: dict[str, Any]) -> None:
        """Write one line and make sure it is on disk."""
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line_of({"run": self.identity, **values}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def lines(self) -> Iterator[Line]:
        """Every record, one at a time; without a last line that was cut off while being written.

        Raises:
            ConfigError: A line is something else, or a record of another request.
        """
        if not self.path.exists():
            return
        start = 0
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n") and _START.startswith(raw[: len(_START)]):
                    return
                yield Line(self._checked(raw, number), raw, start)
                start += len(raw)

    def cut(self, end: int) -> None:
        """Leave only so many bytes."""
        with self.path.open("r+b") as file:
            file.truncate(end)

    def keep(self, lines: Sequence[Line]) -> None:
        """Leave only these lines."""
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_bytes(b"".join(line.raw for line in lines))
        partial.replace(self.path)

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
