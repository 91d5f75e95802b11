"""A proposer that remembers on disk what another one offered.

An entry is one file: a mark, the hash of what follows, then an ``.npz`` of the regions. It is
written beside its place and moved there, so that other processes see all of it or nothing; one
whose hash does not fit is thrown away and computed anew.
"""

import hashlib
import io
import json
import logging
import os
import tempfile
import threading
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_fo1.errors import BoxError, ConfigError
from vlm_fo1.proposers.base import Proposer, Selection, check_queries, selection_of
from vlm_fo1.proposers.digest import digest_of
from vlm_fo1.regions import Regions

logger = logging.getLogger(__name__)

GIBIBYTE = 2**30
_MARK = b"FO1 proposals 1\n"
_HASH_BYTES = 16
_ENTRY, _PARTIAL = ".regions", ".partial"
_STALE_S = 3600
"""Age at which a file that was never finished is taken for a dead process's."""
_SLACK = 20
"""The folder is looked through when what this process wrote reaches this part of the limit."""


class CachedProposer:
    """Offers what ``proposer`` offers, from disk where it was asked before.

    The key is what decides the regions: the pixels of the image, the proposer's name and
    fingerprint, and the queries. Several threads, proposers and processes may share a folder.

    Args:
        proposer: What is asked when the folder does not know.
        folder: Where entries are kept; made if it is not there.
        max_bytes: The entries used longest ago are deleted when all take more than this, to about
            a twentieth. Each process that writes may go over it by a twentieth.

    Raises:
        ConfigError: The folder cannot be written to, or the limit is below 1.
    """

    def __init__(
        self, proposer: Proposer, folder: str | Path, *, max_bytes: int = 2 * GIBIBYTE
    ) -> None:
        if max_bytes < 1:
            raise ConfigError(f"max_bytes = {max_bytes}: at least 1 byte, or no cache at all")
        self.proposer = proposer
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.hits = 0
        """Images that were found on disk."""
        self.misses = 0
        """Images that the proposer was asked about."""
        self._unchecked_bytes: int | None = None
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ConfigError(
                f"the cache folder {self.folder} cannot be written to ({error.strerror}): "
                "name another one"
            ) from error

    @property
    def name(self) -> str:
        """Of the proposer behind it."""
        return self.proposer.name

    @property
    def fingerprint(self) -> str:
        """Of the proposer behind it."""
        return self.proposer.fingerprint

    @property
    def requires_labels(self) -> bool:
        """As the proposer behind it."""
        return self.proposer.requires_labels

    @property
    def selection(self) -> Selection:
        """Of the proposer behind it."""
        return selection_of(self.proposer)

    def propose(
        self, images: Sequence[Image.Image], *, queries: Sequence[str] | None = None
    ) -> list[Regions]:
        """As the proposer behind it; that one is asked once, about the images that are new.

        Raises:
            PromptError: Queries are missing, or given to a proposer that takes none.
        """
        names = check_queries(self.name, queries, needed=self.requires_labels)
        paths = [self._path(image, names) for image in images]
        known: dict[Path, Regions] = {}
        new: dict[Path, Image.Image] = {}
        for path, image in zip(paths, images, strict=True):
            if path in known or path in new:
                continue
            regions = self._read(path)
            if regions is None:
                new[path] = image
            else:
                known[path] = regions
        if new:
            asked = self.proposer.propose(list(new.values()), queries=names or None)
            for path, regions in zip(new, asked, strict=True):
                known[path] = regions
                self._write(path, regions)
        with self._lock:
            self.misses += len(new)
            self.hits += len(images) - len(new)
        return [known[path] for path in paths]

    def _path(self, image: Image.Image, names: list[str]) -> Path:
        key = digest_of(self.name, self.fingerprint, names, image.mode, image.size, image.tobytes())
        return self.folder / key[:2] / f"{key}{_ENTRY}"

    def _read(self, path: Path) -> Regions | None:
        """What an entry holds; None where there is none, or none that is whole."""
        try:
            regions = unpack(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("cached proposals %s cannot be read: %s", path, error)
            return None
        except BoxError as error:
            logger.warning("cached proposals %s are broken and made anew: %s", path, error)
            path.unlink(missing_ok=True)
            return None
        try:
            os.utime(path)  # when it was last used
        except OSError as error:  # another process has just deleted it, or it is read only
            logger.debug("%s: %s", path, error)
        return regions

    def _write(self, path: Path, regions: Regions) -> None:
        data = pack(regions)
        try:
            path.parent.mkdir(exist_ok=True)
            handle, partial = tempfile.mkstemp(_PARTIAL, path.stem, path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(partial).replace(path)
        except OSError as error:
            logger.warning("proposals are not cached in %s: %s", self.folder, error)
            return
        with self._lock:
            if self._unchecked_bytes is None:
                due = True
            else:
                self._unchecked_bytes += len(data)
                due = self._unchecked_bytes * _SLACK > self.max_bytes
            if due:
                self._unchecked_bytes = 0
                self._evict()

    def _evict(self) -> None:
        """Delete what was used longest ago until the rest fits, and what was never finished."""
        entries: list[tuple[float, int, Path]] = []
        now = time.time()
        for path in self.folder.glob("*/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix == _ENTRY:
                entries.append((status.st_mtime, status.st_size, path))
            elif path.suffix == _PARTIAL and now - status.st_mtime > _STALE_S:
                path.unlink(missing_ok=True)
        total = sum(size for _, size, _ in entries)
        if total <= self.max_bytes:
            return
        target = self.max_bytes - self.max_bytes // _SLACK
        for _, size, path in sorted(entries):
            if total <= target:
                break
            path.unlink(missing_ok=True)
            total -= size


def pack(regions: Regions) -> bytes:
    """Regions as the bytes of an entry, masks included."""
    arrays: dict[str, Any] = {"xyxy": regions.xyxy, "size_wh": np.array(regions.size_wh)}
    for name in ("scores", "confidence"):
        if getattr(regions, name) is not None:
            arrays[name] = getattr(regions, name)
    if regions.labels is not None:
        arrays["labels"] = np.frombuffer(json.dumps(regions.labels).encode(), np.uint8)
    if regions.masks is not None:
        arrays["masks"] = np.packbits(regions.masks.reshape(-1))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    body = buffer.getvalue()
    return _MARK + _hash(body) + body


def unpack(data: bytes) -> Regions:
    """Regions from the bytes of an entry.

    Raises:
        BoxError: They are not whole, or no entry.
    """
    start = len(_MARK) + _HASH_BYTES
    if not data.startswith(_MARK):
        raise BoxError("they do not begin as proposals of this version do")
    body = data[start:]
    if _hash(body) != data[len(_MARK) : start]:
        raise BoxError(f"their {len(data)} bytes do not have the hash that was written with them")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as stored:
            arrays = dict(stored)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BoxError(f"they hold no arrays: {error}") from error
    width, height = (int(side) for side in arrays["size_wh"])
    count = len(arrays["xyxy"])
    masks = labels = None
    if "masks" in arrays:
        bits = np.unpackbits(arrays["masks"], count=count * width * height)
        masks = bits.reshape(count, height, width).astype(np.bool_)
    if "labels" in arrays:
        labels = tuple(json.loads(arrays["labels"].tobytes()))
    return Regions(
        arrays["xyxy"],
        (width, height),
        arrays.get("scores"),
        arrays.get("confidence"),
        labels,
        masks,
    )


def _hash(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_HASH_BYTES).digest()
