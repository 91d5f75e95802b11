"""What a run leaves to look at: ``log.jsonl``, TensorBoard files, ``bad_records.jsonl``."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlm_fo1._extras import require
from vlm_fo1.data.check import BadRecord
from vlm_fo1.jsonl import line_of, writing


class MetricsLogger:
    """Writes the logs of a run; on all processes but the main one it does nothing.

    Args:
        folder: The run's folder.
        main: Whether this is the main process.
        tensorboard: Write TensorBoard files too.
    """

    def __init__(self, folder: Path, *, main: bool, tensorboard: bool) -> None:
        self.folder, self.main = folder, main
        self._log = folder / "log.jsonl"
        self._bad = folder / "bad_records.jsonl"
        self._told: set[bytes] = set()  # lines of bad records that are in the file, up to
        self._told_to = 0  # this place in it
        self._board: Any = None
        if main:  # before other processes begin to add
            _keep(self._bad, lambda _: True)
        if main and tensorboard:
            require("tensorboard", extra="train")
            module = require("torch.utils.tensorboard", extra="train")
            self._board = module.SummaryWriter(str(folder / "tensorboard"))

    def begin(self, stage: str, step: int) -> None:
        """Drop lines of this stage behind a step: a resumed run writes them again."""
        if not self.main:
            return
        _keep(
            self._log,
            lambda record: record.get("stage") != stage or record.get("step", 0) <= step,
        )

    def write(self, stage: str, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Add a line and its curves.

        Args:
            stage: Name of the stage.
            step: Optimiser steps of the stage done.
            kind: ``train`` or ``eval``.
            values: Names to numbers.
        """
        if not self.main:
            return
        line = {"stage": stage, "step": step, "kind": kind, **values}
        with writing(self._log), self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{stage}/{kind}/{name}", value, step)

    def bad(self, records: Iterable[BadRecord]) -> None:
        """Add records that could not be used, each once; every process may call."""
        lines = [line_of(asdict(record)).encode() for record in records]
        if not lines:
            return
        with writing(self._bad), self._bad.open("a+b") as file:
            file.seek(self._told_to)  # this and other processes may have added some since
            whole, end, _ = file.read().rpartition(b"\n")
            self._told.update(whole.split(b"\n"))
            self._told_to += len(whole + end)
            new = [line for line in dict.fromkeys(lines) if line not in self._told]
            file.write(b"".join(line + b"\n" for line in new))

    def close(self) -> None:
        """Flush and close."""
        if self._board is not None:
            self._board.close()


def read_log(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of one kind of a run's log, oldest first."""
    records = map(_parse, (folder / "log.jsonl").read_bytes().split(b"\n"))
    return [record for record in records if record and record.get("kind") == kind]


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Leave the records of a file that are wanted, and nothing that a kill or power cut left."""
    if not path.is_file():
        return
    before = path.read_bytes()
    lines = [line for line in before.split(b"\n") if (record := _parse(line)) and wanted(record)]
    after = b"".join(line + b"\n" for line in lines)
    if after != before:
        part = path.with_suffix(".part")
        with writing(path):
            part.write_bytes(after)
            part.replace(path)


def _parse(line: bytes) -> dict[str, Any] | None:
    """A record; None for a line that was cut short or holds something else."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
