"""The grammar of regions in text: ``<regionN>``, ``<ground>``, ``<objects>``.

Written and read here only. A `Vocabulary` says how one checkpoint family spells the tokens, so that
a successor with other names (``<objN>``, ``<objfeat>``) is a value, not a fork::

    answer  = text (mention text)*
    mention = <ground> LABEL </ground> blanks <objects> (tag | anything)* </objects>

`scan` is total: it never raises on model output and reports what it could not use.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """How a checkpoint family spells regions and mentions."""

    region_tag: str = "<region{}>"
    """Name of region N in questions and answers; ``{}`` stands for the number."""
    region_feature: str = "<regionfeat>"
    """Placeholder that the region's feature replaces; one per region, after its tag."""
    ground: tuple[str, str] = ("<ground>", "</ground>")
    """Opening and closing of a label."""
    objects: tuple[str, str] = ("<objects>", "</objects>")
    """Opening and closing of the regions of a label."""
    think: tuple[str, str] = ("<think>", "</think>")
    """Opening and closing of reasoning."""
    max_regions: int = 100
    """How many region tags exist, so how many regions one question can hold."""

    def tag(self, index: int) -> str:
        """The text that names region ``index``, e.g. ``<region7>``."""
        return self.region_tag.format(index)

    def tags(self, indices: Iterable[int]) -> str:
        """Several tags, one after the other."""
        return "".join(map(self.tag, indices))

    def with_features(self, count: int) -> str:
        """The line of regions in a prompt: tag and feature placeholder for each of ``count``."""
        return "".join(self.tag(index) + self.region_feature for index in range(count))

    def mention(self, label: str, indices: Iterable[int]) -> str:
        """A label with its regions, as the model writes it."""
        (ground, end_ground), (objects, end_objects) = self.ground, self.objects
        return f"{ground}{label}{end_ground}{objects}{self.tags(indices)}{end_objects}"

    def special_tokens(self) -> list[str]:
        """Every token of the vocabulary, tags first; what a tokenizer must hold."""
        tags = [self.tag(index) for index in range(self.max_regions)]
        return [*tags, *self.ground, *self.objects, *self.think, self.region_feature]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a configuration file; ``Vocabulary.from_dict`` reads them back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Vocabulary":
        """Inverse of `to_dict`; missing keys take their defaults."""
        return cls(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in values.items()
            }
        )

    def tag_pattern(self) -> re.Pattern[str]:
        """Matches any region tag; group 1 is the number."""
        before, after = map(re.escape, self.region_tag.split("{}"))
        return re.compile(f"{before}(\\d+){after}")


RELEASED = Vocabulary()
"""The vocabulary of the released VLM-FO1 checkpoints."""


@dataclass(frozen=True)
class ScannedMention:
    """A label and the region numbers written behind it, as they stand in the text."""

    label: str
    numbers: tuple[int, ...]
    first_tag: int
    """How many region tags stand in the text before this mention's first one."""


@dataclass(frozen=True)
class Scan:
    """What `scan` found in a text."""

    mentions: tuple[ScannedMention, ...] = ()
    plain: str = ""
    """The text as a person would read it: labels stay, markup goes."""
    problems: tuple[str, ...] = ()


