"""What a run leaves to look at: ``log.jsonl``, TensorBoard files, ``bad_records.jsonl``."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlm_fo1._extras import require
from vlm_fo1.train.batches import BadRecord


class Journal:
    """Writes the logs of a run; on all processes but the main one it does nothing.

    Args:
        folder: The run's folder.
        main: Whether this is the main process.
        tensorboard: Write TensorBoard files too.
    """

    def __init__(self, folder: Path, *, main: bool, tensorboard: bool) -> None:
        self.folder, self.main = folder, main
        self._log = folder / "log.jsonl"
        self._board: Any = None
        if main and tensorboard:
            require("tensorboard", extra="train")
            module = require("torch.utils.tensorboard", extra="train")
            self._board = module.SummaryWriter(str(folder / "tensorboard"))

    def begin(self, stage: str, step: int) -> None:
        """Drop lines of this stage behind a step: a resumed run writes them again."""
        if not self.main or not self._log.is_file():
            return
        kept = [
            line
            for line in self._log.read_text(encoding="utf-8").splitlines()
            if (record := _parse(line)) and (record["stage"] != stage or record["step"] <= step)
        ]
        part = self._log.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        part.replace(self._log)

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
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{stage}/{kind}/{name}", value, step)

    def bad(self, records: Iterable[BadRecord]) -> None:
        """Add records that could not be used, each once; every process may call."""
        lines = [json.dumps(asdict(record)) + "\n" for record in records]
        if not lines:
            return
        path = self.folder / "bad_records.jsonl"
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        known = set(before.splitlines(keepends=True))
        with path.open("a", encoding="utf-8") as file:
            file.writelines(line for line in lines if line not in known)

    def close(self) -> None:
        """Flush and close."""
        if self._board is not None:
            self._board.close()


def read_log(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of one kind of a run's log, oldest first."""
    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    records = (_parse(line) for line in text.splitlines())
    return [record for record in records if record and record["kind"] == kind]


def _parse(line: str) -> dict[str, Any] | None:
    """A line of the log; None for one that a kill cut short."""
    try:
        return json.loads(line)
    except ValueError:
        return None
