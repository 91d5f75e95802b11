"""Make the sprite folder: drawings of the same kinds by many vendors, fonts, and textures.

Run ``python -m recipes.synthetic.build --out DIR``. npm and apt-get fetch about 310 MB of packages,
which stay in ``DIR/packages``: another run goes on where this one ended. Drawings in SVG need
``pip install resvg-py``. What cannot be had is told, and left out. SOURCES.md states the licences.
"""

import functools
import hashlib
import importlib
import io
import json
import logging
import re
import shutil
import subprocess
import tarfile
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from recipes.synthetic.kinds import KINDS, plural
from vlm_fo1.errors import ConfigError, FO1Error, item_errors
from vlm_fo1.jsonl import write_whole

logger = logging.getLogger(__name__)

SIDE = 64
"""Pixels of one square cell of an atlas."""
COLUMNS = 16
_VISIBLE = 24  # alpha from here on counts as the thing itself
MIT, BY = "Fluent Emoji by Microsoft, MIT", "CC-BY-4.0"


@dataclass(frozen=True)
class Vendor:
    """One family of drawings in one package."""

    style: str
    split: str
    """``train``; ``validation``: looked at during the work; ``final``: once, at the end."""
    package: str
    """npm's name and version, or ``deb:`` and Debian's name."""
    sha256: str
    """How the checksum of the archive begins."""
    licence: str
    drawings: str
    """Folder of images named by code point, or ``icons.json``, or what `clipart` picks."""


VENDORS = (
    Vendor("google", "train", "emoji-datasource-google@16.0.0", "fb5fd131b362aab7a555",
           "Noto Emoji by Google, Apache-2.0", "package/img/google/64"),
    Vendor("fluent", "train", "@lobehub/fluent-emoji-3d@1.1.0", "c1bb7eee7de090205a23",
           MIT, "package/assets"),
    Vendor("modern", "train", "@iconify-json/fluent-emoji@1.2.7", "8044210dbf11e016d4de",
           MIT, "icons.json"),
    Vendor("flat", "train", "@iconify-json/fluent-emoji-flat@1.2.6", "7d064769dee690815f82",
           MIT, "icons.json"),
    Vendor("contrast", "train", "@iconify-json/fluent-emoji-high-contrast@1.2.6",
           "0b92d48c90d2200bd499", MIT, "icons.json"),
    Vendor("blob", "train", "@iconify-json/noto-v1@1.2.5", "2bf62c26c2c2884aa99e",
           "Noto Emoji of 2016 by Google, Apache-2.0", "icons.json"),
    Vendor("firefox", "train", "@iconify-json/fxemoji@1.2.2", "f3e72b3c59d05e1db03b",
           "FxEmojis by Mozilla, Apache-2.0", "icons.json"),
    Vendor("streamline", "train", "@iconify-json/streamline-emojis@1.2.4", "5dac87c876b322500989",
           f"Streamline Emojis, {BY}", "icons.json"),
    Vendor("clipart", "train", "deb:openclipart-png", "f07f1545a2970c2cf3fa",
           "Open Clip Art Library, public domain", "clipart 0"),
    Vendor("clipart2", "train", "deb:openclipart-png", "f07f1545a2970c2cf3fa",
           "Open Clip Art Library, public domain", "clipart 1"),
    Vendor("twitter", "validation", "emoji-datasource-twitter@16.0.0", "f64a530c63bca463bd83",
           f"Twemoji by Twitter, {BY}", "package/img/twitter/64"),
    Vendor("emojione", "final", "@iconify-json/emojione@1.2.3", "26a14f44284407e8bcde",
           f"EmojiOne 2 by JoyPixels, {BY}", "icons.json"),
)  # fmt: skip
"""Who trains and who is held out, here and nowhere else."""

