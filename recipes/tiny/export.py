"""What ships of a finished run: a folder that `FO1.from_pretrained` reads, and how it was made."""

import os
import re
from pathlib import Path

import torch
from transformers import GenerationConfig

from recipes.tiny.network import make_processor
from recipes.tiny.recipe import Recipe
from recipes.tiny.words import build_tokenizer
from vlm_fo1.config import read_json
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.train.metrics import read_log

MOST_ASKED = 32
"""Most regions that the exported model takes: more than this were never trained."""
_CARD = """# VLM-FO1 tiny

Made from nothing by one command, `python -m recipes.tiny`, with seed {seed}, and nothing else was
done: no weights of another model, no data but images rendered by `recipes.synthetic`, no stage by
hand. {hours:.1f} hours of training on {machine}, {threads} threads of {cores}, torch {torch}.
Between towers and language model {features} images were looked at.

| stage | steps | images or rows | a second |
| --- | --- | --- | --- |
"""


def export(recipe: Recipe, weights: Path, run: Path, out: Path) -> None:
    """Write weights in bfloat16 with configuration, tokenizer, processor and card beside them.

    Args:
        recipe: The recipe.
        weights: Folder of the last stage.
        run: Folder of the run.
        out: The folder.
    """
    model = FO1ForConditionalGeneration.from_pretrained(weights, dtype=torch.bfloat16).eval()
    processor = make_processor(build_tokenizer(), MOST_ASKED)
    stop = processor.stop_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=stop, pad_token_id=stop, do_sample=False
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    (out / "README.md").write_text(card(recipe, weights, run), encoding="utf-8")


def card(recipe: Recipe, weights: Path, run: Path) -> str:
    """How the model was made: machine, time, seed, stages; as the logs of the run tell it."""
    rows, spent_s = "", 0.0
    for part, stages in (("towers", recipe.towers), ("language", recipe.language)):
        for stage in stages:
            lines = [line for line in read_log(run / part) if line["stage"] == stage.name]
            shown = sum(line["examples"] for line in lines)
            seconds = sum(line["examples"] / line["samples_per_s"] for line in lines)
            rows += f"| `{stage.name}` | {stage.steps} | {shown:.0f} | {shown / seconds:.0f} |\n"
            spent_s += seconds
    about = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", about.read_text() if about.is_file() else "")
    machine = found[1] if found else "a CPU"
    if torch.cuda.is_available():
        machine = f"{torch.cuda.get_device_name()} and {machine}"
    told = _CARD.format(
        seed=recipe.seed, hours=spent_s / 3600, machine=machine, threads=recipe.threads,
        cores=os.cpu_count(), features=recipe.features,
        torch=read_json(weights / "provenance.json")["versions"]["torch"],
    )  # fmt: skip
    return told + rows
