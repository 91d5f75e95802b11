"""The grammar of regions in text: ``<regionN>``, ``<ground>``, ``<objects>``.

Written and read here only. A `Vocabulary` says how one checkpoint family spells the tokens, so that
a successor with other names (``<objN>``, ``<objfeat>``) is a value, not a fork::

    answer  = text (mention text)*
    mention = <ground> LABEL </ground> blanks <objects> (tag | anything)* </objects>

`scan` is total: it never raises on model output and reports what it could not use.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from vlm_fo1.errors import ConfigError

NOTHING = "None"
"""Stands in place of regions, or of a whole answer, where nothing is there."""

_MAX_DIGITS = 9
"""Longer numbers name no region of any image and are read as plain text."""
_MAX_QUOTED = 60
"""How many characters of model text a problem quotes."""
_MAX_NESTING = 8
"""Passes of `escape_special_tokens` before it drops every bracket: the work stays linear."""


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
    max_labels: int = 80
    """How many labels one question can hold; of more, several questions are asked."""

    def __post_init__(self) -> None:
        """Refuse a vocabulary that cannot be read back.

        Raises:
            ConfigError: No place for the number, a token that is empty or used twice, or no region.
        """
        before, hole, after = self.region_tag.partition("{}")
        if not hole or not before or not after or "{}" in after:
            raise ConfigError(
                f"region_tag {self.region_tag!r} must hold one {{}} for the number with text on "
                "both sides, e.g. '<region{}>'"
            )
        tokens = self.fixed_tokens()
        if not all(tokens) or len(set(tokens)) < len(tokens):
            raise ConfigError(f"tokens must differ and not be empty, got {tokens}")
        for name in ("max_regions", "max_labels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, at least 1 is needed")

    def tag(self, index: int) -> str:
        """The text that names region ``index``, e.g. ``<region7>``."""
        return self.region_tag.replace("{}", str(index))

    def tags(self, indices: Iterable[int]) -> str:
        """Several tags, one after the other."""
        return "".join(map(self.tag, indices))

    def mention(self, label: str, indices: Iterable[int]) -> str:
        """A label with its regions, as the model writes it."""
        (ground, end_ground), (objects, end_objects) = self.ground, self.objects
        return f"{ground}{label}{end_ground}{objects}{self.tags(indices)}{end_objects}"

    def fixed_tokens(self) -> list[str]:
        """Every token of the vocabulary but the numbered tags."""
        return [*self.ground, *self.objects, *self.think, self.region_feature]

    def special_tokens(self) -> list[str]:
        """Every token of the vocabulary, tags first; what a tokenizer must hold."""
        return [*map(self.tag, range(self.max_regions)), *self.fixed_tokens()]

    def tag_pattern(self) -> re.Pattern[str]:
        """Matches any region tag; group 1 is the number, in ASCII digits."""
        before, after = map(re.escape, self.region_tag.split("{}"))
        return re.compile(f"{before}([0-9]{{1,{_MAX_DIGITS}}}){after}")


RELEASED = Vocabulary()
"""The vocabulary of the released VLM-FO1 checkpoints."""


def renumbered(text: str, number: Callable[[int], int], vocabulary: Vocabulary = RELEASED) -> str:
    """A text with other numbers in its region tags, nothing else changed.

    Args:
        text: Any text with whole tags.
        number: From the number that stands there to the one that shall.
        vocabulary: How tags are spelt.
    """
    return vocabulary.tag_pattern().sub(lambda tag: vocabulary.tag(number(int(tag[1]))), text)


@dataclass(frozen=True)
class ScannedMention:
    """A label and the region numbers written behind it, as they stand in the text."""

    label: str
    """Empty where the text names regions and never a label."""
    numbers: tuple[int, ...]
    first_tag: int
    """How many region tags stand in the text before this mention's first one."""
    opened: int | None = field(default=None, compare=False)
    """Which opening of a list in the text, from 0, is that of its regions; None without one."""


@dataclass(frozen=True)
class Scan:
    """What `scan` found in a text."""

    mentions: tuple[ScannedMention, ...] = ()
    plain: str = ""
    """The text as a person would read it: labels stay, a region named in running text becomes
    ``region3``, other markup goes."""
    problems: tuple[str, ...] = ()
    tags: int = 0
    """How many region tags stand in the whole text."""


