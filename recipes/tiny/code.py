"""What a region token says, as a fixed sum of words and a place: the target of alignment.

A region's token is the word of its kind, the word of its colour, what is printed on it, and where
it is and how large. Of its place it also says the squared distance from the middle of the image:
with it, which of two regions is nearer to a third is a product of vectors. Shapes: M regions, D
width of the language model, V words, K words of a list.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from recipes.synthetic.colours import BACKGROUNDS, COLOURS
from recipes.synthetic.kinds import KINDS, SIGN
from recipes.synthetic.questions import BACKGROUND
from recipes.synthetic.signs import WORDS
from recipes.synthetic.view import View
from recipes.tiny.words import id_of

NAMES = (*KINDS, SIGN, BACKGROUND)
COLOUR, TEXT, PLACE = 0.6, 0.8, 0.35
"""How strong each part is beside the word of the kind."""
LISTS = {"names": NAMES, "colours": tuple(COLOURS), "texts": WORDS, "papers": tuple(BACKGROUNDS)}
"""What regions say, and ``papers``: the colour of the background, which image tokens say."""
IGNORED = -100
AT = {name: {word: i for i, word in enumerate(listed)} for name, listed in LISTS.items()}


def truth_of(views: Sequence[View]) -> dict[str, Tensor]:
    """Per region of all images: names, colours, texts (M,), places (M, 4); per image: papers.

    Numbers count the words of `LISTS`; `IGNORED` where there is none. Places are centre x, centre
    y, width and height as shares of the image.
    """
    found: dict[str, list[int]] = {name: [] for name in LISTS}
    places = [np.zeros((0, 4), np.float32)]
    for view in views:
        found["papers"].append(AT["papers"].get(view.rendered.background or "", IGNORED))
        boxes = view.regions.xyxy / np.array(view.rendered.image.size * 2, np.float32)
        low, high = boxes[:, :2], boxes[:, 2:]
        middle_size = np.concatenate([(low + high) / 2, high - low], axis=1)
        places.append(middle_size.astype(np.float32))
        for truth in view.regions.truth.tolist():
            thing = view.rendered.objects[truth] if truth >= 0 else None
            text = thing.text if thing else None
            colour = thing.colour if thing and text is None else None
            found["names"].append(AT["names"][thing.name if thing else BACKGROUND])
            found["colours"].append(AT["colours"].get(colour or "", IGNORED))
            found["texts"].append(AT["texts"][text] if text else IGNORED)
    result = {name: torch.tensor(values, dtype=torch.long) for name, values in found.items()}
    return {**result, "places": torch.from_numpy(np.concatenate(places).astype(np.float32))}


def word_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """Token ids of `LISTS`: words that regions are aligned to, so they never train."""
    return {
        name: torch.tensor([id_of(tokenizer, word) for word in listed])
        for name, listed in LISTS.items()
    }


class Code:
    """Words of length one, and five directions of length one for place and size.

    Args:
        ids: As `word_ids` gives them.
        words_VD: Embeddings of the language model, of any one length.
    """

    def __init__(self, ids: dict[str, Tensor], words_VD: Tensor) -> None:
        table = torch.nn.functional.normalize(words_VD.detach().float(), dim=-1)
        self.words = {name: table[listed.to(table.device)] for name, listed in ids.items()}
        generator = torch.Generator().manual_seed(17)
        directions_D5 = torch.linalg.qr(torch.randn(table.shape[1], 5, generator=generator))[0]
        self.directions_5D = directions_D5.T.to(table.device)

    def place(self, places_M4: Tensor) -> Tensor:
        """Centre and size as shares of the image to about standard numbers; (M, 5).

        They are centre x and y, width, height, and the squared distance from the middle.
        """
        centre = (places_M4[:, :2] - 0.5) / 0.29
        size = (places_M4[:, 2:].clamp(min=1e-3).log() + 1.75) / 0.45
        away = (centre.square().sum(-1, keepdim=True) - 2) / 1.26
        return torch.cat([centre, size, away], dim=-1)

    def tokens(self, truth: dict[str, Tensor]) -> Tensor:
        """(M, D) the sum that a perfect region encoder would give."""
        result = self.words["names"][truth["names"]].clone()
        for name, strength in (("colours", COLOUR), ("texts", TEXT)):
            known = truth[name] >= 0
            result[known] += strength * self.words[name][truth[name][known]]
        return result + PLACE * self.place(truth["places"]) @ self.directions_5D

    def stretched(self, values_MD: Tensor, by: float) -> Tensor:
        """The same with the part that says places so many times as long."""
        return values_MD + (by - 1) * values_MD @ self.directions_5D.T @ self.directions_5D
