"""What an answer to each task may be, as a grammar of tokens for the engine.

Markup is balanced and names regions that are there; what people would read is left free. Whatever
the parser takes without a problem is allowed, so an answer that is whole by itself stays as it is.
"""

import re
from collections.abc import Iterable

from vlm_fo1.engine import Grammar, ListTokens
from vlm_fo1.markup import NOTHING
from vlm_fo1.parser import ARTICLES
from vlm_fo1.processing import FO1Processor
from vlm_fo1.tasks import Question, Task, spec_of

_ANSWER = ("<answer>", "</answer>")
"""What the reasoning template asks for besides the vocabulary's tags."""
_BLANK = r"/[ \t\r\n]{1,4}/"
_SEPARATOR = r"/[ \t\r\n,;]{1,4}/"
_BETWEEN = "\n"
"""What likely stands between mentions."""


def list_tokens(processor: FO1Processor) -> ListTokens:
    """How a processor's vocabulary spells lists of regions in token ids."""
    start, end = map(processor.whole_id, processor.vocabulary.objects)
    nothing = _ids(processor, NOTHING)
    return ListTokens(tuple(processor.region_tag_ids()), start, end, nothing[:1])


def grammar_of(
    question: Question, processor: FO1Processor, regions: int, *, begun: bool = False
) -> Grammar | None:
    """What the answer to a question may be.

    Args:
        question: What is asked; its labels are the ones that may be mentioned, any where it has
            none.
        processor: Its vocabulary and its tokenizer spell the markup.
        regions: How many regions are shown, numbered from 0.
        begun: The answer is the list of one label, which is begun for the model. All labels share
            this grammar, so that many cost no more than one.

    Returns:
        The grammar; None where the tokenizer does not hold the markup as one token each.
    """
    vocabulary = processor.vocabulary
    whole = [processor.whole_id(token) for token in (*vocabulary.ground, *vocabulary.objects)]
    if None in whole:
        return None
    ground, end_ground, objects, end_objects = map(_token, whole)
    tags = processor.region_tag_ids()[:regions]
    spec = spec_of(question.task)
    thinking = spec.takes == "text"
    # In running text a region may be named without a label only where words are the answer.
    bare = bool(tags) and (spec.per_region or thinking)
    text = "/(?s:.+)/ & ~/(?s:.*)(" + "|".join(_markup(processor)) + ")(?s:.*)/"
    label = f"{text} & /(?s:.*)[^\\s\\x1c-\\x1f\\x85](?s:.*)/"
    if question.labels and not begun:
        label = "/" + "|".join(_spellings(question.labels)) + "/"
    named = "(tag (SEPARATOR? tag)* | NOTHING)" if tags else "NOTHING"
    items = ["mention", *(["tag"] if bare else []), *(_answer_tags(processor) if thinking else [])]
    between = f"TEXT? (({' | '.join(items)}) TEXT?)*"
    thought = _thought(processor, between) if thinking else ""
    lines = [
        "start: mention" if begun else f"start: {between} {thought}",
        f"mention: {ground} LABEL {end_ground} BLANK? {objects} list {end_objects}",
        f"list: SEPARATOR? ({named} SEPARATOR?)?",
        f"tag: <[{','.join(map(str, tags))}]>" if tags else "",
        f"NOTHING: /(?i:{NOTHING})\\.?/",
        f"LABEL: {label}",
        f"TEXT: {text}",
        f"BLANK: {_BLANK}",
        f"SEPARATOR: {_SEPARATOR}",
    ]
    heads = (
        []
        if begun
        else [
            _ids(processor, vocabulary.mention(label, ()).removesuffix(vocabulary.objects[1]))
            for label in question.labels
        ]
    )
    tails = [
        _ids(processor, f" There {'is' if count == 1 else 'are'} {count} {question.labels[0]}.")
        for count in (range(regions + 1) if question.task == Task.COUNTING else ())
    ]
    return Grammar(
        "\n".join(filter(None, lines)),
        heads=tuple(heads),
        between=_ids(processor, _BETWEEN),
        nothing=_ids(processor, NOTHING),
        tails=tuple(tails),
        follows={whole[1]: whole[2]} if whole[1] is not None and whole[2] is not None else {},
    )


def _ids(processor: FO1Processor, text: str) -> tuple[int, ...]:
    return tuple(processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def _token(id_: int | None) -> str:
    return f"<[{id_}]>"


def _markup(processor: FO1Processor) -> list[str]:
    """Patterns of all that text must not look like; thinking tags that are no tokens are text."""
    vocabulary = processor.vocabulary
    thinking = [token for token in vocabulary.think if processor.whole_id(token) is not None]
    fixed = [*vocabulary.ground, *vocabulary.objects, vocabulary.region_feature, *thinking]
    before, after = map(_escaped, vocabulary.region_tag.split("{}"))
    return [*map(_escaped, fixed), f"{before}[0-9]+{after}"]


def _escaped(text: str) -> str:
    """A text as a pattern of llguidance, which stands between slashes."""
    return "".join(
        f"\\{sign}" if sign in r"\.+*?()|[]{}^$#&-~/" else _CONTROL.get(sign, sign) for sign in text
    )


_CONTROL = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def _spellings(labels: Iterable[str]) -> list[str]:
    """Patterns of labels as the parser knows them again: in any case, one or many, with an article.

    What is not ASCII has to be spelt as it was asked.
    """
    patterns: list[str] = []
    for label in labels:
        patterns.append(_escaped(label))
        words = label.split()
        if len(words) > 1 and words[0].lower() in ARTICLES:
            words = words[1:]
        base = " ".join(words)
        stem = re.sub("[sS]$", "", base)
        if stem:
            must = " " in stem and stem.split()[0].lower() in ARTICLES  # else that one is dropped
            articles = "|".join(map(_any_case, ARTICLES))
            ending = "[sS]" if stem[-1] in "sS" else "[sS]?"
            patterns.append(f"(({articles}) ){'' if must else '?'}{_any_case(stem)}{ending}")
    return patterns


def _any_case(text: str) -> str:
    return "".join(
        f"[{sign.lower()}{sign.upper()}]" if sign.isascii() and sign.isalpha() else _escaped(sign)
        for sign in text
    )


def _answer_tags(processor: FO1Processor) -> list[str]:
    """Tokens that may stand around an answer, where the tokenizer has them; else they are text."""
    return _tokens(processor, _ANSWER)


def _thought(processor: FO1Processor, between: str) -> str:
    """Thoughts that close; a tag is a token, or one together with what follows it."""
    opening, closing = processor.vocabulary.think
    opens = _tokens(processor, [opening])
    closes = _tokens(processor, [closing, *(closing + tag for tag in _ANSWER)])
    if not opens or not closes:
        return ""
    return f"(({' | '.join(opens)}) {between} ({' | '.join(closes)}) {between})*"


def _tokens(processor: FO1Processor, texts: Iterable[str]) -> list[str]:
    return [_token(id_) for id_ in map(processor.whole_id, texts) if id_ is not None]
