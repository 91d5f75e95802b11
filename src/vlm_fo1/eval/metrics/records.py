"""Reading what a metric is given: items, their fields and their boxes, checked where they enter.

Shapes: N boxes of all lists together, L lists.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.errors import BoxError, EvaluationError

Array = npt.NDArray[np.float64]
Item = Mapping[str, Any]


def listed(values: Iterable[Any], what: str) -> list[Any]:
    """The values as a list.

    Args:
        values: Items, answers or truths; not a mapping, a text or None.
        what: Their name, for the message.

    Raises:
        EvaluationError: They are none of that, or there are none.
    """
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise EvaluationError(
            f"{what} must be a list, got {type(values).__name__}: pass one entry per item"
        )
    items = list(values)
    if not items:
        raise EvaluationError(f"there are no {what}: a score needs at least one")
    return items


def same_length(first: Sequence[Any], second: Sequence[Any], what: str) -> None:
    """Refuse two lists that should pair up but do not.

    Raises:
        EvaluationError: They differ in length.
    """
    if len(first) != len(second):
        raise EvaluationError(
            f"{what} must pair up, got {len(first)} and {len(second)}: pass None as the answer of "
            "an item that failed, rather than leaving it out"
        )


def field(item: Any, key: str, index: int) -> Any:
    """One field of an item.

    Args:
        item: A mapping.
        key: Its name.
        index: Which item it is, for the message.

    Raises:
        EvaluationError: The item is no mapping or lacks the field.
    """
    if not isinstance(item, Mapping):
        raise EvaluationError(
            f"item {index} is a {type(item).__name__}: an item is a mapping with {key!r}"
        )
    if key not in item:
        raise EvaluationError(
            f"item {index} has no {key!r}, only {sorted(map(str, item))}: an item that failed says "
            "so with None as its answer"
        )
    return item[key]


def by_label(value: Any, where: str) -> Mapping[Hashable, Any]:
    """Boxes by label, as they are.

    Args:
        value: A mapping of labels to boxes.
        where: Its place, for the message: ``"image 3, truth"``.

    Raises:
        EvaluationError: It is no mapping.
    """
    if not isinstance(value, Mapping):
        raise EvaluationError(
            f"{where} is a {type(value).__name__}: a mapping of labels to boxes is needed, as "
            "{'cat': [[0, 0, 9, 9]]}"
        )
    return value


def is_number(value: Any) -> bool:
    """Whether it is one number, of Python or NumPy; a truth value is none."""
    numbers = int | float | np.integer | np.floating
    return isinstance(value, numbers) and not isinstance(value, bool)


def overlaps(at: Iterable[Any]) -> tuple[float, ...]:
    """IoU that suffice, as they are.

    Raises:
        EvaluationError: One is not in (0, 1]: no box would miss it, or reach it.
    """
    values = tuple(at)
    for value in values:
        if not is_number(value) or not 0 < value <= 1:
            raise EvaluationError(
                f"an IoU of {value!r} was asked for: it must be in (0, 1], as 0.5"
            )
    return values


def number(value: Any, where: str) -> float:
    """One finite number that is not negative.

    Raises:
        EvaluationError: It is none.
    """
    if not is_number(value):
        raise EvaluationError(f"{where} is {value!r}: a number is needed")
    if not 0 <= value < float("inf"):
        raise EvaluationError(f"{where} is {value}: it must be finite and not negative")
    return float(value)


def choice(value: Any, choices: Sequence[str], what: str) -> None:
    """Refuse what is not one of a few words.

    Raises:
        EvaluationError: With the words.
    """
    if value not in choices:
        raise EvaluationError(f"{what} is {value!r}: one of {', '.join(choices)} is needed")


def checked_numbers(values: Any, count: int, where: str, what: str = "scores") -> Array:
    """One finite number per box, (count,).

    Raises:
        EvaluationError: There are more or fewer, or one is not finite.
    """
    values_N = np.asarray(values)
    if values_N.shape != (count,):
        raise EvaluationError(
            f"{what} have shape {values_N.shape} for {count} boxes of {where}: pass one per box"
            + "; answers without a score need one too, such as 1.0 or that of their proposal"
            * (what == "scores")
        )
    if count and (values_N.dtype.kind not in "iuf" or not np.isfinite(values_N).all()):
        raise EvaluationError(
            f"{what} of {where} are {values_N.tolist()}: finite numbers are needed"
        )
    return values_N.astype(np.float64)


def read_boxes(value: Any, where: str) -> Array:
    """(N, 4) float64 of one list of boxes; a bare box counts as a list of one, ``[[]]`` as none.

    Raises:
        BoxError: Not numbers, or not four of them a box, not finite, or reversed.
    """
    lists = BoxLists()
    lists.add(value, where)
    return lists.stacked()[0]


class BoxLists:
    """Many lists of boxes that are checked together, which is quick for hundreds of thousands."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._places: list[tuple[Any, ...]] = []
        self._each: list[Any] = []

    def add(self, value: Any, *place: Any, each: Any = None) -> int:
        """Take in one list and return how many boxes it holds.

        Args:
            value: (N, 4) xyxy, one bare box, or nothing: ``[]`` or ``[[]]``.
            *place: Where it stands, for the message.
            each: (N,) a number for each box, for `numbers`.

        Raises:
            BoxError: Not numbers, or not four of them a box; of plain lists `stacked` says so.
        """
        plain = type(value) is list and value and type(value[0]) is list and value[0]
        part = value if plain else _rows(value, place)
        self._parts.append(part)
        self._places.append(place)
        self._each.append(each)
        return len(part)

    def stacked(self) -> tuple[Array, npt.NDArray[np.int64]]:
        """All boxes (N, 4), and the number of the list that each is of (N,), in ascending order.

        Raises:
            BoxError: A box is not four finite numbers, or is reversed.
        """
        sizes_L = [len(part) for part in self._parts]
        list_N = np.repeat(np.arange(len(sizes_L), dtype=np.int64), sizes_L)
        boxes_N4 = _all_plain(self._parts)
        if boxes_N4 is None:
            rows = map(_rows, self._parts, self._places)
            boxes_N4 = np.concatenate([np.zeros((0, 4)), *rows])
        good_N = (boxes_N4[:, 2:] >= boxes_N4[:, :2]).all(1) & np.isfinite(boxes_N4).all(1)
        if not good_N.all():
            worst = int(np.argmin(good_N))
            values = ", ".join(f"{value:g}" for value in boxes_N4[worst].tolist())
            raise BoxError(
                f"{_named(self._places[int(list_N[worst])])} holds ({values}): finite numbers "
                "with x2 >= x1 and y2 >= y1 are needed; is it (x, y, width, height)? then add the "
                "corner to the size"
            )
        return boxes_N4, list_N

    def numbers(self, what: str) -> Array:
        """What was given with each box, (N,); NaN where nothing was.

        Args:
            what: Its name, for the message.

        Raises:
            EvaluationError: There are more or fewer for a list, or one is not finite.
        """
        sizes_L = [len(part) for part in self._parts]
        known_L = np.array([each is not None for each in self._each], np.bool_)
        values_N = np.full(sum(sizes_L), np.nan)
        given = [*zip(self._each, sizes_L, self._places, strict=True)]
        given = [(each, size, place) for each, size, place in given if each is not None]
        if all(type(each) is list and len(each) == size for each, size, _ in given):
            flat = [*chain.from_iterable(each for each, _, _ in given)]
            if set(map(type, flat)) <= {float} and np.isfinite(flat).all():
                values_N[np.repeat(known_L, sizes_L)] = flat
                return values_N
        checked = [checked_numbers(each, size, _named(place), what) for each, size, place in given]
        values_N[np.repeat(known_L, sizes_L)] = np.concatenate([np.zeros(0), *checked])
        return values_N


