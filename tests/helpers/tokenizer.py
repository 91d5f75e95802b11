"""A tokenizer small enough to build in a test, that splits text as a host's tokenizer would.

Every printable ASCII character and the newline is a token; so are the vocabulary's tags and a
chat's control tokens. Nothing is merged, so a text has one spelling in tokens.
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlm_fo1.markup import RELEASED, Vocabulary

CONTROL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
PAD, UNKNOWN = "<|endoftext|>", "<unk>"


def char_tokenizer(
    vocabulary: Vocabulary = RELEASED, *, with_feature: bool = True
) -> PreTrainedTokenizerFast:
    """Characters, control tokens and the markup of `vocabulary`.

    `with_feature=False` leaves the placeholder of region features out, as released folders do.
    """
    characters = ["\n", *map(chr, range(32, 127))]
    table = {token: index for index, token in enumerate([UNKNOWN, *characters])}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    markup = vocabulary.special_tokens()
    if not with_feature:
        markup.remove(vocabulary.region_feature)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in [PAD, *CONTROL]]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in markup])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token="<|im_end|>", unk_token=UNKNOWN
    )
