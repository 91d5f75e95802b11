"""Files of predictions: written as they come, gone on with, merged from parts and checked."""

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlm_fo1 import config
from vlm_fo1.errors import ConfigError, EvaluationError
from vlm_fo1.eval.predictions import Record
from vlm_fo1.jsonl import JsonlFile, Line

PATTERN = "predictions*.jsonl"
"""The files of a run in its folder, one a shard."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What was run: the first line of each file."""

    benchmark: str
    options: Mapping[str, Any]
    items: int
    """Number of items of the whole run, all shards together."""
    digest: str
    """Hash of what is asked, see `vlm_fo1.eval.run.digest_of`."""
    model: Mapping[str, Any]
    """What decides the answers: model, revision, dtype, proposer, thresholds, tiles, tokens."""
    shard: str = "1/1"
    data: str = ""
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Python and libraries, this program's commit, the device."""

    @property
    def decisive(self) -> dict[str, Any]:
        """What has to be the same in all parts of a run, and when it is gone on with."""
        names = ("benchmark", "options", "items", "digest", "model")
        return {name: value for name, value in asdict(self).items() if name in names}


class PredictionFile:
    """Records on disk, each as soon as it is there; locked to the end of a ``with`` block.

    A file that is gone on with loses its failed records, which are tried again, and a last line
    that was cut off.

    Args:
        path: The file; folders to it are made.
        header: What is run.
        resume: Go on with a file that is there.
        fresh: Start it anew.

    Raises:
        ConfigError: The file is there and nothing was said of it, it holds another run, or another
            process writes it.
        OutputError: It cannot be written.
    """

    def __init__(
        self, path: Path, header: Header, *, resume: bool = False, fresh: bool = False
    ) -> None:
        if path.exists() and not fresh:
            if not resume:
                raise ConfigError(
                    f"{path} is there: --resume goes on with it, --score-only scores it, --fresh "
                    "starts it anew"
                )
            _refuse_other(path, header)
        self.header = header
        self.finished: set[int] = set()
        """Places of the items that have an answer in it."""
        self._file = _jsonl(path, header, fresh=fresh)
        lines = list(self._file.lines())
        if lines:
            good = [line for line in lines if "error" not in line.values]
            self._file.keep(good)
            self.finished = {line.values["index"] for line in good if "index" in line.values}
        else:
            self._file.append({"header": asdict(header)})

    def __enter__(self) -> "PredictionFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: Record) -> None:
        """Write one line and make sure it is on disk.

        Raises:
            OutputError: The disk refuses it.
        """
        self._file.append(record.to_dict())

    def finish(self) -> None:
        """Bring the records in the order of the items; those tried again stood last."""
        lines = list(self._file.lines())
        ordered = sorted(lines, key=_place)
        if ordered != lines:
            self._file.keep(ordered)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for garbage.

    The millions of values of a large run are no garbage, and going through them all, again and
    again as they grow, is a third of the work of scoring it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@uncollected()
def read_run(folder: Path) -> tuple[Header, list[Record]]:
    """All predictions of a run, its shards merged.

    Args:
        folder: Where the files are.

    Returns:
        The header of the first file, and the records in the order of the items.

    Raises:
        EvaluationError: No file, files of different runs, or items that have no record, more than
            one, or are not of the run: with counts.
        ConfigError: A file is being written, or holds something else.
    """
    paths = sorted(folder.glob(PATTERN))
    if not paths:
        raise EvaluationError(f"{folder} has no {PATTERN}: run the benchmark first")
    headers: list[Header] = []
    records: list[Record] = []
    for path in paths:
        header = read_header(path)
        if headers and header.decisive != headers[0].decisive:
            raise EvaluationError(
                f"{path.name} and {paths[0].name} are of different runs: "
                f"{_differences(headers[0], header)}; keep each run in a folder of its own"
            )
        headers.append(header)
        file = _jsonl(path, header)
        try:
            records += [Record.from_dict(line.values) for line in file.lines() if _place(line) >= 0]
        finally:
            file.close()
    _check_complete(records, headers[0].items, folder)
    return headers[0], sorted(records, key=lambda record: record.index)


def read_header(path: Path) -> Header:
    """The first line of a file of predictions.

    Raises:
        EvaluationError: It is something else.
    """
    with path.open("rb") as file:
        first = file.readline()
    try:
        values = json.loads(first)["header"]
        return config.build(Header, values)
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} is no file of predictions (its first line is no header): name another place, "
            "or start it anew with --fresh"
        ) from error


def _jsonl(path: Path, header: Header, *, fresh: bool = False) -> JsonlFile:
    def is_one(values: dict[str, Any]) -> bool:
        return "header" in values or isinstance(values.get("index"), int)

    decisive = [header.decisive]
    return JsonlFile(path, decisive, thing="prediction", is_one=is_one, fresh=fresh)


def _place(line: Line) -> int:
    """Where a line belongs: the header first, records by their items."""
    return line.values.get("index", -1)


def _refuse_other(path: Path, header: Header) -> None:
    """Refuse to go on with another run.

    Raises:
        ConfigError: With what differs.
    """
    there = read_header(path)
    if there.decisive != config.plain(header.decisive):
        raise ConfigError(
            f"{path} holds another run: {_differences(there, header)}; name another --out, or "
            "start it anew with --fresh"
        )


def _differences(first: Header, second: Header) -> str:
    found = config.differences(config.plain(first.decisive), config.plain(second.decisive))
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")


def _check_complete(records: Sequence[Record], items: int, folder: Path) -> None:
    """Refuse gaps and doubles.

    Raises:
        EvaluationError: With counts.
    """
    seen: dict[int, int] = {}
    for record in records:
        seen[record.index] = seen.get(record.index, 0) + 1
    problems = {
        f"of {items} items have no prediction (run their shard with --resume)": [
            index for index in range(items) if index not in seen
        ],
        f"of {items} items have more than one (a shard was run twice under another name)": [
            index for index, times in seen.items() if times > 1
        ],
        f"predictions are of no item, as there are {items}": [
            index for index in seen if not 0 <= index < items
        ],
    }
    said = [
        f"{len(found)} {what}, item {min(found)} is the first"
        for what, found in problems.items()
        if found
    ]
    if said:
        raise EvaluationError(f"{folder} cannot be scored: {'; '.join(said)}")
