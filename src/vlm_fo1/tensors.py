"""Files of tensors: read without running anything, broken ones named, compared with a network.

Missing tensors and other shapes are always refused. Tensors that have no place are what training
may leave in a file: they are named in a warning, or refused where that is asked for.
"""

import argparse
import logging
import zipfile
from collections.abc import Mapping, Set
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vlm_fo1.errors import CheckpointError
from vlm_fo1.hub import WEIGHT_FILES, first_line, list_of, shard_names

logger = logging.getLogger(__name__)

_UNREADABLE = (SafetensorError, UnpicklingError, RuntimeError, OSError, ValueError, EOFError)
_POINTER = b"version https://git-lfs"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, memory-mapped where the format allows.

    As transformers does, safetensors are read before pickled files, and one whole file before
    shards: what is not read is named in a warning.

    Raises:
        CheckpointError: No weights, a missing shard (named), or a broken file (named).
    """
    for whole in WEIGHT_FILES:
        file, index = folder / whole, folder / f"{whole}.index.json"
        if file.is_file():
            if index.is_file():
                logger.warning("%s is read, and not the shards that %s names", file, index.name)
            return read_tensors(file)
        if index.is_file():
            return _read_shards(folder, index)
    raise CheckpointError(
        f"{folder} holds no weights: {' or '.join(WEIGHT_FILES)}, whole or in shards with an "
        ".index.json, is needed; download it again"
    )


def _read_shards(folder: Path, index: Path) -> dict[str, Tensor]:
    files = shard_names(index)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(files)} shards: {list_of(missing)}; the same "
            "download, run again, goes on where it stopped"
        )
    state: dict[str, Tensor] = {}
    for name in files:
        state |= read_tensors(folder / name)
    return state


def read_tensors(path: Path) -> dict[str, Any]:
    """What one file holds: tensors by name, or for a pickled one perhaps a mapping around them.

    Nothing in it is executed: pickled files are read as tensors and plain values only.

    Raises:
        CheckpointError: It is missing, broken, cut short, or holds more than that.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: check the path")
    try:
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise CheckpointError(
                    f"{path} is a Git LFS pointer, not the weights: run 'git lfs pull' in its "
                    "folder, or download the file again"
                )
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # settings beside the tensors
            return torch.load(  # noqa: TID251 - the one place for it
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except _UNREADABLE as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} cannot be read ({first_line(error)}): it is broken, cut short, or holds more "
            "than tensors; download it again"
        ) from error


def check_fit(
    found: Mapping[str, torch.Size],
    expected: Mapping[str, torch.Size],
    *,
    source: str,
    network: str,
    optional: Set[str] = frozenset(),
    spelt: Mapping[str, str] | None = None,
    remedy: str = "",
    strict: bool = False,
) -> list[str]:
    """Compare the tensors of a file with those of a network.

    Args:
        found: Tensor names to shapes, as the file has them, under the network's names.
        expected: The same, as the network has them.
        source: Where the file is, for messages.
        network: What it should hold, for messages: ``"the model of config.json"``.
        optional: Names that the file may leave out.
        spelt: The network's names to those that stand in the file, where they differ.
        remedy: What else to try where the file is of another network.
        strict: Refuse tensors that have no place; else they are named in a warning.

    Returns:
        Names that have no place.

    Raises:
        CheckpointError: Says what is missing, of another shape, or left over.
    """
    missing = sorted(set(expected) - set(found) - optional)
    left_over = sorted(set(found) - set(expected))
    shapes = [
        f"{name} is {tuple(found[name])}, {tuple(expected[name])} expected"
        for name in sorted(set(found) & set(expected))
        if found[name] != expected[name]
    ]
    as_spelt = sorted((spelt or {}).get(name, name) for name in left_over)
    parts = {
        f"of {len(expected)} missing": missing,
        "of another shape": shapes,
        "left over": as_spelt,
    }
    report = "; ".join(
        f"{len(names)} {what}: {list_of(names)}" for what, names in parts.items() if names
    )
    if missing or shapes:
        raise CheckpointError(f"the weights of {source} do not fit {network}; {report}{remedy}")
    if left_over and strict:
        raise CheckpointError(
            f"{source} holds more than {network}; {report}; without strict it loads, and they are "
            "not used"
        )
    if left_over:
        logger.warning("%s: %d tensors have no place in %s and are not used: %s",
                       source, len(left_over), network, list_of(as_spelt))  # fmt: skip
    return left_over
