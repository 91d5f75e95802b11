"""For VLMEvalKit, which has no plug-ins: ``python -m vlm_fo1.eval.general.vlmevalkit RUN.PY ...``.

Adds the model ``VLM-FO1`` to its table, then runs its own ``run.py`` with the rest of the command
line. ``FO1_MODEL`` names a folder or a Hub id.
"""

import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from vlm_fo1.errors import MissingExtraError, PromptError
from vlm_fo1.eval.general.chat import Part, chat, image_of

NAME = "VLM-FO1"
_TOKENS = 1024


def parts_of(message: Sequence[Any]) -> list[Part]:
    """The parts of a question, from ``{"type": "image" | "text", "value"}`` each.

    Raises:
        PromptError: A video, which this model does not take.
    """
    others = [one["type"] for one in message if one["type"] not in {"image", "text"}]
    if others:
        raise PromptError(f"the question holds a {others[0]}: images and texts are taken")
    return [
        image_of(one["value"]) if one["type"] == "image" else str(one["value"]) for one in message
    ]


def model_class() -> type:
    """The class that VLMEvalKit runs.

    Raises:
        MissingExtraError: VLMEvalKit is not installed.
    """
    base = _module("vlm.base").BaseModel

    class VLMFO1(base):
        """VLM-FO1 without regions."""

        INTERLEAVE = True

        def __init__(self, model: str = "tiny", **options: Any) -> None:
            super().__init__()
            from vlm_fo1.fo1 import FO1

            self.fo1 = FO1.from_pretrained(model, **options)

        def generate_inner(self, message: Sequence[Any], dataset: str | None = None) -> str:
            """The answer to one question."""
            del dataset
            return chat(self.fo1, parts_of(message), max_new_tokens=_TOKENS)

    return VLMFO1


def _module(name: str) -> Any:
    """A module of VLMEvalKit, which is on no package index under that name.

    Raises:
        MissingExtraError: It is not installed.
        ModuleNotFoundError: It is, but not what it needs.
    """
    try:
        return importlib.import_module(f"vlmeval.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "vlmeval":
            raise
        raise MissingExtraError(
            "VLMEvalKit is not installed: clone github.com/open-compass/VLMEvalKit, pip install -e "
            "VLMEvalKit, and name its run.py"
        ) from error


def register(model: str) -> None:
    """Put the model into VLMEvalKit's table.

    Args:
        model: A folder, a Hub id, or "tiny".

    Raises:
        MissingExtraError: VLMEvalKit is not installed.
    """
    vlm, config = _module("vlm"), _module("config")
    vlm.VLMFO1 = model_class()
    config.supported_VLM[NAME] = partial(vlm.VLMFO1, model=model)


def main(argv: Sequence[str]) -> None:
    """Register, then run.

    Args:
        argv: The path of VLMEvalKit's ``run.py``, then its arguments.

    Raises:
        SystemExit: No path was given.
    """
    if not argv:
        raise SystemExit(__doc__)
    register(os.environ.get("FO1_MODEL", "tiny"))
    sys.argv = list(argv)
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
