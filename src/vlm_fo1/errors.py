"""Everything this package raises on purpose.

Each error is also the built-in that fits, so callers may catch either. A message says the rule,
the value that broke it, and what to do.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class FO1Error(Exception):
    """Base of every error raised on purpose by `vlm_fo1`."""


class BoxError(FO1Error, ValueError):
    """A box, or a list of boxes, that cannot be used."""


class ImageError(FO1Error, ValueError):
    """An image that is missing, broken, too large, or of a kind we do not read."""


class PromptError(FO1Error, ValueError):
    """A question that cannot be asked: no label, an empty text, a region that does not exist."""


class SpliceError(FO1Error, ValueError):
    """Placeholders in the token ids and features for them differ in number."""


class DataError(FO1Error, ValueError):
    """A training record, or a file of them, that cannot be used."""


class EvaluationError(FO1Error, ValueError):
    """Items, answers or files of a benchmark that cannot be scored."""


class ConfigError(FO1Error, ValueError):
    """A configuration that this package refuses rather than guesses about."""


class OutputError(FO1Error, OSError):
    """A file that cannot be written: no room, no permission, no such place."""


class CheckpointError(FO1Error, ValueError):
    """A folder that is not a checkpoint, or weights that do not fit the configuration."""


class TrainingError(FO1Error, RuntimeError):
    """A training run that cannot go on; what it finished is saved."""


class MissingExtraError(FO1Error, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class ItemError(FO1Error, RuntimeError):
    """One item of many failed with an exception that is none of ours; the others go on."""


def counted(number: int, noun: str) -> str:
    """For messages: ``1 image``, ``2 images``."""
    return f"{number} {noun}{'s' * (number != 1)}"


@contextmanager
def item_errors(item: str) -> Generator[None]:
    """Let whatever goes wrong with one item of many be an `FO1Error` of that item.

    Errors of ours pass as they are. Anything else (not ``KeyboardInterrupt`` and its like) is
    logged with its traceback at debug level, so that a run records it and goes on.

    Args:
        item: What is worked on, for the message and the log: ``"photos/a.jpg"``.

    Raises:
        FO1Error: One of ours, as it is.
        ItemError: Instead of any other exception, with its kind and words.
    """
    try:
        yield
    except FO1Error:
        raise
    except Exception as error:
        logger.debug("%s failed", item, exc_info=True)
        said = " ".join(str(error).split()) or "no message"
        raise ItemError(f"{item} failed: {type(error).__name__}: {said}") from error
