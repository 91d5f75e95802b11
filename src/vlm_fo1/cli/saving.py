"""The ``--save`` file: one line of JSON an image, and going on where a run stopped."""

from pathlib import Path
from typing import Any

from vlm_fo1.jsonl import JsonlFile


class AnswerFile:
    """Answers on disk, each as soon as it is there; locked to the end of a ``with`` block.

    An existing file is gone on with: images that failed, and a last line that was cut off while
    being written, are taken out of it.

    Args:
        path: The file; None keeps nothing.
        decisive: What decides the answers, in plain values; a short hash of it stands in each line.
        fresh: Start anew.

    Raises:
        ConfigError: The file holds something else than answers of the same command, or another run
            writes it.
        OutputError: The file cannot be written.
    """

    def __init__(self, path: Path | None, decisive: list[Any], *, fresh: bool = False) -> None:
        self.finished: set[str] = set()
        """Images that have an answer in it."""
        self._file = None
        if path is None:
            return
        self._file = JsonlFile(path, decisive, thing="answer", is_one=_is_answer, fresh=fresh)
        if path.exists():
            answered = [line for line in self._file.lines() if "error" not in line.values]
            self._file.keep(answered)
            self.finished = {line.values["file"] for line in answered}

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, record: dict[str, Any]) -> None:
        """Write one line and make sure it is on disk.

        Raises:
            OutputError: The disk refuses it.
        """
        if self._file is not None:
            self._file.append(record)


def _is_answer(values: dict[str, Any]) -> bool:
    return isinstance(values.get("file"), str)
