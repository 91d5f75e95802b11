"""Names of images as files of other tools write them."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit


def locate(folder: Path, name: str) -> Path:
    """The file that a name in an annotation file means.

    Beside the name as it stands this tries ``/`` for a backslash, ``%20`` as a blank, accents
    composed or not (macOS takes them apart), and the end of a URL.

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
    for each in dict.fromkeys([*names, *map(unquote, names)]):
        yield each
        yield unicodedata.normalize("NFC", each)
        yield unicodedata.normalize("NFD", each)
