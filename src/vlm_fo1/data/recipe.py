"""A mixture as a config file gives it: which sources, how much of each."""

import hashlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlm_fo1.config import build, convert
from vlm_fo1.data.augment import AugmentConfig, AugmentedSource
from vlm_fo1.data.mixture import Mixture, Part
from vlm_fo1.data.sources import (
    CocoSource,
    CocoTextSource,
    ConversationsSource,
    InstanceConfig,
    JsonlSource,
    ReferencesSource,
    Source,
    VisualGenomeSource,
)
from vlm_fo1.errors import ConfigError, item_errors

_PATHS = ("path", "annotations", "references", "conversations", "descriptions")


def make_mixture(
    recipe: Mapping[str, Any],
    *,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    strict: bool = False,
) -> Mixture:
    """A mixture from plain values.

    Args:
        recipe: ``{"sources": [{"type": "coco", "weight": 3, "name": "mine", ...}, ...]}``: beside
            ``type``, ``weight``, ``name``, ``seed``, ``replay`` and ``augment`` every key is an
            argument of that source. ``replay: true`` says that it is there against forgetting.
            ``augment`` takes the settings of `AugmentConfig`; without it records stay as they are.
            ``bundled`` is what the bundled model was trained on. ``coco`` takes those of
            `InstanceConfig` under ``questions``. A type of the form ``module:function`` is a
            source of your own: the function gets the other keys as a dict, and the seed.
        seed: Of the draws, and of every source that has none of its own.
        rank: Which shard this is.
        world_size: How many shards there are.
        strict: Raise at a bad record instead of leaving it out.

    Returns:
        The mixture.

    Raises:
        ConfigError: An unknown type or key, or a value that cannot be used.
        FO1Error: A file of a source that cannot be used.
    """
    unknown = sorted(set(recipe) - {"sources"})
    if unknown or not isinstance(recipe.get("sources"), list | tuple) or not recipe["sources"]:
        raise ConfigError(f"a mixture has a list 'sources' and nothing else, got {sorted(recipe)}")
    parts = [_part(entry, number, seed) for number, entry in enumerate(recipe["sources"])]
    return Mixture(parts, seed=seed, rank=rank, world_size=world_size, strict=strict)


def _part(entry: Any, number: int, seed: int) -> Part:
    at = f"sources.{number}"
    values = convert(dict[str, Any], entry, at)
    kind = str(values.pop("type", None))
    make = _maker(kind, number)
    name = str(values.pop("name", f"{kind}-{number}"))
    weight = convert(float, values.pop("weight", 1.0), f"{at}.weight")
    own_seed = convert(int, values.pop("seed", seed), f"{at}.seed")
    replay = convert(bool, values.pop("replay", False), f"{at}.replay")
    changes = values.pop("augment", None)
    with item_errors(f"source {number} ({kind})"):
        source = make(values, own_seed, at)
    if changes is not None:
        config = convert(AugmentConfig, changes, f"{at}.augment")
        source = AugmentedSource(source, config, own_seed)
    return Part(name, source, weight, replay)


def fingerprint(recipe: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of every file that a recipe names, by path.

    Of a source of one's own these are the values that name a file.
    """
    found: dict[str, str] = {}
    for entry in recipe.get("sources", ()):
        if entry.get("type") in SOURCES:
            paths = [Path(str(entry[key])) for key in _PATHS if key in entry]
        else:
            texts = [value for value in entry.values() if isinstance(value, str | Path)]
            paths = [path for path in map(Path, texts) if path.is_file()]
        for path in paths:
            with path.open("rb") as file:
                found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _maker(kind: str, number: int) -> "SourceMaker":
    """What makes a source of this type: one of ours, or a function of somebody's own.

    Raises:
        ConfigError: There is neither.
    """
    if kind in SOURCES:
        return SOURCES[kind]
    module, colon, function = kind.partition(":")
    if not colon:
        near = get_close_matches(module, SOURCES, 1)
        raise ConfigError(
            f"source {number} has type {kind!r}: one of {', '.join(SOURCES)}, or module:function "
            "of your own, is needed" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    try:
        make = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"source {number} has type {kind!r}, which cannot be had: {error}"
        ) from error
    return lambda values, seed, _: make(values, seed)


def _coco(values: dict[str, Any], seed: int, at: str) -> Source:
    config = convert(InstanceConfig, values.pop("questions", {}), f"{at}.questions")
    return build(CocoSource, {**values, "config": config, "seed": seed}, at)


def _reader(kind: type[Source]) -> "SourceMaker":
    return lambda values, seed, at: build(kind, {**values, "seed": seed}, at)


def _bundled(values: dict[str, Any], seed: int, at: str) -> Source:
    path = Path(str(files("vlm_fo1") / "assets" / "replay" / "records.jsonl"))
    return build(JsonlSource, {**values, "path": path, "seed": seed}, at)


SourceMaker = Callable[[dict[str, Any], int, str], Source]
"""From the settings of a source, a seed and where the settings stand, to the source."""

SOURCES: Mapping[str, SourceMaker] = MappingProxyType(
    {
        "jsonl": _reader(JsonlSource),
        "bundled": _bundled,
        "coco": _coco,
        "references": _reader(ReferencesSource),
        "coco_text": _reader(CocoTextSource),
        "visual_genome": _reader(VisualGenomeSource),
        "conversations": _reader(ConversationsSource),
    }
)
"""Type of a source in a recipe to what makes it."""
