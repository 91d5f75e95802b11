"""Make the sprite folder from npm's emoji packages.

Run ``python -m recipes.synthetic.build --out DIR``.

Needs npm (``npm pack`` fetches about 150 MB, which are not kept) or, with ``--packages``, a folder
where the three archives lie already. The result is one PNG atlas a style and ``sprites.json``.
SOURCES.md beside this file states where the pictures come from and their licences.
"""

import argparse
import hashlib
import io
import json
import logging
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.synthetic.kinds import KINDS
from vlm_fo1.errors import ConfigError

logger = logging.getLogger(__name__)

SIDE = 64
"""Pixels of one square cell of an atlas."""
COLUMNS = 16
_VISIBLE = 24  # alpha from here on counts as the thing itself


@dataclass(frozen=True, kw_only=True)
class Source:
    """A vendor's set of pictures in one npm package."""

    style: str
    package: str
    version: str
    folder: str
    """Where the pictures lie in the archive."""
    suffix: str
    licence: str
    held_out: bool = False
    """Kept away from training, to see how names carry over to drawings never seen."""

    @property
    def archive(self) -> str:
        """File name that ``npm pack`` gives."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


SOURCES = (
    Source(
        style="google",
        package="emoji-datasource-google",
        version="16.0.0",
        folder="package/img/google/64",
        suffix=".png",
        licence="Noto Emoji by Google, Apache-2.0",
    ),
    Source(
        style="fluent",
        package="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        folder="package/assets",
        suffix=".webp",
        licence="Fluent Emoji by Microsoft, MIT",
    ),
    Source(
        style="twitter",
        package="emoji-datasource-twitter",
        version="16.0.0",
        folder="package/img/twitter/64",
        suffix=".png",
        licence="Twemoji by Twitter, CC-BY-4.0",
        held_out=True,
    ),
)


def build(out: Path, packages: Path | None = None) -> Path:
    """Write the sprite folder.

    Args:
        out: Folder to make.
        packages: Folder with the archives of `SOURCES`; None fetches them with ``npm pack``.

    Returns:
        Path of ``sprites.json``.

    Raises:
        ConfigError: npm fails, or an archive lacks a kind.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if packages is None else packages
        if packages is None:
            _fetch(folder)
        out.mkdir(parents=True, exist_ok=True)
        styles = {}
        for source in SOURCES:
            logger.info("reading %s", source.archive)
            atlas = _atlas(_read(folder / source.archive, source))
            path = out / f"{source.style}.png"
            atlas.save(path, optimize=True)
            styles[source.style] = {
                "file": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "package": f"{source.package}@{source.version}",
                "licence": source.licence,
                "held_out": source.held_out,
            }
    index = {"side": SIDE, "columns": COLUMNS, "kinds": list(KINDS), "styles": styles}
    path = out / "sprites.json"
    path.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return path


def _fetch(folder: Path) -> None:
    names = [f"{source.package}@{source.version}" for source in SOURCES]
    logger.info("npm pack %s", " ".join(names))
    try:
        subprocess.run(
            ["npm", "pack", "--silent", *names], cwd=folder, check=True, capture_output=True
        )
    except FileNotFoundError as error:
        raise ConfigError("npm is not installed: install it, or pass --packages") from error
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"npm pack failed: {error.stderr.decode()[-500:]}") from error


def _read(archive: Path, source: Source) -> list[Image.Image]:
    """One picture per kind, in the order of `KINDS`.

    Raises:
        ConfigError: No archive, or kinds that it lacks.
    """
    if not archive.is_file():
        raise ConfigError(f"{archive} does not exist: run npm pack for {source.package} there")
    wanted: dict[str, str] = {}
    for name, (_, code) in KINDS.items():
        for spelling in (code, f"{code}-fe0f", f"00{code}"):
            wanted[spelling] = name
    found: dict[str, Image.Image] = {}
    with tarfile.open(archive) as files:
        for member in files:
            path = Path(member.name)
            if str(path.parent) != source.folder or path.suffix != source.suffix:
                continue
            name = wanted.get(path.stem.lower())
            content = files.extractfile(member) if name else None
            if name and content is not None:
                found[name] = Image.open(io.BytesIO(content.read())).convert("RGBA")
    missing = [name for name in KINDS if name not in found]
    if missing:
        raise ConfigError(f"{archive.name} has no picture of {', '.join(missing)}")
    return [found[name] for name in KINDS]


def _atlas(pictures: Sequence[Image.Image]) -> Image.Image:
    rows = -(-len(pictures) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * SIDE, rows * SIDE))
    for index, picture in enumerate(pictures):
        cell = fit(picture, SIDE)
        column, row = index % COLUMNS, index // COLUMNS
        x = column * SIDE + (SIDE - cell.width) // 2
        y = row * SIDE + (SIDE - cell.height) // 2
        atlas.paste(cell, (x, y))
    return atlas


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Cut away the transparent margin and scale the rest so that its long side is ``side``."""
    alpha = np.asarray(picture.getchannel("A"))
    ys, xs = np.nonzero(alpha >= _VISIBLE)
    cut = picture.crop((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))
    factor = side / max(cut.size)
    size = (max(1, round(cut.width * factor)), max(1, round(cut.height * factor)))
    return cut.resize(size, Image.Resampling.LANCZOS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the builder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--packages", type=Path, help="folder with the npm archives")
    values = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    logger.info("wrote %s", build(values.out, values.packages))


if __name__ == "__main__":
    main()
