"""YAML to frozen dataclasses and back, strictly.

An unknown key is an error with the nearest known name, a value of the wrong kind is an error with
its path, and what `dump` writes `read` gives back unchanged.
"""

import copy
import dataclasses
import difflib
import inspect
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from vlm_fo1.errors import ConfigError, FO1Error

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, and a key that is no plain text or number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping that comes next, as it is written: merge keys are not followed yet.

        Raises:
            ConfigError: A key stands twice, or is a list or a mapping.
        """
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(
                    f"line {line}: a key is a {key.id}, a name is needed; if this is a place "
                    "such as {{ x }} that a template left open, fill it in, or quote it"
                )
            if (key.tag, key.value) in seen:
                raise ConfigError(f"line {line}: key {key.value!r} stands twice; keep one of them")
            seen.add((key.tag, key.value))
        return node


def read(path: str | Path, kind: type[T], overrides: Sequence[str] = ()) -> T:
    """Read a configuration file.

    Args:
        path: A YAML file.
        kind: The dataclass it describes.
        overrides: ``dotted.key=value`` each, the value in YAML; list items by number
            (``stages.0.steps=100``).

    Raises:
        ConfigError: The file cannot be read, or what it says does not fit ``kind``.
    """
    values = read_mapping(path)
    for override in overrides:
        _override(values, override)
    try:
        return build(kind, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_mapping(path: str | Path) -> dict[Any, Any]:
    """The keys and values of a YAML file, as they are.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or holds something else.
    """
    values = _yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {_kind(values)}: a mapping of keys to values is needed")
    return values


def _yaml(text: str, name: str) -> Any:
    """What a YAML text holds.

    Raises:
        ConfigError: It is not YAML, or a key stands twice; with the name.
    """
    try:
        return yaml.load(text, _Loader)
    except ConfigError as error:
        raise ConfigError(f"{name}, {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as the date 2024-13-01
        raise ConfigError(
            f"{name} cannot be read as YAML: {' '.join(str(error).split())}"
        ) from error


def read_text(path: str | Path, raises: type[FO1Error] = ConfigError) -> str:
    """The text of a file in UTF-8, with or without the mark that some editors put first.

    Args:
        path: The file.
        raises: The error of who asks.

    Raises:
        FO1Error: Of that kind: the file is missing, cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise raises(f"{path} does not exist: check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise raises(f"{path} cannot be read as UTF-8 text: {reason}") from error


def read_json(path: str | Path, raises: type[FO1Error] = ConfigError) -> Any:
    """What a JSON file holds.

    Args:
        path: The file.
        raises: The error of who asks.

    Raises:
        FO1Error: Of that kind: see `read_text`, or it is not JSON; a pointer that Git LFS left in
            place of the file is named as such.
    """
    text = read_text(path, raises)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.startswith("version https://git-lfs"):
            raise raises(
                f"{path} is a Git LFS pointer, not the file itself: run 'git lfs pull' in its "
                "folder, or download the file again"
            ) from error
        raise raises(
            f"{path} is {'not JSON: ' + str(error) if text.strip() else 'empty'}"
        ) from error


def read_object(path: str | Path, raises: type[FO1Error] = ConfigError) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file.
        raises: The error of who asks.

    Raises:
        FO1Error: Of that kind: see `read_json`, or it holds something else.
    """
    values = read_json(path, raises)
    if not isinstance(values, dict):
        raise raises(f"{path} holds {type(values).__name__}, an object is needed")
    return values


def build(kind: type[T], values: Mapping[str, Any], at: str = "") -> T:
    """Make a dataclass, or another class whose arguments are annotated, from plain values.

    Args:
        kind: The class.
        values: Plain values, as YAML gives them.
        at: Path of these values, for messages.

    Raises:
        ConfigError: An unknown or missing key, or a value of the wrong kind.
    """
    hints = get_type_hints(kind.__init__)
    known = inspect.signature(kind).parameters
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown key {_join(at, key)!r}: {hint}")
    given = {key: convert(hints[key], value, _join(at, key)) for key, value in values.items()}
    missing = [
        name for name, one in known.items() if name not in given and one.default is one.empty
    ]
    if missing:
        raise ConfigError(f"{_join(at, missing[0])!r} is needed and has no default: add it")
    try:
        return kind(**given)
    except ConfigError as error:
        raise ConfigError(f"{at}: {error}" if at else str(error)) from error


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths to what YAML and JSON hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def dump(config: Any) -> str:
    """The YAML of a configuration, defaults written out; `read` gives the same value back."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=100)


def differences(before: Any, after: Any) -> list[str]:
    """The dotted keys in which two plain values differ, with both values."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return [
        f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, dataclasses.MISSING) != new.get(key, dataclasses.MISSING)
    ]


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, _join(at, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, _join(at, index))
    else:
        yield at, value


def _override(values: dict[str, Any], override: str) -> None:
    """Put one ``dotted.key=value`` into plain values.

    Raises:
        ConfigError: Not of this form, or the path leads through something that has no keys.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"override {override!r}: write it as dotted.key=value")
    node: Any = values
    *parents, last = path.split(".")
    for position, key in enumerate([*parents, last]):
        where = ".".join([*parents, last][: position + 1])
        if isinstance(node, list):
            if not key.isdecimal() or int(key) >= len(node):
                raise ConfigError(f"override {override!r}: {where} has {len(node)} items from 0")
            step: Any = int(key)
        elif isinstance(node, dict):
            step = key
        else:
            raise ConfigError(f"override {override!r}: {where} is below a plain value")
        if position == len(parents):
            node[step] = _yaml(text, f"override {override!r}: the value")
        else:
            below = node.get(step) if isinstance(node, dict) else node[step]
            # A copy: what a YAML anchor names stands in other places too, which stay as they are.
            node[step] = copy.copy(below) if isinstance(below, dict | list) else below
            if isinstance(node, dict) and below is None:
                node[step] = {}
            node = node[step]


