"""What all tabs of the page share: models, limits, running jobs, files, and how errors show."""

import json
import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any

from vlm_fo1._extras import require
from vlm_fo1.app.jobs import Jobs, StoppedError
from vlm_fo1.app.limits import Limits
from vlm_fo1.app.models import ModelPool
from vlm_fo1.app.views import AnswerState, note
from vlm_fo1.errors import FO1Error, ItemError, item_errors

logger = logging.getLogger(__name__)

BROKEN = "Something broke here that should not; the log of the server says what."
"""What a visitor is told of a fault of ours."""

KEPT_S = 3600.0
"""How long files for download stay on disk, in seconds."""


def gradio() -> ModuleType:
    """Gradio, or the command that installs it."""
    return require("gradio", extra="app")


class Scratch:
    """Files for download, in a folder of their own that goes with the program."""

    def __init__(self, kept_s: float = KEPT_S) -> None:
        self._kept_s = kept_s
        self._lock = threading.Lock()
        self._home = tempfile.TemporaryDirectory(prefix="fo1-page-")

    def folder(self) -> Path:
        """A new folder; those that are too old go."""
        home = Path(self._home.name)
        with self._lock:
            oldest = time.time() - self._kept_s
            for old in home.iterdir():
                if old.stat().st_mtime < oldest:
                    shutil.rmtree(old, ignore_errors=True)
            fresh = home / secrets.token_hex(16)
            fresh.mkdir(parents=True)
        return fresh


@dataclass(frozen=True, eq=False, kw_only=True)
class Context:
    """Everything that a tab stands on."""

    pool: ModelPool
    limits: Limits = field(default_factory=Limits)
    jobs: Jobs = field(default_factory=Jobs)
    scratch: Scratch = field(default_factory=Scratch)
    at_once: int = 1
    """Questions that the model works on at the same time."""

    def files(self, kept: AnswerState) -> list[str]:
        """The answer as JSON, as COCO results, and drawn, ready for download."""
        folder = self.scratch.folder()
        answer = kept.answer
        masks = answer.regions.masks is not None
        texts = {
            "answer.json": answer.to_json(indent=2, masks=masks),
            "coco.json": json.dumps(answer.to_coco(image_id=1), ensure_ascii=False),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        answer.draw(kept.image).save(folder / "answer.jpg", quality=92)
        return [str(folder / name) for name in (*texts, "answer.jpg")]


def told(error: BaseException) -> str | None:
    """What a visitor is told of an error; None for one that nobody expected."""
    if isinstance(error, ItemError):  # its words were not written for strangers
        return BROKEN
    if isinstance(error, FO1Error):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "the machine has not enough memory for this: try a smaller image or fewer boxes"
    if isinstance(error, OSError):
        return f"the disk or the network of the server refused: {error.strerror or error}"
    return None


def expected(error: BaseException) -> BaseException:
    """An error that the page can show: as it is, or as one of ours, and then it is in the log.

    Args:
        error: Of any kind.
    """
    if isinstance(error, StoppedError) or told(error) is not None:
        return error
    try:
        with item_errors("what a visitor of the page asked for"):
            raise error
    except ItemError as ours:
        logger.warning("%s", ours)
        return ours


def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A callback whose errors are messages on the page instead of traces."""

    @wraps(function)
    def plain(*values: Any) -> Any:
        try:
            return function(*values)
        except Exception as error:  # noqa: BLE001 - raised again as a message
            refuse(error)

    return plain


def refuse(error: BaseException) -> None:
    """Raise an error as the page shows it: a message.

    Being stopped is none: then nothing is raised.

    Raises:
        Error: Of Gradio, with the message.
    """
    if isinstance(error, StoppedError):
        return
    said = told(expected(error)) or type(error).__name__
    raise gradio().Error(escape(said), print_exception=False) from error


def with_request(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let Gradio fill in the argument ``request``, which it knows by its annotation."""
    function.__annotations__["request"] = gradio().Request
    return function


def visitor(request: Any) -> str:
    """What tells one visitor from another."""
    return str(getattr(request, "session_hash", None) or "nobody")


def failed(error: BaseException) -> str:
    """An error in the place of a result."""
    if isinstance(error, StoppedError):
        return note("Stopped.")
    return note("This did not work", told(error) or BROKEN, kind="error")
