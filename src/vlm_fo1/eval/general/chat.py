"""A plain question about images, without regions, as general benchmarks ask it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from vlm_fo1.errors import PromptError
from vlm_fo1.fo1 import FO1

Part = str | Mapping[str, Any]
"""A text, or ``{"image": ...}`` with anything `read_image` takes."""


class Asks(Protocol):
    """What is asked: `FO1` and what stands in for it."""

    ask: Any


def image_of(value: Any) -> Mapping[str, Any]:
    """An image as a part of a question."""
    return {"image": value}


def chat(
    fo1: Asks | FO1,
    parts: Iterable[Part],
    *,
    max_new_tokens: int,
    system: str | None = None,
    until: Sequence[str] = (),
) -> str:
    """Ask with the images where they stand among the words.

    Args:
        fo1: The model.
        parts: Texts and images in their order.
        max_new_tokens: Length limit of the answer.
        system: A system message in place of the usual one.
        until: Where the answer is cut off, what stands first.

    Returns:
        The words of the answer, region markup taken out.

    Raises:
        PromptError: There is no image, or no text.
        ImageError: An image cannot be read.
    """
    words: list[str] = []
    images: list[Any] = []
    for part in parts:
        if isinstance(part, str):
            words.append(part)
        else:
            words.append(f"<image_{len(images)}>")
            images.append(part["image"])
    text = "\n".join(word.strip("\n") for word in words if word.strip())
    if not images:
        raise PromptError("the question has no image: this model is asked about at least one")
    answer = fo1.ask(
        images[0],
        text.replace("{}", "{ }"),  # no region is meant
        [],
        images=images[1:],
        system=system,
        max_new_tokens=max_new_tokens,
    )
    said: str = answer.plain.strip()
    ends = [said.find(end) for end in until if end and end in said]
    return said[: min(ends)].strip() if ends else said
