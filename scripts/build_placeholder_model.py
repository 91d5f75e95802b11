"""Make `assets/tiny` from the recorded tiny weights, until a trained small model takes its place.

The weights are random: they exercise every part of the program and answer nonsense. The tokenizer
made here has one token per printable character, which fits their 300 words.
"""

import argparse
import shutil
import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlm_fo1 import FO1ForConditionalGeneration, FO1ImageProcessor, FO1Processor
from vlm_fo1.markup import RELEASED

CHAT = {
    "<|im_start|>": 250,
    "<|im_end|>": 251,
    "<|vision_start|>": 252,
    "<|vision_end|>": 253,
    "<|image_pad|>": 255,
}


def build_tokenizer(region_token_id: int) -> PreTrainedTokenizerFast:
    """Characters, region markup and chat tokens at the ids the recorded configuration names."""
    characters = [c for c in string.printable if c.isprintable()] + ["\n"]
    words = {character: index for index, character in enumerate(characters)}
    special = [token for token in RELEASED.special_tokens() if token != RELEASED.region_feature]
    words |= {token: len(characters) + index for index, token in enumerate([*special, "<unk>"])}
    words |= {**CHAT, RELEASED.region_feature: region_token_id}
    taken = set(words.values())
    words |= {f"<unused{i}>": i for i in range(region_token_id) if i not in taken}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        padding_side="left",
    )
    fast.add_special_tokens(
        {"additional_special_tokens": [*special, RELEASED.region_feature, *CHAT]}
    )
    return fast


def main() -> None:
    """Read the recorded folder and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recorded", type=Path, help="folder with config.json, model.safetensors")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    model = FO1ForConditionalGeneration.from_pretrained(options.recorded)
    shutil.rmtree(options.out, ignore_errors=True)
    model.save_pretrained(options.out)
    processor = FO1Processor(
        FO1ImageProcessor(aux_image_aspect_ratio="dynamic"),
        build_tokenizer(model.config.region_token_id),
    )
    processor.save_pretrained(options.out)


if __name__ == "__main__":
    main()
