"""What a region token says, as a fixed sum of words and a place: the target of alignment.

A region's token is the word of its kind, the word of its colour, what is printed on it, and where
it is and how large. Of its place it also says the squared distance from the middle of the picture:
with it, which of two regions is nearer to a third is a product of vectors. Shapes: M regions, B
pictures, D width of the language model, V words.
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
_AT = {name: {word: i for i, word in enumerate(listed)} for name, listed in LISTS.items()}


def truth_of(views: Sequence[View]) -> dict[str, Tensor]:
    """Per region of all pictures: names, colours, texts (M,), places (M, 4); per picture: papers.

    Numbers count the words of `LISTS`; `IGNORED` where there is none. Places are centre x, centre
    y, width and height as shares of the picture.
    """
    found: dict[str, list[int]] = {name: [] for name in LISTS}
    places = [np.zeros((0, 4), np.float32)]
    for view in views:
        found["papers"].append(_AT["papers"].get(view.rendered.background or "", IGNORED))
        size = np.array(view.rendered.image.size * 2, np.float32)
        boxes = view.regions.xyxy / size
        low, high = boxes[:, :2], boxes[:, 2:]
        middle_size = np.concatenate([(low + high) / 2, high - low], axis=1)
        places.append(middle_size.astype(np.float32))
        for truth in view.regions.truth.tolist():
            thing = view.rendered.objects[truth] if truth >= 0 else None
            found["names"].append(_AT["names"][thing.name if thing else BACKGROUND])
            colour = thing.colour if thing and thing.text is None else None
            found["colours"].append(_AT["colours"].get(colour or "", IGNORED))
            found["texts"].append(_AT["texts"][thing.text] if thing and thing.text else IGNORED)
    result = {name: torch.tensor(values, dtype=torch.long) for name, values in found.items()}
    return {**result, "places": torch.from_numpy(np.concatenate(places).astype(np.float32))}


class Code:
    """Word ids per list, and five directions for place and size.

    Args:
        tokenizer: Of the model.
        width: D.
        length: Of the words; the directions are as long, times `stretch`.
        stretch: How much longer places are than alignment makes them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        width: int,
        length: float = 1.0,
        stretch: float = 1.0,
    ) -> None:
        self.ids = {
            name: torch.tensor([id_of(tokenizer, word) for word in listed])
            for name, listed in LISTS.items()
        }
        generator = torch.Generator().manual_seed(17)
        directions_D5 = torch.linalg.qr(torch.randn(width, 5, generator=generator))[0]
        self.stretch, self._unit_5D = stretch, directions_D5.T
        self.directions_5D = directions_D5.T * length * stretch

    def place(self, places_M4: Tensor) -> Tensor:
        """Centre and size as shares of the picture to about standard numbers; (M, 5).

        They are centre x and y, width, height, and the squared distance from the middle.
        """
        centre = (places_M4[:, :2] - 0.5) / 0.29
        size = (places_M4[:, 2:].clamp(min=1e-3).log() + 1.75) / 0.45
        away = (centre.square().sum(-1, keepdim=True) - 2) / 1.26
        return torch.cat([centre, size, away], dim=-1)

    def tokens(self, words_VD: Tensor, truth: dict[str, Tensor]) -> Tensor:
        """(M, D) the sum that a perfect region encoder would give."""
        result = words_VD[self.ids["names"][truth["names"]]].clone()
        for name, strength in (("colours", COLOUR), ("texts", TEXT)):
            known = truth[name] >= 0
            result[known] += strength * words_VD[self.ids[name][truth[name][known]]]
        return result + PLACE * self.place(truth["places"]) @ self.directions_5D

    def stretched(self, values_MD: Tensor) -> Tensor:
        """The same with the part that says places as much longer as `stretch` says."""
        places_M5 = values_MD @ self._unit_5D.T
        return values_MD + (self.stretch - 1) * places_M5 @ self._unit_5D