@dataclass
class _Reader:
    """A left-to-right pass over the pieces of one text.

    Between mentions ``label`` and ``numbers`` are None. ``label`` is set from ``<ground>`` on,
    ``in_label`` until ``</ground>``; ``numbers`` is set from ``<objects>`` until ``</objects>``.
    """

    vocabulary: Vocabulary
    mentions: list[ScannedMention] = field(default_factory=list[ScannedMention])
    plain: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])
    label: str | None = None
    in_label: bool = False
    numbers: list[int] | None = None
    first_tag: int = 0
    tags_seen: int = 0
    opened: int = 0
    """Which opening began `numbers`."""
    openings_seen: int = 0
    outside: list[int] = field(default_factory=list[int])
    labelled: bool = False
    """Whether a label was ever opened: if not, every region is one without a label."""

    def token(self, token: str) -> None:
        ground, end_ground = self.vocabulary.ground
        objects, end_objects = self.vocabulary.objects
        if token == ground:
            self.close(f"{ground} opened again before {end_objects}")
            self.label, self.in_label, self.labelled = "", True, True
        elif token == end_ground:
            if not self.in_label:
                self.problems.append(f"{end_ground} without {ground}")
            self.in_label = False
        elif token == objects:
            self.open_objects()
        elif token == end_objects:
            self.close(None)
        else:
            self.problems.append(f"{token} in an answer: left out")

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
            self.numbers, self.first_tag, self.opened = [], self.tags_seen, self.openings_seen
        self.openings_seen += 1

    def close(self, problem: str | None) -> None:
        """End the open mention, if any, keeping what it holds."""
        if self.label is None:
            if self.numbers is None and problem is None:
                self.problems.append(f"{self.vocabulary.objects[1]} without an opening")
            self.outside += self.numbers or ()
        else:
            label = " ".join(self.label.split())
            if not label:
                self.problems.append(
                    f"an empty label between {' and '.join(self.vocabulary.ground)}"
                )
            if self.numbers is None:
                self.problems.append(
                    f"label {_quoted(label)} has no {self.vocabulary.objects[0]} behind it"
                )
            else:
                numbers = tuple(self.numbers)
                self.mentions.append(ScannedMention(label, numbers, self.first_tag, self.opened))
                if problem is not None:
                    self.problems.append(f"label {_quoted(label)}: {problem}")
        self.label, self.numbers, self.in_label = None, None, False

    def tag(self, number: int) -> None:
        self.tags_seen += 1
        if self.numbers is not None:
            self.numbers.append(number)
            return
        self.outside.append(number)
        self.text(_without_brackets(self.vocabulary.tag(number)))

    def text(self, text: str) -> None:
        if self.numbers is not None:
            said = text.strip(" \t\r\n,;")
            if said and said.rstrip(".").lower() != NOTHING.lower():
                self.problems.append(f"text inside {self.vocabulary.objects[0]}: {_quoted(said)}")
        elif self.in_label and self.label is not None:
            self.label += text
            self.plain.append(text)
        else:
            if self.label is not None and text.strip():
                self.close(None)
            self.plain.append(text)

    def finish(self) -> Scan:
        if self.label is not None or self.numbers is not None:
            self.close("the text ends before it is closed")
        if self.outside:
            few = ", ".join(map(self.vocabulary.tag, self.outside[:3]))
            few += ", ..." if len(self.outside) > 3 else ""
            what = f"{len(self.outside)} region tags"
            if self.labelled:
                self.problems.append(
                    f"{what} outside {self.vocabulary.objects[0]} ({few}): "
                    "no box is taken from them"
                )
            else:
                self.mentions.append(ScannedMention("", tuple(self.outside), 0))
                self.problems.append(f"{what} ({few}) and no label: their label is empty")
        plain = re.sub(r"[ \t]{2,}", " ", "".join(self.plain)).strip()
        return Scan(tuple(self.mentions), plain, tuple(self.problems), self.tags_seen)


