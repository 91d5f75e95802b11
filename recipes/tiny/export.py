"""Puts the trained parts of the small model together, as a folder that `FO1.from_pretrained` reads.

``python -m recipes.tiny.export recipes/tiny/tiny.yaml --run DIR --out DIR``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from recipes.tiny import states
from recipes.tiny.align import Lesson, fold
from recipes.tiny.code import Code
from recipes.tiny.network import LOUD, build, tiny_processor
from recipes.tiny.recipe import Recipe, read_recipe
from recipes.tiny.tower_training import put_back
from vlm_fo1.errors import CheckpointError

MOST_ASKED = 32
"""Most regions that the exported model takes: more than this were never trained."""


def export(recipe: Recipe, towers: Path, language_model: Path, out: Path) -> Path:
    """Write weights in bfloat16 with configuration, tokenizer and processor beside them.

    Args:
        recipe: Gives the sizes.
        towers: Checkpoint of a stage that learns regions: towers, connectors, their normalisations.
        language_model: Checkpoint of the last phase: language model and words.
        out: The folder.
    """
    lesson = Lesson("regions", *build(recipe.seed, recipe.network))
    put_back(lesson, _read(towers))
    model, processor = lesson.model, lesson.processor
    model.load_state_dict(model.state_dict() | _read(language_model)["model"])
    fold(lesson.norms.image, model.image_connector)
    fold(lesson.norms.region, model.region_connector)
    code = Code(processor.tokenizer, recipe.network.hidden, stretch=recipe.phases[-1].stretch)
    with torch.no_grad():
        region: Any = model.region_connector.get_submodule("2")
        region.weight.copy_(code.stretched(region.weight.T).T)
        region.bias.copy_(code.stretched(region.bias))
        for connector in (model.image_connector, model.region_connector):
            last: Any = connector.get_submodule("2")
            last.weight.mul_(LOUD)
            last.bias.mul_(LOUD)
    model.bfloat16().eval()
    stop = processor.stop_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=stop, pad_token_id=stop, do_sample=False
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tiny_processor(processor.tokenizer, MOST_ASKED).save_pretrained(out)
    return out


def _read(path: Path) -> states.Parts:
    """The parts of a checkpoint.

    Raises:
        CheckpointError: It does not exist.
    """
    found = states.load(path)
    if found is None:
        raise CheckpointError(f"{path} does not exist: run the stage that makes it first")
    return found.parts


def export_run(recipe: Recipe, run: Path, out: Path) -> Path:
    """Write what a finished run made; see `export`."""
    last = recipe.phases[-1]
    return export(
        recipe, run / f"{last.seen_by}.safetensors", run / f"{last.name}.safetensors", out
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny.export")
    parser.add_argument("config", type=Path, help="such as recipes/tiny/tiny.yaml")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    options = parser.parse_args(arguments)
    export_run(read_recipe(options.config), options.run, options.out)


if __name__ == "__main__":
    main()
