"""Pickles of plain values, read without running anything that they name."""

import pickle
from pathlib import Path
from typing import Any

from vlm_fo1.errors import EvaluationError


class _Plain(pickle.Unpickler):
    """Makes containers, numbers and texts, and calls nothing."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Refuse whatever a pickle wants to import.

        Raises:
            UnpicklingError: Always.
        """
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is no value")


def read_pickle(path: Path) -> Any:
    """What a pickle holds, if that is lists, dicts, numbers and texts alone.

    Args:
        path: Of Python 2 or 3, such as RefCOCO's ``refs(unc).p``.

    Raises:
        EvaluationError: The file is missing, is no pickle, or wants code to be run.
    """
    try:
        with path.open("rb") as file:
            return _Plain(file, encoding="latin1").load()
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError) as error:
        raise EvaluationError(
            f"{path} is no pickle of plain values: {error}. It is not run: convert it to JSON "
            "where you trust it"
        ) from error
