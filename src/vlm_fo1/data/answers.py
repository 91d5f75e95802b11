"""The text of exact answers: labels with regions, counts, and how absence is told."""

from collections.abc import Mapping, Sequence
from typing import Literal

from vlm_fo1.markup import NOTHING, RELEASED

AbsentStyle = Literal["omit", "none"]
"""A missing label is left out, or written with ``None`` in place of regions."""


def label_answer(labels: Mapping[str, Sequence[int]], absent: AbsentStyle = "omit") -> str:
    """Labels in the order asked, each with its regions, a line each.

    Args:
        labels: Label to region numbers; none for a label that is not there.
        absent: How that is told.

    Returns:
        The answer; `NOTHING` if it would be empty.
    """
    lines = [
        RELEASED.mention(label, sorted(regions)) if regions else absent_mention(label)
        for label, regions in labels.items()
        if regions or absent == "none"
    ]
    return "\n".join(lines) or NOTHING


def absent_mention(label: str) -> str:
    """A label with ``None`` in place of regions."""
    (ground, end_ground), (objects, end_objects) = RELEASED.ground, RELEASED.objects
    return f"{ground}{label}{end_ground}{objects}{NOTHING}{end_objects}"


def count_answer(
    label: str, regions: Sequence[int], absent: AbsentStyle = "omit", *, one: str | None = None
) -> str:
    """Point at each, then say how many: ``...</objects> There are 2 dogs``.

    Args:
        label: As it was asked.
        regions: Every one of them.
        absent: How a label without regions is told before ``There are 0 dogs.``
        one: The label as a single thing, for ``There is 1 dog.``

    Returns:
        The answer.
    """
    count = len(regions)
    sentence = f"There is 1 {one or label}." if count == 1 else f"There are {count} {label}."
    if regions:
        return f"{RELEASED.mention(label, sorted(regions))} {sentence}"
    return f"{absent_mention(label)} {sentence}" if absent == "none" else sentence
