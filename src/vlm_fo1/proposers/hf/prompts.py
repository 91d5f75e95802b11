"""Names to look for as the text of a zero-shot detector, in pieces under its text limit.

Shapes: T tokens, L names in a piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlm_fo1.errors import PromptError

NAMES_AT_ONCE = 128
"""Most names whose scores OWL computes in one go: a table of patches x names is held."""


@dataclass(frozen=True)
class Prompt:
    """One piece of the names, as one forward pass takes it."""

    labels: tuple[str, ...] = ()
    inputs: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Text inputs of the model for one image, first axis 1, or one row a name."""
    spans: tuple[tuple[int, int], ...] = ()
    """First and last-but-one token of each name, where they share one sentence."""


def grounding_prompts(
    names: Sequence[str], tokenizer: Any, *, template: str, limit: int
) -> list[Prompt]:
    """``[CLS] orange . red apple . [SEP]``: names in one sentence, a full stop after each.

    Args:
        names: What to look for. Full stops and question marks in them separate names for these
            models, and are read as spaces.
        tokenizer: Of the model, a BERT.
        template: Text of one name, ``{}`` standing for it.
        limit: Tokens that the model reads, the special ones included.

    Raises:
        PromptError: A name that is longer than that or has no token.
    """
    stop = tokenizer.convert_tokens_to_ids(".")
    pieces: list[tuple[list[str], list[int], list[tuple[int, int]]]] = []
    for name in names:
        text = template.format(name).lower().replace(".", " ").replace("?", " ")
        ids = _ids(text, tokenizer)
        _check(name, ids, limit - 3)
        if not pieces or len(pieces[-1][1]) + len(ids) + 2 > limit:
            pieces.append(([], [tokenizer.cls_token_id], []))
        labels, sentence, spans = pieces[-1]
        labels.append(name)
        spans.append((len(sentence), len(sentence) + len(ids)))
        sentence.extend([*ids, stop])
    prompts: list[Prompt] = []
    for labels, sentence, spans in pieces:
        ids_1T = torch.tensor([[*sentence, tokenizer.sep_token_id]])
        inputs = {
            "input_ids": ids_1T,
            "attention_mask": torch.ones_like(ids_1T),
            "token_type_ids": torch.zeros_like(ids_1T),
        }
        prompts.append(Prompt(tuple(labels), inputs, tuple(spans)))
    return prompts


def owl_prompts(names: Sequence[str], tokenizer: Any, *, template: str, limit: int) -> list[Prompt]:
    """One text a name, padded to the length the model reads.

    Args:
        names: What to look for.
        tokenizer: Of the model, a CLIP.
        template: Text of one name, ``{}`` standing for it.
        limit: Tokens that the model reads, the special ones included.

    Raises:
        PromptError: A name that is longer than that or has no token.
    """
    texts = [template.format(name).lower() for name in names]
    ids_LT, mask_LT = _rows(names, texts, tokenizer, limit)
    return [
        Prompt(
            tuple(names[start : start + NAMES_AT_ONCE]),
            {
                "input_ids": ids_LT[start : start + NAMES_AT_ONCE],
                "attention_mask": mask_LT[start : start + NAMES_AT_ONCE],
            },
        )
        for start in range(0, len(names), NAMES_AT_ONCE)
    ]


def task_prompts(
    names: Sequence[str], tokenizer: Any, *, template: str, limit: int
) -> list[Prompt]:
    """``Detect orange, red apple.`` and each name as a text of its own, as OmDet-Turbo reads them.

    Args:
        names: What to look for.
        tokenizer: Of the model, a CLIP.
        template: Text of one name, ``{}`` standing for it.
        limit: Tokens that the model reads, the special ones included.

    Raises:
        PromptError: A name that is longer than that or has no token.
    """
    texts = [template.format(name) for name in names]
    pieces: list[list[int]] = []
    for index in range(len(names)):
        longer = [*pieces[-1], index] if pieces else []
        fits = longer and len(_ids(_task(texts, longer), tokenizer)) <= limit - 2
        if fits:
            pieces[-1] = longer
        else:
            pieces.append([index])
    prompts: list[Prompt] = []
    for piece in pieces:
        labels = tuple(names[index] for index in piece)
        classes_LT, classes_mask_LT = _rows(labels, [texts[i] for i in piece], tokenizer, limit)
        tasks_1T, tasks_mask_1T = _rows(labels[:1], [_task(texts, piece)], tokenizer, limit)
        inputs = {
            "classes_input_ids": classes_LT,
            "classes_attention_mask": classes_mask_LT,
            "classes_structure": torch.tensor([len(piece)]),
            "tasks_input_ids": tasks_1T,
            "tasks_attention_mask": tasks_mask_1T,
        }
        prompts.append(Prompt(labels, inputs))
    return prompts


def _task(texts: Sequence[str], piece: Sequence[int]) -> str:
    return f"Detect {', '.join(texts[index] for index in piece)}."


def _ids(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _rows(
    names: Sequence[str], texts: Sequence[str], tokenizer: Any, limit: int
) -> tuple[Tensor, Tensor]:
    """Token ids (L, T) of one text a name, padded to the limit, and which of them count.

    Raises:
        PromptError: A text that is longer than that or has no token.
    """
    rows: list[list[int]] = []
    for name, text in zip(names, texts, strict=True):
        ids = _ids(text, tokenizer)
        _check(name, ids, limit - 2)
        rows.append([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id])
    pad = tokenizer.pad_token_id or 0
    ids_LT = torch.tensor([row + [pad] * (limit - len(row)) for row in rows])
    mask_LT = torch.tensor([[1] * len(row) + [0] * (limit - len(row)) for row in rows])
    return ids_LT, mask_LT


def _check(name: str, ids: list[int], room: int) -> None:
    if not ids:
        raise PromptError(f"query {name!r} has no letter that this detector reads: reword it")
    if len(ids) > room:
        raise PromptError(
            f"query {name!r} has {len(ids)} tokens and this detector reads {room}: shorten it"
        )
