"""What is installed: optional packages, named when missing, and versions that nobody has tried."""

import functools
import importlib
import importlib.metadata
import logging
from types import ModuleType

from vlm_fo1.errors import MissingExtraError

logger = logging.getLogger(__name__)

NEWEST_TRANSFORMERS = "5.24.0"
"""The newest transformers that passed ``make test-newest``, which says when to raise this."""


def untested_transformers() -> str:
    """Say that the installed transformers is newer than any that was tested here.

    Returns:
        A sentence with both versions and the remedy; empty if it is not newer, or not there.
    """
    from packaging.version import Version

    try:
        installed = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return ""
    if Version(installed) <= Version(NEWEST_TRANSFORMERS):
        return ""
    return (
        f"transformers {installed} is newer than {NEWEST_TRANSFORMERS}, the newest that vlm_fo1 "
        f"was tested with; if something fails: pip install 'transformers<={NEWEST_TRANSFORMERS}'"
    )


@functools.cache
def warn_of_untested_transformers() -> None:
    """Log what `untested_transformers` says, once in a process."""
    if message := untested_transformers():
        logger.warning(message)


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: Dotted name of the module to import, e.g. ``"supervision"``.
        extra: The extra of this package that installs it, e.g. ``"supervision"``.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: The module is not installed; the message is the command that adds it.
        ModuleNotFoundError: It is installed, but a module that it needs in turn is not.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is there but broken: its own error says more
        raise MissingExtraError(
            f"{module!r} is not installed: pip install 'vlm-fo1[{extra}]'"
        ) from error
