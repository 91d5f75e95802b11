"""Which pictures IMAGE names, and where the drawing of each goes."""

from collections import Counter
from pathlib import Path

from vlm_fo1.errors import ImageError


def find_pictures(image: str, *, aside: Path | None = None) -> list[Path]:
    """The pictures that IMAGE names, sorted.

    Args:
        image: A file, a folder or a pattern.
        aside: A folder inside that folder which is not searched: where the drawings go.

    Raises:
        ImageError: Nothing there.
    """
    from vlm_fo1.images import IMAGE_SUFFIXES

    if not image:
        raise ImageError("IMAGE is empty: name a picture, a folder or a pattern")
    path = Path(image)
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
        if aside is not None and aside.resolve() != path.resolve():
            found = [p for p in found if not p.resolve().is_relative_to(aside.resolve())]
        if not found:
            raise ImageError(f"the folder {path} holds no pictures")
        return sorted(found)
    if path.exists() or not any(sign in image for sign in "*?["):
        return [path]  # a missing file is reported as one, by whoever opens it
    root = Path(path.anchor) if path.is_absolute() else Path()
    try:
        found = sorted(p for p in root.glob(str(path.relative_to(root))) if p.is_file())
    except ValueError as error:
        raise ImageError(f"{image} is no pattern: {error}") from error
    if not found:
        raise ImageError(f"no picture matches {image}")
    return found


def plan_drawings(out: Path | None, pictures: list[Path]) -> dict[Path, Path]:
    """Where the drawing of each picture goes; makes the folders.

    Args:
        out: A file for one picture, else a folder: one that exists, or a name without a suffix.
        pictures: All pictures; in a folder their drawings keep the subfolders they are in.

    Returns:
        Picture to drawing; empty without ``out``.

    Raises:
        ImageError: One file for several pictures, a kind of file that cannot be written, or a
            drawing that would take the place of a picture.
    """
    if out is None:
        return {}
    if out.suffix and not out.is_dir():
        if len(pictures) > 1:
            raise ImageError(
                f"--out {out} is one file for {len(pictures)} pictures: name a folder that exists, "
                "or one without a dot in its name"
            )
        check_kind(out)
        drawings = {pictures[0]: out}
    else:
        drawings = _in_folder(out, pictures)
    originals = {path.resolve() for path in pictures}
    for path, drawing in drawings.items():
        if drawing.resolve() in originals:
            raise ImageError(
                f"--out {out} would put a drawing of {path} over {drawing}: name another place"
            )
        drawing.parent.mkdir(parents=True, exist_ok=True)
    return drawings


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
            f"--out {out}: no picture can be written as {out.suffix}; "
            f"one of {', '.join(sorted(known))} is needed"
        )


def _in_folder(out: Path, pictures: list[Path]) -> dict[Path, Path]:
    """One drawing a picture, ``a/b.png`` as ``b.jpg``, or ``b.png.jpg`` where a ``b.jpg`` is."""
    root = pictures[0].parent
    while not all(path.is_relative_to(root) for path in pictures):
        root = root.parent
    plain = {path: path.relative_to(root).with_suffix(".jpg") for path in pictures}
    times = Counter(plain.values())
    for path, name in plain.items():
        if times[name] > 1:
            plain[path] = name.with_name(f"{path.name}.jpg")
    return {path: out / name for path, name in plain.items()}