def convert(hint: Any, value: Any, at: str) -> Any:
    """A plain value as the annotated type.

    Args:
        hint: The annotation.
        value: The value, as YAML gives it.
        at: Its path, for messages.

    Raises:
        ConfigError: It is of another kind.
    """
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value, at)
    if origin is Literal:
        if value not in get_args(hint):
            choices = ", ".join(repr(choice) for choice in get_args(hint))
            raise ConfigError(f"{at} = {value!r}: it must be one of {choices}")
        return value
    if origin in (tuple, list):
        return _convert_items(hint, value, at)
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{at} = {value!r} is {_kind(value)}: a mapping is needed")
        item = (get_args(hint) or (str, Any))[1]
        return {str(key): convert(item, part, _join(at, key)) for key, part in value.items()}
    if dataclasses.is_dataclass(hint) and not isinstance(value, cast("type[Any]", hint)):
        if not isinstance(value, dict):
            raise ConfigError(f"{at} = {value!r} is {_kind(value)}: a mapping of keys is needed")
        return build(cast("type[Any]", hint), value, at)
    return _convert_scalar(hint, value, at)


def _convert_union(options: tuple[Any, ...], value: Any, at: str) -> Any:
    """The first member of a union that takes the value.

    Raises:
        ConfigError: None of them does.
    """
    if value is None and type(None) in options:
        return None
    problems: list[str] = []
    for option in (option for option in options if option is not type(None)):
        try:
            return convert(option, value, at)
        except ConfigError as error:
            problems.append(str(error))
    raise ConfigError("; or ".join(problems))


def _convert_items(hint: Any, value: Any, at: str) -> Any:
    """A list as a tuple or list of one item type, or a tuple of fixed length.

    Raises:
        ConfigError: Not a list, or of another length.
    """
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{at} = {value!r} is {_kind(value)}: a list is needed")
    kinds = get_args(hint)
    if get_origin(hint) is list or kinds[-1] is Ellipsis:
        items = [convert(kinds[0], part, _join(at, i)) for i, part in enumerate(value)]
        return items if get_origin(hint) is list else tuple(items)
    if len(value) != len(kinds):
        raise ConfigError(f"{at} = {value!r} has {len(value)} items, {len(kinds)} are needed")
    pairs = zip(kinds, value, strict=True)
    return tuple(convert(kind, part, _join(at, i)) for i, (kind, part) in enumerate(pairs))


def _convert_scalar(hint: Any, value: Any, at: str) -> Any:
    """A text, number, truth value or path; YAML reads ``1e-4`` as text, we as a number.

    Raises:
        ConfigError: It is of another kind.
    """
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is float and not isinstance(value, bool):
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{at} = {value!r} is {_kind(value)}: {hint.__name__} is needed")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _join(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)
