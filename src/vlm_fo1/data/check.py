"""Which records training would leave out, and why; training itself asks here.

A record is left out when its source cannot give it, or when it cannot be collated: its image
decoded, its boxes looked up in it, its texts turned to ids, within the limits of a model.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import Any

from vlm_fo1.data.mixture import Part
from vlm_fo1.data.sources.jsonl import JsonlSource
from vlm_fo1.errors import DataError, FO1Error, item_errors

Collate = Callable[[Sequence[Any]], dict[str, Any]]
"""Makes the tensors of a batch; raises on an example that it cannot use."""

ENDLESS = 100
"""How many records of a source without end are looked at, unless said otherwise."""


@dataclass(frozen=True)
class BadRecord:
    """An example that could not be used."""

    source: str
    """File it came from, as the example says; empty if ``reason`` says it."""
    id: str
    """Line or name in that file."""
    reason: str
    """What was wrong."""

    def __str__(self) -> str:
        return f"{self.source}, record {self.id}: {self.reason}" if self.source else self.reason


@dataclass(frozen=True)
class Problem:
    """A line that cannot be used."""

    line: int
    """Counted from 1; 0 is the file as a whole."""
    reason: str


def fault(example: Any, collate: Collate) -> BadRecord | None:
    """Why an example cannot be collated; None if it can."""
    source, name = (str(getattr(example, key, "")) for key in ("source", "id"))
    try:
        with item_errors(f"record {name} of {source}"):
            collate([example])
    except FO1Error as error:
        return BadRecord(source, name, str(error))
    return None


def check_record(part: Part, index: int, collate: Collate) -> BadRecord | None:
    """Why a record of a source would be left out; None if it would not."""
    try:
        example = part.example(index)
    except FO1Error as error:
        return BadRecord("", "", f"{part.name}: {error}")
    return fault(example, collate)


def check(
    parts: Iterable[Part], collate: Collate, most: int | None = None
) -> Iterator[BadRecord | None]:
    """Go once through the records of sources, as training would.

    Args:
        parts: The sources of a mixture.
        collate: What makes the batches.
        most: How many records of each are looked at; None for all, `ENDLESS` of one without end.

    Yields:
        For each record why it would be left out, or None.
    """
    for part in parts:
        size = length_hint(part.source) or most or ENDLESS
        for index in range(min(size, most or size)):
            yield check_record(part, index, collate)


def check_lines(path: str | Path, collate: Collate) -> Iterator[Problem | None]:
    """Go once through the lines of a JSONL file, in no order.

    Args:
        path: The file.
        collate: What makes the batches.

    Yields:
        For each record what is wrong with its line, or None.

    Raises:
        DataError: The file cannot be read, or holds no line.
    """
    source = JsonlSource(path)
    part = Part(source.path.name, source)
    for index in range(len(source)):
        bad, line = check_record(part, index, collate), source.line(index)
        if bad is None:
            yield None
        else:
            before = f"{part.name}: {path}:{line}: "
            yield Problem(line, bad.reason.removeprefix(before))


def check_file(path: str | Path, collate: Collate | None = None) -> list[Problem]:
    """Every line of a file that training would leave out, with its reason.

    Args:
        path: A JSONL file.
        collate: What makes the batches, such as a `vlm_fo1.data.collate.Collator`; by default that
            of the bundled model.

    Returns:
        Problems in the order of the lines; empty is good.
    """
    if collate is None:
        from vlm_fo1.data.collate import bundled_collator  # torch: not needed to read records

        collate = bundled_collator()
    try:
        found = [problem for problem in check_lines(path, collate) if problem is not None]
    except DataError as error:
        return [Problem(0, str(error))]
    return sorted(found, key=lambda problem: problem.line)
