"""Which images IMAGE names, and where the drawing of each goes."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from vlm_fo1.errors import ConfigError, ImageError, PromptError, counted
from vlm_fo1.jsonl import check_writable, write_whole

if TYPE_CHECKING:
    from PIL.Image import Image


def find_images(image: str, errors: Console, *, aside: Path | None = None) -> list[Path]:
    """The images that IMAGE names, sorted; hidden files are none.

    Args:
        image: A file, a folder or a pattern.
        errors: Where it is said that images are left out because nothing here reads their kind.
        aside: A folder inside that folder which is not searched: where the drawings go.

    Raises:
        ImageError: Nothing there.
    """
    from vlm_fo1.images import HEIF_REMEDY, images_among, without_reader

    if not image:
        raise ImageError("IMAGE is empty: name an image, a folder or a pattern")
    path = Path(image)
    if path.is_dir():
        there = [p for p in path.rglob("*") if not _hidden(p.relative_to(path)) and p.is_file()]
        if aside is not None and aside.resolve() != path.resolve():
            there = [p for p in there if not p.resolve().is_relative_to(aside.resolve())]
        found, nothing = images_among(there), f"the folder {path} holds no images"
    elif path.exists() or not any(sign in image for sign in "*?["):
        return [path]  # a missing file is reported as one, by whoever opens it
    else:
        there = _matching(path)
        unread = set(without_reader(there))
        found, nothing = [p for p in there if p not in unread], f"no image matches {image}"
    left_out = without_reader(there)
    said = f"{counted(len(left_out), 'HEIC image')}: {HEIF_REMEDY}"
    if not found:
        raise ImageError(f"{nothing}{f' but {said}' * bool(left_out)}")
    if left_out:
        errors.print(Text(f"skipped {said}", style="yellow"), soft_wrap=True)
    return sorted(found)


def _hidden(path: Path) -> bool:
    """Whether it, or a folder to it, is one that a listing leaves out: ``._a.jpg``."""
    return any(part.startswith(".") for part in path.parts)


def _matching(pattern: Path) -> list[Path]:
    """The files that a pattern matches; as in a shell, ``*`` matches no hidden ones.

    Raises:
        ImageError: It is no pattern.
    """
    root = Path(pattern.anchor)
    fixed = {part for part in pattern.parts if part.startswith(".")}
    try:
        there = [p for p in root.glob(str(pattern.relative_to(root))) if p.is_file()]
    except ValueError as error:
        raise ImageError(f"{pattern} is no pattern: {error}") from error
    if any(sign in part for part in fixed for sign in "*?["):
        return there
    return [p for p in there if not _hidden(Path(*(part for part in p.parts if part not in fixed)))]


def check_words(words: Sequence[str]) -> None:
    """Refuse what was typed as words and is a file: the rest of a pattern without quotes.

    Raises:
        PromptError: There is a file of that name.
    """
    for word in words:
        path = Path(word)
        try:
            is_file = bool(path.suffix or len(path.parts) > 1) and path.is_file()
        except OSError:  # too long for a name
            is_file = False
        if is_file:
            raise PromptError(
                f"{word!r} is a file, not words to ask with: to ask about several images, put "
                "the pattern in quotes ('*.jpg'), or name their folder"
            )


def save_drawing(image: "Image", path: Path) -> None:
    """Write a drawing whose place `plan_drawings` gave.

    Raises:
        OutputError: The disk refuses it.
    """
    from PIL import Image

    kind = Image.registered_extensions()[path.suffix.lower()]
    content = io.BytesIO()
    image.save(content, format=kind)
    write_whole(path, content.getvalue())


def plan_drawings(out: Path | None, images: list[Path]) -> dict[Path, Path]:
    """Where the drawing of each image goes; makes the folders.

    Args:
        out: A file for one image, else a folder: one that exists, or a name without a suffix.
        images: All images; in a folder their drawings keep the subfolders they are in.

    Returns:
        Image to drawing; empty without ``out``.

    Raises:
        ImageError: One file for several images, a kind of file that cannot be written, or a
            drawing that would take the place of an image.
        OutputError: A place that cannot be written.
    """
    if out is None:
        return {}
    if out.suffix and not out.is_dir():
        if len(images) > 1:
            raise ImageError(
                f"--out {out} is one file for {len(images)} images: name a folder that exists, "
                "or one without a dot in its name"
            )
        check_kind(out)
        drawings = {images[0]: out}
    else:
        drawings = _in_folder(out, images)
    originals = {path.resolve() for path in images}
    seen: set[Path] = set()
    for path, drawing in drawings.items():
        if drawing.resolve() in originals:
            raise ImageError(
                f"--out {out} would put a drawing of {path} over {drawing}: name another place"
            )
        if drawing.is_dir() or drawing.parent not in seen:
            check_writable(drawing)
        seen.add(drawing.parent)
    return drawings


def check_apart(out: Path | None, save: Path | None) -> None:
    """Refuse one file for two things.

    Raises:
        ConfigError: ``--out`` and ``--save`` name the same file.
    """
    if out is not None and save is not None and out.resolve() == save.resolve():
        raise ConfigError(f"--out and --save both name {out}: a drawing and JSON need a file each")


def check_kind(out: Path) -> None:
    """Refuse to draw to a file of a kind that cannot be written, before anything is drawn.

    Raises:
        ImageError: It is one.
    """
    from PIL import Image

    from vlm_fo1.images import IMAGE_SUFFIXES

    kinds = Image.registered_extensions()
    known = {suffix for suffix in IMAGE_SUFFIXES if kinds.get(suffix) in Image.SAVE}
    if out.suffix.lower() not in known:
        raise ImageError(
            f"--out {out}: no image can be written as {out.suffix}; "
            f"one of {', '.join(sorted(known))} is needed"
        )


def _in_folder(out: Path, images: list[Path]) -> dict[Path, Path]:
    """One drawing an image, ``a/b.png`` as ``b.jpg``, or ``b.png.jpg`` where a ``b.jpg`` is."""
    root = images[0].parent
    while not all(path.is_relative_to(root) for path in images):
        root = root.parent
    plain = {path: path.relative_to(root).with_suffix(".jpg") for path in images}
    times = Counter(plain.values())
    for path, name in plain.items():
        if times[name] > 1:
            plain[path] = name.with_name(f"{path.name}.jpg")
    return {path: out / name for path, name in plain.items()}