FONTS = {
    "fonts-dejavu-core": ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold"),
    "fonts-liberation2": ("LiberationSans-Regular", "LiberationSerif-Bold"),
    "fonts-comic-neue": ("ComicNeue-Bold",),
    "fonts-bebas-neue": ("BebasNeue-Regular",),
    "fonts-courier-prime": ("Courier Prime Bold",),
    "fonts-roboto-slab": ("RobotoSlab-Bold",),
}
"""Debian package to the fonts that signs are printed in."""
TEXTURES = ("brick.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png")
"""Photographs in scikit-image that show none of our kinds."""

_OTHER = """
    sheep ewe kiwi kiwi-fruit corn ear-of-corn scooter kick-scooter shoe running-shoe
    boot womans-boot gift wrapped-gift padlock locked lightbulb light-bulb train locomotive
    lantern red-paper-lantern target bullseye globe globe-showing-europe-africa
    puzzle puzzle-piece hourglass hourglass-not-done"""
_OTHER_NAMES: dict[str, str] = dict(zip(_OTHER.split()[::2], _OTHER.split()[1::2], strict=True))
"""Kinds whose name in sets of icons is neither ours nor Unicode's."""
DROPPED: Mapping[str, str] = {
    "blob": "basketball laptop",
    "firefox": "basketball bird fountain laptop tent umbrella window",
    "streamline": "castle fountain rainbow ship tent",
    "clipart": "moon",
}
"""Style to kinds that it draws as something else; seen on a sheet of all of them."""

_PICKS = """
    cat 2 dog 2 fox 0 tiger 0 1 pig 0 monkey 1 3 penguin 1 0 duck 3 butterfly 0 2 bee 0 3
    ladybug 0 1 spider 0 lizard 1 dolphin 0 3 fish 0 giraffe 1 elephant 2 camel 0 kangaroo 0
    sheep 0 goat 0 beaver 0 scorpion 0 squirrel 0 apple 0 4 pear 0 3 orange 0 3 lemon 0 2
    banana 0 2 watermelon 0 cherry 2 strawberry 0 2 peach 0 corn 1 potato 1 mushroom 0 1
    croissant 1 bread 1 pretzel 0 cheese 0 hamburger 0 pizza 2 0 sandwich 0 cookie 0 cake 3 2
    candy 1 lollipop 0 coffee 0 teapot 0 cocktail 0 steak 0 car 0 2 truck 0 1 motorcycle 0
    bicycle 0 train 1 rocket 0 sailboat 0 tree 3 tulip 0 cap 0 shirt 1 shoe 1 boot 0 guitar 0 1
    violin 2 trumpet 3 saxophone 0 hammer 3 1 axe 0 screwdriver 0 saw 0 broom 0 telescope 0
    pencil 1 paperclip 0 snowman 0 star 0 moon 3 umbrella 0 1 balloon 0 1 gift 3 4 camera 1 0
    television 0 telephone 3 laptop 0 2 battery 0 1 lightbulb 6 1 book 0 3 newspaper 0 envelope
    0 bomb 0 globe 1 2 feather 0 joystick 0 2 puzzle 0 anchor 0"""
"""Which of the clip arts that are named after a kind show it, chosen by eye."""
_NOT_ALONE = """
    with juice leaf core wedge box house road sign head bones skull and on in of bitten stand
    symbol map paw tracks track foot bw"""


def build(out: Path, packages: Path | None = None) -> list[str]:
    """Write the sprite folder: an atlas a vendor, fonts, textures, and ``sprites.json``.

    Args:
        out: Folder to make.
        packages: Folder where archives are, and stay; None takes ``packages`` in it.

    Returns:
        What could not be had and is left out, with the reason; empty if all is there.
    """
    packages = packages or out / "packages"
    for folder in (packages, out / "fonts", out / "textures"):
        folder.mkdir(parents=True, exist_ok=True)
    index_path = out / "sprites.json"
    index = {"side": SIDE, "columns": COLUMNS, "kinds": list(KINDS)}
    there = json.loads(index_path.read_text("utf-8")) if index_path.is_file() else {}
    styles: dict[str, Any] = there.pop("styles", {}) if there.get("kinds") == list(KINDS) else {}
    problems: list[str] = []
    steps = {vendor.style: functools.partial(_vendor, vendor, styles) for vendor in VENDORS}
    steps |= {package: functools.partial(_fonts, package) for package in FONTS}
    for name, step in {**steps, "textures": _textures}.items():
        logger.info("%s", name)
        try:
            with item_errors(name):
                step(out, packages)
        except FO1Error as error:
            problems.append(f"{name}: {error}")
        write_whole(index_path, json.dumps({**index, "styles": styles}, indent=1).encode() + b"\n")
    return problems


