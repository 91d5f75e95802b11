"""A mixture as a config file gives it: which sources, how much of each."""

import hashlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlm_fo1.data.augment import AugmentConfig, AugmentedSource
from vlm_fo1.data.mixture import Mixture, Part
from vlm_fo1.data.scenes.config import SceneConfig, changed
from vlm_fo1.data.scenes.curriculum import CurriculumSource
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
from vlm_fo1.settings import convert

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
        recipe: ``{"sources": [{"type": "scenes", "weight": 3, "name": "scenes", ...}, ...]}``:
            beside ``type``, ``weight``, ``name``, ``seed`` and ``augment`` every key is an argument
            of that source. ``augment`` takes the settings of `AugmentConfig`; without it records
            stay as they are. ``scenes`` takes the settings of `SceneConfig` and ``curriculum``, a
            list of steps as in `CurriculumSource`; ``coco`` takes those of `InstanceConfig` under
            ``questions``.
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
    if kind not in SOURCES:
        near = get_close_matches(kind, SOURCES, 1)
        raise ConfigError(
            f"source {number} has type {kind!r}: one of {', '.join(SOURCES)} is needed"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    name = str(values.pop("name", f"{kind}-{number}"))
    weight = convert(float, values.pop("weight", 1.0), f"{at}.weight")
    own_seed = convert(int, values.pop("seed", seed), f"{at}.seed")
    changes = values.pop("augment", None)
    with item_errors(f"source {number} ({kind})"):
        source = SOURCES[kind](values, own_seed, at)
    if changes is not None:
        config = convert(AugmentConfig, changes, f"{at}.augment")
        source = AugmentedSource(source, config, own_seed)
    return Part(name, source, weight)


def fingerprint(recipe: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of every file that a recipe names, and of the sprites; by path."""
    found: dict[str, str] = {}
    for entry in recipe.get("sources", ()):
        paths = [Path(str(entry[key])) for key in _PATHS if key in entry]
        if entry.get("type") == "scenes" and entry.get("sprites"):
            paths.append(Path(str(entry["sprites"])) / "sprites.json")
        for path in paths:
            with path.open("rb") as file:
                found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _scenes(values: dict[str, Any], seed: int, at: str) -> Source:
    del at
    steps = values.pop("curriculum", ())
    return CurriculumSource(changed(SceneConfig(), values), steps, seed)


def _coco(values: dict[str, Any], seed: int, at: str) -> Source:
    config = convert(InstanceConfig, values.pop("questions", {}), f"{at}.questions")
    return _made(CocoSource, {**values, "config": config}, seed, at)


def _reader(kind: Callable[..., Source]) -> Callable[[dict[str, Any], int, str], Source]:
    def make(values: dict[str, Any], seed: int, at: str) -> Source:
        return _made(kind, values, seed, at)

    return make


def _made(kind: Callable[..., Source], values: dict[str, Any], seed: int, at: str) -> Source:
    parameters = signature(kind).parameters
    _check_keys(kind.__name__, values, [name for name in parameters if name != "seed"])
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in values]
    if missing:
        raise ConfigError(f"{kind.__name__} needs {', '.join(missing)}")
    given = {
        key: value if key == "config" else convert(parameters[key].annotation, value, f"{at}.{key}")
        for key, value in values.items()
    }
    return kind(**given, seed=seed)


def _check_keys(name: str, values: Mapping[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, 1)
            raise ConfigError(
                f"{name} has no {key!r}: it has {', '.join(known)}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )


SOURCES: Mapping[str, Callable[[dict[str, Any], int, str], Source]] = MappingProxyType(
    {
        "scenes": _scenes,
        "jsonl": _reader(JsonlSource),
        "coco": _coco,
        "references": _reader(ReferencesSource),
        "coco_text": _reader(CocoTextSource),
        "visual_genome": _reader(VisualGenomeSource),
        "conversations": _reader(ConversationsSource),
    }
)
"""Type of a source in a recipe to what makes it."""
