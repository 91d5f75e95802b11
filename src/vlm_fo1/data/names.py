"""Names of images as files of other tools write them."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

_ELSEWHERE = re.compile(r"/|\.\./|[A-Za-z]:/")
"""How a path begins that leads out of the folder of the images."""


def locate(folder: Path, name: str) -> Path:
    """The file that a name in an annotation file means.

    Beside the name as it stands this tries ``/`` for a backslash, ``%20`` as a blank, accents
    composed or not (macOS takes them apart), the end of a URL, and of a path that leaves the folder
    (``..``, or from the root of the machine where it was written) as much as there is here.

    Args:
        folder: Where the images are.
        name: A path in it, or a URL.

    Returns:
        The first that exists; the name as it stands if none does.
    """
    spellings = list(_spellings(name))
    found = (path for spelling in spellings if (path := folder / spelling).is_file())
    return next(found, folder / spellings[0])


def _spellings(name: str) -> Iterator[str]:
    if "://" in name:
        parts = urlsplit(name).path.split("/")
        names = ["/".join(parts[-2:]).lstrip("/"), parts[-1]]  # val2017/1.jpg, 1.jpg
    else:
        names = [name, name.replace("\\", "/")]
        if _ELSEWHERE.match(names[1]):
            parts = [part for part in names[1].split("/") if part not in {"", ".", ".."}]
            names += ["/".join(parts[start:]) for start in range(len(parts))]
    for each in dict.fromkeys([*names, *map(unquote, names)]):
        yield each
        yield unicodedata.normalize("NFC", each)
        yield unicodedata.normalize("NFD", each)
