"""General questions about whole images, without regions, before and after regions were added.

Before is the host after stage 0, after is the model at the end of stage 2, both from a run of the
recipe: ``python -m benchmarks.tiny_general --run runs/tiny``. An answer counts when every token of
it is the likeliest one. The figures go to ``benchmarks/results/tiny_general.json``.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from recipes.tiny import seen
from recipes.tiny.packing import Packer
from recipes.tiny.phases import PhaseTraining
from recipes.tiny.pool import list_shards, load
from recipes.tiny.recipe import RECIPE, read_recipe
from recipes.tiny.rows import Sampler
from recipes.tiny.run import Run
from recipes.tiny.shards import write
from recipes.tiny.speak import right_by_task
from vlm_fo1.train.stop import stop_on_signals

ROOT = Path(__file__).parents[1]
BATCHES, ROWS = 24, 16


@torch.no_grad()
def share_right(run: Run, name: str, folder: Path) -> tuple[float, int]:
    """Share of right answers of the model after a phase, and how many questions there were.

    Args:
        run: A run of the recipe.
        name: Of the phase.
        folder: Images as the host's tower sees them.
    """
    recipe = run.recipe
    phase = next(phase for phase in recipe.phases if phase.name == name)
    asked = replace(phase, name="asked", tasks={"free": 1.0}, plain_share=1.0, seen_share=0.0)
    asked = replace(asked, batch=ROWS, question_batch=None)
    run.recipe = replace(recipe, phases=(phase, asked))  # its start is what the phase left
    training = PhaseTraining(run, asked, rank=0)
    run.recipe = recipe
    training.model.eval()
    packer: Packer = training.speaker.packer
    words = tuple(recipe.images["words"])
    sampler = Sampler(asked, packer, training.kinds, words, seen.read(folder), None)
    right = total = 0
    for number in range(BATCHES):
        rng = np.random.default_rng([recipe.seed, 92, number])
        drawn = sampler(training.level, False, rng)
        with torch.autocast("cpu", torch.bfloat16):
            spoken = training.speaker(drawn, rng)
        for good, count in right_by_task([item.row for item in drawn], spoken).values():
            right, total = right + good, total + count
    return right / total, total


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--before", default="phrases-slowly", help="last phase of stage 0")
    parser.add_argument("--after", help="last phase of stage 2; the recipe's last without it")
    out = ROOT / "benchmarks" / "results" / "tiny_general.json"
    parser.add_argument("--out", type=Path, default=out)
    options = parser.parse_args()
    recipe = read_recipe(options.recipe)
    torch.set_num_threads(recipe.threads)
    told: dict[str, dict[str, float]] = {}
    with stop_on_signals() as stop, Progress(disable=True) as progress:
        run = Run(recipe, options.run, None, progress, stop)
        for pool in ("check", "heldout"):
            folder = run.seen(f"general-{pool}")
            folder.mkdir(parents=True, exist_ok=True)
            model, processor = seen.aligned_model(run, recipe.towers[0])
            for path in list_shards(run.pool(pool)):
                if not (folder / path.name).is_file():
                    pixels, views = load(path)
                    tokens = seen.look(model, processor, pixels, views, recipe.towers[0])
                    write(folder / path.name, views, tokens)
            for when, name in (
                ("before", options.before),
                ("after", options.after or recipe.phases[-1].name),
            ):
                share, count = share_right(run, name, folder)
                told.setdefault(pool, {"questions": count})[when] = round(share, 4)
    options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
