"""Tokens of their own for names that a tokenizer spells letter by letter.

A small tokenizer knows the words of its training and writes any other in letters, which its model
hardly ever saw. A name of the user's with such a word gets one token instead, for all its words,
as a region says its name at once; it starts as the known word that its regions look most like.
Tokenizers of real hosts spell no word so: nothing is added there.
Shapes: V rows of the embedding, D its width.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from torch.nn import functional

from vlm_fo1.data.example import Example
from vlm_fo1.train.names import region_names

logger = logging.getLogger(__name__)

_WORD = re.compile(r"[^\W\d_]{2,}")
ALIKE = 0.9
"""Cosine of a new word to the known one that it starts from: alike, and not the same."""


def new_words(examples: Iterable[Example], tokenizer: Any) -> list[str]:
    """Names of regions that the tokenizer writes letter by letter, in order.

    Of a name with one word, that word; of a name with several, all of it. What would be read back
    as something else stays spelled: a decoder of bytes takes ``ü`` in a token for the byte 252.
    """
    names = {name for example in examples for name in region_names(example).values()}
    found: set[str] = set()
    for name in names:
        words = (_WORD.findall(name) or [name]) if len(tokenizer.tokenize(name)) > 1 else []
        spelled = [word for word in words if len(tokenizer.tokenize(word)) >= len(word)]
        found.update(spelled if len(words) == 1 else [name] if spelled else [])
    decoder = tokenizer.backend_tokenizer.decoder
    kept = sorted(word for word in found if decoder is None or decoder.decode([word]) == word)
    if len(kept) < len(found):
        logger.info("spelled letter by letter: %s", ", ".join(sorted(found.difference(kept))))
    return kept


def add_words(words: Sequence[str], tokenizer: Any, first: int = 0) -> list[int]:
    """Give words a token each; inside longer words nothing changes.

    Args:
        words: Not known yet.
        tokenizer: Gains them in place.
        first: The least id they may have: those before it may mean something to a model though
            its tokenizer has no text for them, such as a placeholder of videos.

    Returns:
        Their ids.
    """
    if words:
        blanks = [f"<|unused_{id_}|>" for id_ in range(len(tokenizer), first)]
        tokenizer.add_tokens([AddedToken(blank, special=True) for blank in blanks])
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in words])
    return tokenizer.convert_tokens_to_ids(list(words))


def grow(model: Any, tokenizer: Any, words: Sequence[str], called: Mapping[str, Tensor]) -> None:
    """Make rows for new words in the embedding of a model, in place.

    Args:
        model: The network.
        tokenizer: With the words added.
        words: The new words.
        called: Name to (M, D) tokens of regions that are called so.
    """
    old = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table_VD = model.get_input_embeddings().weight.detach().float().cpu()
    tokens = tokenizer.convert_ids_to_tokens(range(old))
    known = [
        id_
        for id_, token in enumerate(tokens)
        if token and token not in words and _WORD.fullmatch(token) and token.islower()
    ]
    length = table_VD[known or slice(None)].norm(dim=-1).mean()
    usual = torch.cat(list(called.values())).mean(0) if called else None
    generator = torch.Generator().manual_seed(len(words))
    rows: list[Tensor] = []
    for word in words:
        row_D = functional.normalize(torch.randn(table_VD.shape[1], generator=generator), dim=0)
        shown = [found for name, found in called.items() if word in (name, *_WORD.findall(name))]
        if shown and usual is not None and known:
            meant_D = torch.cat(shown).mean(0) - usual
            likeness = functional.cosine_similarity(meant_D[None], table_VD[known], dim=-1)
            like = known.pop(int(likeness.argmax()))
            logger.info("the new word %r starts near %r", word, tokens[like])
            like_D = functional.normalize(table_VD[like], dim=0)
            aside_D = functional.normalize(row_D - (row_D @ like_D) * like_D, dim=0)
            row_D = ALIKE * like_D + (1 - ALIKE**2) ** 0.5 * aside_D
        rows.append(length * row_D)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[tokenizer.convert_tokens_to_ids(list(words))] = torch.stack(rows).to(weight)
