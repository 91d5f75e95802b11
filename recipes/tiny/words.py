"""The small model's tokenizer: one token a word or a fixed fragment, bytes for everything else.

Kinds, colours, printed words and numbers are one token each, in one form whatever stands before
them: spaces belong to the fragments of the templates around them.
"""

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recipes.synthetic.colours import BACKGROUNDS, COLOURS
from recipes.synthetic.kinds import KINDS, SIGN, plural
from recipes.synthetic.questions import BACKGROUND, NUMBERS
from recipes.synthetic.signs import WORDS
from vlm_fo1.data.answers import NOTHING
from vlm_fo1.markup import RELEASED
from vlm_fo1.processing import ChatFormat
from vlm_fo1.tasks import TASKS

STOP, PAD, START = "<|im_end|>", "<|endoftext|>", "<|im_start|>"

CHAT = ChatFormat(opening=f"{START}user\n")
"""No system turn: it would be the same tokens in front of everything."""

CATEGORIES = ("animal", "vehicle")
"""Words of categories that questions use."""

PHRASES = (
    *("the ", "The ", "a ", "an ", ", ", " and ", " ", ".", "?", ". ", "\n", " is ", "Is the "),
    *("the largest ", "the smallest ", "the leftmost ", "the rightmost ", "the topmost "),
    *("the lowest ", " left of the ", " right of the ", " above the ", " below the "),
    *(" nearest the ", " that is not ", "the sign that says ", "a sign that says ", " left of "),
    *(" right of ", " above ", " below ", " nearest ", " that says ", "small ", "large "),
    *("There is ", "There are ", "There is 1 ", " is more than ", " = ", " + ", "Are there more "),
    *(" or ", " are there?", " in this image?", "Is there a ", "Is there an ", "The sign says "),
    "How many kinds of things are there in this image?",
    "How many things are there in this image?",
    "What is on the left half of this image?",
    "What is on the right half of this image?",
    "What colour is the background of this image?",
    "What does the sign say?",
    *("What does ", " say?", "What is ", "What ", "Where is ", "Which "),
    *(f" at the {level}" for level in ("top", "bottom")),
    *(f" at the {level} {side}" for level in ("top", "bottom") for side in ("left", "right")),
    *(" on the left", " on the right", " in the middle"),
    *("yes", "no", "<answer>", "</answer>", "</think><answer>"),
)


def fragments() -> list[str]:
    """Fixed text that is one token each, longest first."""
    found = {f"{START}user\n", CHAT.closing, CHAT.after_image, *PHRASES}
    for template in (spec.template for spec in TASKS.values()):
        found |= {piece for piece in template.split("{}") if piece and piece != "."}
    return sorted(found, key=lambda text: (-len(text), text))


def words() -> list[str]:
    """Words that are one token each where they stand alone."""
    names = [*KINDS, SIGN, *CATEGORIES]
    listed = [
        *names,
        *map(plural, names),
        *COLOURS,
        *BACKGROUNDS,
        *WORDS,
        *NUMBERS,
        *map(str, range(41)),
        NOTHING,
        BACKGROUND,
        *("things", "thing", "image", "picture", "left", "right", "top", "bottom", "half"),
    ]
    taken = set(fragments())
    return [word for word in dict.fromkeys(listed) if word not in taken]


@cache
def build_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, then words and fragments, then control tokens and region tags."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    present = set(alphabet)
    core.add_tokens(
        [AddedToken(word, single_word=True, normalized=False)
         for word in words() if word not in present]
    )  # fmt: skip
    core.add_tokens(
        [AddedToken(text, normalized=False) for text in fragments() if text not in present]
    )
    control = [STOP, PAD, START, "<|vision_start|>", "<|vision_end|>", CHAT.image_token]
    core.add_special_tokens(
        [AddedToken(text, normalized=False, special=True)
         for text in [*control, *RELEASED.special_tokens()]]
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=STOP,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def id_of(tokenizer: PreTrainedTokenizerFast, word: str) -> int:
    """The id of a text that is one token.

    Raises:
        ValueError: It is several.
    """
    ids = tokenizer([word], add_special_tokens=False)["input_ids"][0]
    if len(ids) != 1:
        raise ValueError(f"{word!r} is {len(ids)} tokens: add it to the words of the tokenizer")
    return ids[0]