@dataclass
class _Reader:
    """A left-to-right pass over the pieces of one text."""

    vocabulary: Vocabulary
    mentions: list[ScannedMention] = field(default_factory=list[ScannedMention])
    plain: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])
    label: str | None = None
    in_label: bool = False
    numbers: list[int] | None = None
    first_tag: int = 0
    tags_seen: int = 0

    def token(self, token: str) -> None:
        ground, end_ground = self.vocabulary.ground
        objects, end_objects = self.vocabulary.objects
        if token == ground:
            self.close(f"{ground} opened again before {end_objects}")
            self.label, self.in_label = "", True
        elif token == end_ground:
            if not self.in_label:
                self.problems.append(f"{end_ground} without {ground}")
            self.in_label = False
        elif token == objects:
            self.open_objects()
        elif token == end_objects:
            self.close(None)

    def open_objects(self) -> None:
        objects, end_objects = self.vocabulary.objects
        if self.label is None:
            self.problems.append(f"{objects} without a label before it")
        elif self.in_label:
            self.problems.append(f"{objects} inside an unclosed {self.vocabulary.ground[0]}")
        elif self.numbers is not None:
            self.problems.append(f"{objects} opened again before {end_objects}")
        self.in_label = False
        if self.numbers is None:
            self.numbers, self.first_tag = [], self.tags_seen

    def close(self, problem: str | None) -> None:
        """End the open mention, if any, keeping what it holds."""
        if self.label is None:
            if self.numbers is None and problem is None:
                self.problems.append(f"{self.vocabulary.objects[1]} without an opening")
        elif self.numbers is not None:
            label = self.label.strip()
            self.mentions.append(ScannedMention(label, tuple(self.numbers), self.first_tag))
            if problem is not None:
                self.problems.append(f"label {label!r}: {problem}")
        else:
            self.problems.append(
                f"label {self.label.strip()!r} has no {self.vocabulary.objects[0]} behind it"
            )
        self.label, self.numbers, self.in_label = None, None, False

    def tag(self, number: int) -> None:
        if self.numbers is not None:
            self.numbers.append(number)
        self.tags_seen += 1

    def text(self, text: str) -> None:
        if self.in_label and self.label is not None:
            self.label += text
            self.plain.append(text)
        elif self.numbers is not None:
            if text.strip() and text.strip().lower() != "none":
                self.problems.append(f"text inside {self.vocabulary.objects[0]}: {text.strip()!r}")
        else:
            if self.label is not None and text.strip():
                self.close(None)
            self.plain.append(text)


def scan(text: str, vocabulary: Vocabulary = RELEASED) -> Scan:
    """Read the mentions out of model text.

    Args:
        text: What the model wrote, special tokens kept.
        vocabulary: How the checkpoint spells its markup.

    Returns:
        Mentions in order of appearance with the numbers as written (repeats and numbers beyond the
        list included: the parser judges them), the plain text, and what could not be used. An
        unclosed mention at the end keeps the regions it has and is reported.

    Source: the answer format in the paper, section 3; behaviour on damaged text is ours.
    """
    before, after = map(re.escape, vocabulary.region_tag.split("{}"))
    fixed = [*vocabulary.ground, *vocabulary.objects]
    pieces = re.compile("|".join([f"{before}\\d+{after}", *map(re.escape, fixed)]))
    is_tag = vocabulary.tag_pattern()
    reader = _Reader(vocabulary)
    end = 0
    for match in pieces.finditer(text):
        if match.start() > end:
            reader.text(text[end : match.start()])
        tag = is_tag.fullmatch(match.group())
        if tag is not None:
            reader.tag(int(tag.group(1)))
        else:
            reader.token(match.group())
        end = match.end()
    if end < len(text):
        reader.text(text[end:])
    if reader.label is not None:
        reader.close("the text ends before it is closed")
    plain = re.sub(r"[ \t]{2,}", " ", "".join(reader.plain)).strip()
    return Scan(tuple(reader.mentions), plain, tuple(reader.problems))


def neutralise(text: str, vocabulary: Vocabulary = RELEASED, reserved: Sequence[str] = ()) -> str:
    """Take the power of markup out of a user's words.

    ``<region3>``, ``<ground>``, ``<|im_end|>`` and the like lose their brackets (``region3``,
    ``ground``, ``im_end``), so no text of a user can name a region, open an answer or end a turn.

    Args:
        text: What a user typed: a label or a question.
        vocabulary: The checkpoint's markup.
        reserved: Further tokens to disarm, e.g. the tokenizer's own special tokens.

    Returns:
        The text with none of these tokens in it, however they were nested.
    """
    before, after = map(re.escape, vocabulary.region_tag.split("{}"))
    fixed = {
        *vocabulary.ground,
        *vocabulary.objects,
        *vocabulary.think,
        vocabulary.region_feature,
        *reserved,
    }
    patterns = [f"{before}\\d+{after}", r"<\|[^<>]*\|>"]
    patterns += [re.escape(token) for token in sorted(fixed, key=len, reverse=True) if token]
    armed = re.compile("|".join(patterns))

    def disarm(match: re.Match[str]) -> str:
        return re.sub(r"[<>|/\[\]]", "", match.group())

    while armed.search(text):
        disarmed = armed.sub(disarm, text)
        if disarmed == text:  # a reserved token without brackets: nothing is left but to drop it
            disarmed = armed.sub("", text)
        text = disarmed
    return text