def _vendor(vendor: Vendor, styles: dict[str, Any], out: Path, packages: Path) -> None:
    dropped = DROPPED.get(vendor.style, "").split()
    path, facts = out / f"{vendor.style}.png", {**asdict(vendor), "dropped": dropped}
    entry = styles.pop(vendor.style, {})
    if entry.items() >= facts.items() and path.is_file():
        styles[vendor.style] = entry
        return
    archive = _fetched(vendor.package, packages, vendor.sha256)
    if vendor.drawings == "icons.json":
        found = _icons(archive)
    elif vendor.drawings.startswith("clipart"):
        found = _clipart(archive, int(vendor.drawings.split()[1]))
    else:
        found = _by_code_point(archive, vendor.drawings)
    atlas = Image.new("RGBA", (COLUMNS * SIDE, -(-len(KINDS) // COLUMNS) * SIDE))
    for index, kind in enumerate(KINDS):
        if kind in found and kind not in dropped:
            cell = fit(found[kind], SIDE)
            x = index % COLUMNS * SIDE + (SIDE - cell.width) // 2
            y = index // COLUMNS * SIDE + (SIDE - cell.height) // 2
            atlas.paste(cell, (x, y))
    atlas.save(path, optimize=True)
    styles[vendor.style] = {**facts, "file": path.name, "kinds": len(set(found) - {*dropped})}


def _fetched(package: str, packages: Path, sha256: str = "") -> Path:
    """The archive of a package, fetched unless it is there.

    Raises:
        ConfigError: It cannot be had, or is not the one whose checksum is known.
    """
    npm = not package.startswith("deb:")
    stem = package.lstrip("@").replace("/", "-").replace("@", "-") if npm else package[4:] + "_"
    pattern = f"{stem}.tgz" if npm else f"{stem}*.deb"
    there = sorted(packages.glob(pattern))
    if not there:
        command = (
            ["npm", "pack", "--silent", package] if npm else ["apt-get", "download", package[4:]]
        )
        if shutil.which(command[0]) is None:
            raise ConfigError(f"{command[0]} is not installed: put {pattern} into {packages}")
        done = subprocess.run(command, cwd=packages, capture_output=True, text=True, check=False)
        there = sorted(packages.glob(pattern))
        if done.returncode or not there:
            raise ConfigError(f"{' '.join(command)} failed: {done.stderr[-300:]}")
    found = hashlib.sha256(there[0].read_bytes()).hexdigest()
    if not found.startswith(sha256):
        raise ConfigError(f"{there[0]} has SHA-256 {found}, not {sha256}...: delete it, run again")
    return there[0]


def _members(archive: Path) -> dict[str, bytes]:
    """The files of an archive, by path."""
    content = archive.read_bytes()
    if archive.suffix == ".deb":
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        content = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        return {
            member.name: data.read()
            for member in files
            if member.isfile() and (data := files.extractfile(member)) is not None
        }


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGBA")


def _by_code_point(archive: Path, folder: str) -> dict[str, Image.Image]:
    kinds = {
        spelling: name
        for name, (_, code) in KINDS.items()
        for spelling in (code, f"{code}-fe0f", f"00{code}")
    }
    paths = {PurePosixPath(path): content for path, content in _members(archive).items()}
    return {
        kinds[path.stem.lower()]: _opened(content)
        for path, content in paths.items()
        if str(path.parent) == folder and path.stem.lower() in kinds
    }


def _icons(archive: Path) -> dict[str, Image.Image]:
    """Drawings of a set of icons, whose names follow Unicode's or are ours."""
    svg_to_bytes = importlib.import_module("resvg_py").svg_to_bytes
    icons = json.loads(_members(archive)["package/icons.json"])
    aliases = {name: alias["parent"] for name, alias in icons.get("aliases", {}).items()}
    found: dict[str, Image.Image] = {}
    for kind, (_, code) in KINDS.items():
        formal = unicodedata.name(chr(int(code, 16))).lower().replace(" ", "-")
        names = (_OTHER_NAMES.get(kind, formal), formal, formal.replace("-", ""), kind)
        names += (f"{kind}-face", f"{kind}-1", f"{kind}face", formal.removesuffix("-face"))
        for name in (aliases.get(name, name) for name in names):
            if name in icons["icons"]:
                icon = {**icons, **icons["icons"][name]}
                box = f"0 0 {icon.get('width', 16)} {icon.get('height', 16)}"
                head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">'
                svg = f"{head}{icon['body']}</svg>"
                found[kind] = _opened(bytes(svg_to_bytes(svg_string=svg, width=2 * SIDE)))
                break
    return found


def _clipart(archive: Path, which: int) -> dict[str, Image.Image]:
    """Of the clip arts that are named after a kind, the first or the second of those picked."""
    avoided = ("signs_and_symbols", "flags", "icons")
    named: dict[str, set[tuple[str, int, str]]] = {}
    members = _members(archive)
    for path in members:
        stem = PurePosixPath(path).stem.lower()
        words = re.split(r"[_\d\-]+", stem)
        if not path.endswith(".png") or set(words).intersection(_NOT_ALONE.split()):
            continue
        if not any(part in path for part in avoided):
            for word in words[:2]:
                named.setdefault(word, set()).add((words[0], len(stem), path))
    found: dict[str, Image.Image] = {}
    for kind, numbers in re.findall(r"([a-z]+)((?: \d+)+)", " ".join(_PICKS.split())):
        choices = list(named.get(kind, set()) | named.get(plural(kind), set()))
        choices.sort(key=lambda choice: (choice[0] != kind, *choice[1:]))
        if which < len(numbers.split()):
            found[kind] = _opened(members[choices[int(numbers.split()[which])][2]])
    return found


def _fonts(package: str, out: Path, packages: Path) -> None:
    members = _members(_fetched(f"deb:{package}", packages))
    for path, content in members.items():
        if PurePosixPath(path).stem in FONTS[package] and path.endswith(("ttf", "otf")):
            (out / "fonts" / PurePosixPath(path).name.replace(" ", "")).write_bytes(content)


def _textures(out: Path, packages: Path) -> None:
    del packages
    folder = Path(str(importlib.import_module("skimage").__file__)).parent / "data"
    for name in TEXTURES:
        image = Image.open(folder / name).convert("RGB")
        image.thumbnail((384, 384))
        image.save(out / "textures" / f"{PurePosixPath(name).stem}.jpg", quality=90)


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Cut away the transparent margin and scale the rest so that its long side is ``side``."""
    ys, xs = np.nonzero(np.asarray(picture.getchannel("A")) >= _VISIBLE)
    cut = picture.crop((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))
    factor = side / max(cut.size)
    size = (max(1, round(cut.width * factor)), max(1, round(cut.height * factor)))
    return cut.resize(size, Image.Resampling.LANCZOS)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    packages: Annotated[Path | None, typer.Option(help="Folder of the archives.")] = None,
) -> None:
    """Make the sprite folder; a message for each thing that is left out, then exit code 1."""  # noqa: DOC501 (help text)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    problems = build(out, packages)
    for problem in problems:
        typer.echo(f"left out: {problem}", err=True)
    raise typer.Exit(1 if problems else 0)


if __name__ == "__main__":
    typer.run(main)
