"""Files of a benchmark, read strictly: a line or a record that lacks something is named."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm_fo1.config import read_json, read_text
from vlm_fo1.errors import EvaluationError


def read_lines(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, one a line; blank lines are left out.

    Args:
        path: The file.
        needed: Keys that every object has.

    Yields:
        Where it stands, for errors, and the object.

    Raises:
        EvaluationError: The file is missing, has no line, or a line is no such object.
    """
    empty = True
    for number, text in enumerate(read_text(path, EvaluationError).split("\n"), start=1):
        if not text.strip():
            continue
        empty = False
        where = f"{path}, line {number}"
        try:
            row = json.loads(text)
        except ValueError as error:
            raise EvaluationError(f"{where} is no JSON: {error}") from error
        yield where, _checked(row, needed, where)
    if empty:
        raise EvaluationError(f"{path} has no lines: an empty file has no score")


def read_list(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file that is one list, as `read_lines` gives them.

    Raises:
        EvaluationError: The file is missing, holds no list or an empty one, or a record is no such
            object.
    """
    rows = read_json(path, EvaluationError)
    if not isinstance(rows, list) or not rows:
        raise EvaluationError(f"{path} holds no list of records: is it the right file?")
    for number, row in enumerate(rows):
        where = f"{path}: record {number}"
        yield where, _checked(row, needed, where)


def _checked(row: Any, needed: Sequence[str], where: str) -> dict[str, Any]:
    missing = [key for key in needed if not isinstance(row, dict) or key not in row]
    if missing:
        raise EvaluationError(f"{where} has no {', '.join(map(repr, missing))}")
    return row
