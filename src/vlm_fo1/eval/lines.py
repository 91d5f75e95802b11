"""JSON Lines of a benchmark, read strictly: a line that lacks something is named."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm_fo1.config import read_text
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
    for number, text in enumerate(read_text(path, EvaluationError).splitlines(), start=1):
        if not text.strip():
            continue
        empty = False
        where = f"{path}, line {number}"
        try:
            row = json.loads(text)
        except ValueError as error:
            raise EvaluationError(f"{where} is no JSON: {error}") from error
        missing = [key for key in needed if not isinstance(row, dict) or key not in row]
        if missing:
            raise EvaluationError(f"{where} has no {', '.join(map(repr, missing))}")
        yield where, row
    if empty:
        raise EvaluationError(f"{path} has no lines: an empty file has no score")