def _all_plain(parts: Sequence[Any]) -> Array | None:
    """(N, 4) of lists of four floats each, in one step; None where something else is among them."""
    if not all(type(part) is list or not len(part) for part in parts):
        return None
    rows = [*chain.from_iterable(parts)]
    if set(map(type, rows)) <= {list} and set(map(len, rows)) <= {4}:
        flat = [*chain.from_iterable(rows)]
        if set(map(type, flat)) <= {float}:
            return np.array(flat).reshape(-1, 4)
    return None


def _rows(value: Any, place: tuple[Any, ...]) -> Array:
    """(N, 4) of one list.

    Raises:
        BoxError: Not numbers, or not four of them a box.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged rows, a tensor elsewhere
        raise BoxError(
            f"{_named(place)} must be rows of four numbers (x1, y1, x2, y2): {error}"
        ) from error
    if array.shape in {(0,), (1, 0)}:
        array = np.zeros((0, 4))
    elif array.shape == (4,):
        array = array[None]
    if array.dtype.kind not in "iuf":
        raise BoxError(
            f"{_named(place)} must be rows of four numbers (x1, y1, x2, y2), got "
            f"{array.dtype.name} values"
        )
    if array.ndim != 2 or array.shape[1] != 4:
        raise BoxError(
            f"{_named(place)} must have shape (N, 4), got {array.shape}: pass one "
            "(x1, y1, x2, y2) per box"
        )
    return array.astype(np.float64)


def _named(place: tuple[Any, ...]) -> str:
    return ", ".join(str(part) for part in place)
