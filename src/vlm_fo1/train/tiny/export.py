"""Puts the trained parts of the small model together, as a folder that `FO1.from_pretrained` reads.

``python -m vlm_fo1.train.tiny.export configs/train/tiny.yaml --run DIR --out DIR``.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from vlm_fo1.train.tiny.network import LANGUAGE_MODEL, LOUD, build
from vlm_fo1.train.tiny.recipe import Recipe, read_recipe

EPSILON = 1e-5
"""Of the normalisations in front of the connectors."""


def export(recipe: Recipe, towers: Path, language_model: Path, out: Path) -> Path:
    """Write weights in bfloat16 with configuration, tokenizer and processor beside them.

    Args:
        recipe: Gives the sizes.
        towers: Checkpoint of stage "align": towers, connectors and their normalisations.
        language_model: Checkpoint of the last phase: language model and words.
        out: The folder.
    """
    model, processor = build(recipe.seed, recipe.network)
    seen, spoken = read_states(towers), read_states(language_model)["model"]
    state = {k: v for k, v in seen["model"].items() if not k.startswith(LANGUAGE_MODEL)}
    model.load_state_dict(state | {k: v for k, v in spoken.items() if k.startswith(LANGUAGE_MODEL)})
    fold(seen["norms"], "image", model.image_connector)
    fold(seen["norms"], "region", model.region_connector)
    with torch.no_grad():
        for connector in (model.image_connector, model.region_connector):
            last: Any = connector.get_submodule("2")
            last.weight.mul_(LOUD)
            last.bias.mul_(LOUD)
    model = model.to(torch.bfloat16).eval()
    stop = processor.stop_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=stop, pad_token_id=stop, do_sample=False
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def fold(norms: dict[str, Tensor], name: str, connector: nn.Module) -> None:
    """Take a normalisation into the first layer of the connector after it."""
    first: Any = connector.get_submodule("0")
    with torch.no_grad():
        first.weight.mul_((norms[f"{name}.running_var"] + EPSILON).rsqrt())
        first.bias.sub_(first.weight @ norms[f"{name}.running_mean"])


def read_states(path: Path) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds, part by part."""
    return torch.load(path, weights_only=True)  # noqa: TID251 - tensors only


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m vlm_fo1.train.tiny.export")
    parser.add_argument("config", type=Path)
    parser.add_argument("--towers", type=Path, required=True)
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    export(read_recipe(options.config), options.towers, options.language_model, options.out)


if __name__ == "__main__":
    main()
