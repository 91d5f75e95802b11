"""Checkpoints of the Hugging Face Hub: what of one is fetched, and what to do where it cannot be.

Its configuration comes first, so that a wrong name costs nothing; then the small files; of its
weights one format only.
"""

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vlm_fo1.config import read_object
from vlm_fo1.errors import CheckpointError, FO1Error

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""One of these, or its shards with ``.index.json``, holds the weights; the first one there."""
SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
"""What a checkpoint needs beside its weights: configurations and the tokenizer."""

_SAVED_FILE = re.compile(r".+\.(?:pth|pt|bin|safetensors|onnx|json)")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether a name may be that of a repository: ``owner/name``, and not a file of weights."""
    return _HUB_ID.fullmatch(name) is not None and _SAVED_FILE.fullmatch(name) is None


def fetch(
    name: str,
    *,
    check: Callable[[Path], object] | None = None,
    weights: bool = True,
    revision: str | None = None,
    **options: Any,
) -> Path:
    """A repository of the Hub, in its cache on this machine.

    Args:
        name: Its id, ``owner/name``.
        check: Called with the folder as soon as ``config.json`` is there; what it raises ends the
            matter before anything large is fetched.
        weights: Whether the weights are wanted too.
        revision: Branch, tag or commit.
        **options: Of the Hub's own functions: ``token``, ``cache_dir``, ``local_files_only``.

    Returns:
        The folder.

    Raises:
        CheckpointError: It cannot be had; the message says what to do.
        FO1Error: What ``check`` raises.
    """
    hub = {"revision": revision, **options}
    try:
        folder = Path(hf_hub_download(name, CONFIG_FILE, **hub)).parent
        if check is not None:
            check(folder)
        snapshot_download(name, allow_patterns=SMALL_FILES, **hub)
        if weights:
            _fetch_weights(name, folder, hub)
    except FO1Error:
        raise
    except Exception as error:
        problem = problem_of(name, error, revision=revision)
        raise CheckpointError(problem or stopped(name, error)) from error
    return folder


def _fetch_weights(name: str, folder: Path, hub: dict[str, Any]) -> None:
    """Get one format: the first of `WEIGHT_FILES` that is there, whole or in shards.

    Raises:
        EntryNotFoundError: There is none, or none that can be reached.
    """
    absent: list[EntryNotFoundError] = []
    for whole in WEIGHT_FILES:
        try:
            hf_hub_download(name, whole, **hub)
        except EntryNotFoundError as error:
            absent.append(error)
        else:
            return
        index = folder / f"{whole}.index.json"
        if index.is_file():
            for shard in shard_names(index):
                hf_hub_download(name, shard, **hub)
            return
    raise absent[0]


def shard_names(index: Path) -> list[str]:
    """The files that an index of shards names, each once and in order.

    Raises:
        CheckpointError: The index cannot be read, or names none.
    """
    weight_map = read_object(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} names no shards: download it again")
    return sorted({str(name) for name in weight_map.values()})


def problem_of(name: str, error: BaseException, *, revision: str | None = None) -> str | None:
    """What the Hub has against a request, and what to do; None where it is not about the Hub.

    Args:
        name: The repository's id.
        error: As it was raised; what it was raised from counts.
        revision: That was asked for.
    """
    page = f"{constants.ENDPOINT}/{name}"
    login = "`hf auth login`, HF_TOKEN or token=..."
    for cause in _causes(error):
        if isinstance(cause, GatedRepoError):
            return f"{name} is gated: ask for access at {page}, then say who you are with {login}"
        if isinstance(cause, RevisionNotFoundError):
            return f"{name} has no revision {revision!r}: {page}/tree/main lists what there is"
        if isinstance(cause, RepositoryNotFoundError):
            return (
                f"{name} is no folder here, and the Hub has no such repository or keeps it "
                f"private: check the spelling; for a private one say who you are with {login}"
            )
        if isinstance(cause, RemoteEntryNotFoundError):
            file = re.search(r"/resolve/[^/]+/(\S+?)\.?(?:\s|$)", str(cause))
            return (
                f"{name} has no {file[1] if file else CONFIG_FILE}: it is no checkpoint of this "
                f"kind; {page}/tree/main lists what it holds"
            )
        if isinstance(cause, OfflineModeIsEnabled | LocalEntryNotFoundError):
            return _not_here(name)
        if isinstance(cause, HfHubHTTPError) and _status(cause) in {401, 403}:
            return f"the Hub refuses {name} with this token: say who you are with {login}"
    return None


def stopped(name: str, error: BaseException) -> str:
    """What to do after a download that broke off for whatever reason."""
    if any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in _causes(error)):
        return (
            f"{name} does not fit on the disk with {constants.HF_HUB_CACHE}: make room, or name a "
            "folder on another disk with HF_HOME; what has arrived is kept"
        )
    return (
        f"the download of {name} broke off ({type(error).__name__}: {first_line(error)}): run the "
        "same command again, it goes on where it stopped"
    )


def _not_here(name: str) -> str:
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set"
    else:
        why = "the Hub cannot be reached, or may not be (local_files_only)"
    return (
        f"{name} is no folder here and not whole in the cache {constants.HF_HUB_CACHE}, and {why}: "
        f"run `hf download {name}` where the Hub can be reached; it resumes what was begun"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its name."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _status(error: HfHubHTTPError) -> int | None:
    return getattr(error.response, "status_code", None)


def list_of(names: Sequence[str], most: int = 6) -> str:
    """Names for a message: the first few, and dots where there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