def scan(text: str, vocabulary: Vocabulary = RELEASED) -> Scan:
    """Read the mentions out of model text.

    Args:
        text: What the model wrote, special tokens kept.
        vocabulary: How the checkpoint spells its markup.

    Returns:
        Mentions in order of appearance with the numbers as written (repeats and numbers beyond the
        list included: the parser judges them), the plain text, and what could not be used. An
        unclosed mention at the end keeps the regions it has and is reported; so are the regions of
        a text that opens no label: they are one mention with an empty label.

    Source: the answer format in the paper, section 3; regions without a label as in the official
    demos; behaviour on damaged text is ours.
    """
    is_tag = vocabulary.tag_pattern()
    fixed = [*vocabulary.ground, *vocabulary.objects, vocabulary.region_feature]
    pieces = re.compile("|".join([is_tag.pattern, *map(re.escape, fixed)]))
    reader = _Reader(vocabulary)
    end = 0
    for match in pieces.finditer(text):
        if match.start() > end:
            reader.text(text[end : match.start()])
        if match.group(1) is not None:
            reader.tag(int(match.group(1)))
        else:
            reader.token(match.group())
        end = match.end()
    if end < len(text):
        reader.text(text[end:])
    return reader.finish()


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer as a reader sees it."""

    text: str
    numbers: tuple[int, ...] = ()
    """The regions that are written behind a label, or named in running text; none for words."""


def pieces(text: str, vocabulary: Vocabulary = RELEASED) -> list[Piece]:
    """Cut model text into words and what points at regions, for showing; `scan` is what counts.

    Args:
        text: What the model wrote, special tokens kept.
        vocabulary: How the checkpoint spells its markup.

    Returns:
        Pieces in order. A label keeps the numbers behind it as written, numbers of regions that do
        not exist included; broken markup is left out and its words stay.
    """
    (ground, end_ground), (objects, end_objects) = (
        [re.escape(token) for token in pair] for pair in (vocabulary.ground, vocabulary.objects)
    )
    is_tag = vocabulary.tag_pattern()
    mention = re.compile(
        f"{ground}((?:(?!{ground}).)*?){end_ground}\\s*{objects}((?:(?!{ground}).)*?)"
        f"(?:{end_objects}|$)",
        re.DOTALL,
    )
    found: list[Piece] = []
    end = 0
    for match in mention.finditer(text):
        found += _running(text[end : match.start()], vocabulary)
        numbers = [int(tag[1]) for tag in is_tag.finditer(match[2])]
        found.append(Piece(" ".join(match[1].split()), tuple(dict.fromkeys(numbers))))
        end = match.end()
    return [piece for piece in [*found, *_running(text[end:], vocabulary)] if piece.text]


def _running(text: str, vocabulary: Vocabulary) -> list[Piece]:
    """Words between mentions; a region named there points at itself."""
    fixed = "|".join(map(re.escape, vocabulary.fixed_tokens()))
    found: list[Piece] = []
    end = 0
    for tag in vocabulary.tag_pattern().finditer(text):
        found.append(Piece(re.sub(fixed, "", text[end : tag.start()])))
        found.append(Piece(_without_brackets(tag[0]), (int(tag[1]),)))
        end = tag.end()
    return [*found, Piece(re.sub(fixed, "", text[end:]))]


def respelt(text: str, vocabulary: Vocabulary) -> str:
    """A text in the canonical spelling (`RELEASED`), as records are, in that of a vocabulary."""
    tokens = dict(zip(RELEASED.fixed_tokens(), vocabulary.fixed_tokens(), strict=True))
    pattern = "|".join([RELEASED.tag_pattern().pattern, *map(re.escape, tokens)])
    return re.sub(
        pattern,
        lambda found: vocabulary.tag(int(found[1])) if found[1] else tokens[found[0]],
        text,
    )


def escape_special_tokens(
    text: str,
    vocabulary: Vocabulary = RELEASED,
    reserved: Sequence[str] = (),
    *,
    keep_markup: bool = False,
) -> str:
    """Take the power of special tokens out of a user's words.

    ``<region3>``, ``<ground>``, ``<|im_end|>`` and the like lose their brackets (``region3``,
    ``ground``, ``im_end``), so no text of a user can name a region, open an answer or end a turn.

    Args:
        text: What a user typed: a label or a question.
        vocabulary: The checkpoint's markup.
        reserved: Further tokens to escape, e.g. the tokenizer's own special tokens.
        keep_markup: Whether the vocabulary's tokens pass, as they must in a question made from a
            template; placeholders of features, and tags of regions that cannot be, never do.

    Returns:
        The text with none of these tokens in it, however they were nested.
    """
    if keep_markup:
        parts = _own_tokens(vocabulary).split(text)
        parts[::2] = [escape_special_tokens(part, vocabulary, reserved) for part in parts[::2]]
        return "".join(parts)
    special = _escaped_tokens(vocabulary, tuple(reserved))

    def escape(match: re.Match[str]) -> str:
        bare = _without_brackets(match.group())
        return "" if bare == match.group() else bare  # nothing to take off: drop the whole token

    for _ in range(_MAX_NESTING):
        if not special.search(text):
            return text
        text = special.sub(escape, text)
    text = _without_brackets(text)  # only text built to get through comes here
    while special.search(text):
        text = special.sub("", text)
    return text


@lru_cache
def _own_tokens(vocabulary: Vocabulary) -> re.Pattern[str]:
    """The vocabulary's tokens but the placeholders of features, in a group."""
    own = {*vocabulary.special_tokens()} - {vocabulary.region_feature}
    longest_first = sorted(own, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


@lru_cache
def _escaped_tokens(vocabulary: Vocabulary, reserved: tuple[str, ...]) -> re.Pattern[str]:
    """What no user's words may hold."""
    before, after = map(re.escape, vocabulary.region_tag.split("{}"))
    tokens = {*vocabulary.fixed_tokens(), *reserved}
    patterns = [f"{before}[0-9]+{after}", r"<\|[^<>]*\|>"]
    patterns += [
        re.escape(token) for token in sorted(tokens, key=len, reverse=True) if token.strip()
    ]
    return re.compile("|".join(patterns))


def _without_brackets(text: str) -> str:
    return re.sub(r"[<>|/\[\]]", "", text)


def _quoted(text: str) -> str:
    """Model text as a problem quotes it, cut to a length that can be read."""
    return repr(text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 1] + "…")
