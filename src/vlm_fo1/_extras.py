"""Optional dependencies, imported when used and named when missing."""

import importlib
from types import ModuleType

from vlm_fo1.errors import MissingExtraError


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
