"""The paper's claim in small: which tower carries regions, what stage 1 and general data do.

Goes on from a run of the recipe (its pools, its stages "see" and "general") with short runs of the
recipe's own stages, all with the recipe's seed and on the same images and rows:

- "towers": region-language alignment with regions cut from the auxiliary tower's maps, the primary
  tower's, or both; every run with rates that fall to nothing.
- "stages": instruction tuning of the host with stage 1 done, with stage 1 skipped, and without
  general data. Features of regions are kept once; the region connector trains with the language
  model, the towers stand still.

Run ``python -m benchmarks.tiny_ablation --run runs/tiny --out runs/ablation``; the same command
goes on where it stopped. About 15 minutes of one core. ``--align-steps`` with another number adds
alignments of that length, and with the recipe's own number "both" is the run itself;
``--aligned RUN/align.safetensors`` tunes on its towers. The figures go to
``benchmarks/results/tiny_ablation.json``.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from recipes.synthetic.view import View
from recipes.tiny import shards, states
from recipes.tiny.align import Lesson, fold
from recipes.tiny.network import build
from recipes.tiny.phases import PhaseTraining
from recipes.tiny.pool import list_shards, load, to_unit
from recipes.tiny.recipe import RECIPE, Phase, Recipe, read_recipe
from recipes.tiny.rows import Sampler
from recipes.tiny.run import Run, columns
from recipes.tiny.seen import Seen, read
from recipes.tiny.speak import right_by_task
from recipes.tiny.tower_training import put_back, train_towers
from recipes.tiny.towers import BOTH, Tower, attend_at_once, encode
from vlm_fo1.train.metrics import read_log
from vlm_fo1.train.stop import Stop, stop_on_signals

ROOT = Path(__file__).parents[1]
WAYS: dict[str, tuple[Tower, ...]] = {
    "both": BOTH,
    "primary": ("primary",),
    "auxiliary": ("auxiliary",),
}
GENERAL = "free"  # the task of questions about the whole image


@dataclass(frozen=True)
class Sizes:
    """How short the short runs are."""

    align_steps: int = 150
    """Of each alignment, a shard each."""
    tune_steps: int = 200
    """Of each instruction tuning."""
    train_shards: int = 60
    """Shards of the pool that instruction tuning sees."""
    check_shards: int = 12
    """Shards of the check pool."""
    check_batches: int = 20
    """Batches of rows that answers are counted on, for regions and for whole images each."""
    host: str = "general"
    """Phase whose weights the host has."""
    tune: str = "instruct"
    """Phase that the short instruction tuning is like."""


class Ablation:
    """The short runs, each in a folder of its own.

    Args:
        recipe: Of the run.
        source: Folder of the run; only read.
        out: Gets everything.
        sizes: How short.
        progress: Shows how far it is.
        stop: Whether somebody asked to end.
        aligned: Checkpoint of stage "align" for "stages"; None for the short one of both towers.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Path,
        out: Path,
        sizes: Sizes,
        progress: Progress,
        stop: Stop,
        aligned: Path | None = None,
    ) -> None:
        torch.set_num_threads(recipe.threads)
        self.recipe, self.source, self.out, self.sizes = recipe, source, out, sizes
        self.sight, self.alignment = recipe.towers[:2]
        self.progress, self.stop = progress, stop
        self.aligned = aligned or self.folder("both") / f"{self.alignment.name}.safetensors"
        given = states.load(aligned) if aligned else None
        self.aligned_steps = given.step if given else sizes.align_steps

    def folder(self, name: str) -> Path:
        """Of a short alignment."""
        return self.out / f"towers-{self.sizes.align_steps}-{name}"

    def towers(self, name: str) -> dict[str, Any] | None:
        """Shares named after a short alignment; None when it was asked to stop."""
        steps, whole = self.sizes.align_steps, self.alignment
        if steps == whole.steps and name == "both":
            return _shares(self.source, steps)  # that is the run itself
        short = replace(
            whole, steps=steps, warmup=max(1, steps // 10), decay=0.6, check_every=steps
        )
        settings = whole if steps == whole.steps else short
        towers = (self.sight, settings, *self.recipe.towers[2:])
        recipe = replace(self.recipe, towers=towers)
        run = self._run(self.folder(name), recipe, (self.sight.name,))
        return _shares(run.folder, steps) if train_towers(run, settings, WAYS[name]) else None

    def tuned(self, name: str, aligned: bool, general: float) -> dict[str, Any] | None:
        """Answers right before and after a short instruction tuning.

        Args:
            name: Of the folder.
            aligned: Whether stage 1 was done.
            general: Share of rows about whole images without regions.
        """
        phases = {phase.name: phase for phase in self.recipe.phases}
        host, like = phases[self.sizes.host], phases[self.sizes.tune]
        tasks = {task: often for task, often in like.tasks.items() if general or task != GENERAL}
        phase = replace(
            like,
            name=name,
            steps=self.sizes.tune_steps,
            processes=1,
            decay=0.5,
            planned_steps=None,
            plain_share=general,
            seen_share=min(1.0, like.seen_share + like.plain_share - general),
            tasks=tasks,
        )
        recipe = replace(self.recipe, phases=(host, phase))
        steps = self.aligned_steps if aligned else 0
        run = self._run(self.out / f"stages-{steps}-{name}", recipe, (host.name,))
        features = self.out / f"features-{steps}"
        connector = self._keep(aligned, features)
        if not run.seen(phase.seen_by).exists():
            run.seen(phase.seen_by).parent.mkdir(parents=True, exist_ok=True)
            for stage in (self.sight.name, phase.seen_by):
                run.seen(stage).symlink_to((features / "train").resolve())
        training = PhaseTraining(run, phase, rank=0, connector=connector)
        check = read(features / "check")
        note = run.folder / "before.json"
        if training.step == 0:
            note.write_text(json.dumps(self._answers(training, like, check)), encoding="utf-8")
        if not training.train():
            return None
        before = json.loads(note.read_text(encoding="utf-8"))
        return {"before": before, "after": self._answers(training, like, check)}

    def _run(self, folder: Path, recipe: Recipe, stages: Sequence[str]) -> Run:
        """A run that has the images and some stages of the given one."""
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("pools", *(f"{stage}.safetensors" for stage in stages)):
            if not (folder / part).is_symlink():
                (folder / part).symlink_to((self.source / part).resolve())
        return Run(recipe, folder, None, self.progress, self.stop)

    @torch.no_grad()
    def _keep(self, aligned: bool, folder: Path) -> Mapping[str, Tensor]:
        """Write features of regions as the connector takes them; gives the connector's weights."""
        lesson = Lesson("regions", *build(self.recipe.seed, self.recipe.network))
        source = self.aligned if aligned else self.source / f"{self.sight.name}.safetensors"
        saved = states.load(source)
        assert saved is not None, f"{source} does not exist"
        put_back(lesson, saved.parts)
        connector = {k: v.clone() for k, v in lesson.model.region_connector.state_dict().items()}
        if (folder / "done").is_file():
            return connector
        fold(lesson.norms.image, lesson.model.image_connector)
        attend_at_once(lesson.model)
        lesson.model.eval()
        for pool, count in (
            ("train", self.sizes.train_shards),
            ("check", self.sizes.check_shards),
        ):
            paths = list_shards(self.source / "pools" / pool)[:count]
            task = self.progress.add_task(f"features of {pool}", total=count, figures="")
            seen: list[tuple[list[View], dict[str, Tensor]]] = []
            for path in paths:
                seen.append(_look(lesson, path))
                self.progress.advance(task)
            norm = lesson.norms.region
            if pool == "train":  # as a stage does at its end, whether there was one or not
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
                norm(torch.cat([tensors["regions_MD"].float() for _, tensors in seen]))
                norm.eval()
            (folder / pool).mkdir(parents=True, exist_ok=True)
            for path, (views, tensors) in zip(paths, seen, strict=True):
                tensors["regions_MD"] = norm(tensors["regions_MD"].float()).bfloat16()
                shards.write(folder / pool / path.name, views, tensors)
        (folder / "done").touch()
        return connector

    @torch.no_grad()
    def _answers(self, training: PhaseTraining, like: Phase, check: Seen) -> dict[str, Any]:
        """Share of answers right in every token, of fresh images, the same for every run."""
        training.model.eval()
        shares: dict[str, Any] = {}
        tasks = {task: often for task, often in like.tasks.items() if task != GENERAL}
        for kind, plain in (("regions", 0.0), ("general", 1.0)):
            phase = replace(
                like, plain_share=plain, seen_share=1 - plain, tasks=tasks, question_batch=None
            )
            words = tuple(self.recipe.images["words"])
            packer = training.speaker.packer
            sampler = Sampler(phase, packer, training.kinds, words, check, check)
            right: dict[str, int] = {}
            asked: dict[str, int] = {}
            for number in range(self.sizes.check_batches):
                rng = np.random.default_rng([self.recipe.seed, 91, number])
                drawn = sampler(training.level, False, rng)
                with torch.autocast("cpu", torch.bfloat16):
                    spoken = training.speaker(drawn, rng)
                for task, (good, count) in right_by_task([d.row for d in drawn], spoken).items():
                    right[task] = right.get(task, 0) + good
                    asked[task] = asked.get(task, 0) + count
            share = {task: round(right[task] / asked[task], 4) for task in sorted(asked)}
            shares[kind] = round(sum(right.values()) / sum(asked.values()), 4)
            if kind == "regions":
                shares["tasks"] = share
            shares[f"{kind}_questions"] = sum(asked.values())
        training.model.train()
        return shares


def _shares(folder: Path, steps: int) -> dict[str, Any]:
    """What the log of a run says of the last step of its alignment."""
    kept = ("things_right", "colours_right", "texts_right", "place_error")
    return {
        pool: {key: line[key] for key in kept if key in line}
        for pool in ("check", "heldout")
        for line in read_log(folder, pool)
        if line["step"] == steps and line["stage"] == "align"
    }


def _look(lesson: Lesson, path: Path) -> tuple[list[View], dict[str, Tensor]]:
    """Image tokens and features of regions of a shard."""
    pixels, views = load(path)
    boxes = [torch.from_numpy(view.regions.xyxy) for view in views]
    with torch.autocast("cpu", torch.bfloat16):
        found = encode(lesson.model, lesson.processor, to_unit(pixels), boxes)
    image_BnD = lesson.model.image_connector(found.image_BnD.float())
    return views, {
        "image_BnD": image_BnD.bfloat16(),
        "regions_MD": found.regions_MR.float(),
        "grid_hw": torch.tensor(found.grid_hw),
    }


TUNED: dict[str, tuple[bool, float]] = {
    "both stages": (True, 0.1),
    "stage 1 skipped": (False, 0.1),
    "no general data": (True, 0.0),
}
"""Short instruction tunings: whether stage 1 was done, and the share of general data."""


def measure(ablation: Ablation, parts: Sequence[str], results: Path) -> bool:
    """Run what is missing in a file of results; False when it was asked to stop.

    Args:
        ablation: The short runs.
        parts: Names of alignments as in `WAYS`, and of tunings as in `TUNED`.
        results: Read if it is there, written after every run.
    """
    told: dict[str, Any] = {"towers": {}, "stages": {}}
    if results.is_file():
        told = json.loads(results.read_text(encoding="utf-8"))
    told["seed"] = ablation.recipe.seed
    told["machine"] = f"one of {os.cpu_count()} cores, {platform.machine()}, {torch.__version__}"
    for name in parts:
        if name in WAYS:
            kind, steps = "towers", ablation.sizes.align_steps
        else:
            kind, steps = "stages", ablation.aligned_steps if TUNED[name][0] else 0
        part = told[kind].setdefault(str(steps), {})
        if name in part:
            continue
        start = time.process_time()
        if name in WAYS:
            found = ablation.towers(name)
        else:
            found = ablation.tuned(name.replace(" ", "-"), *TUNED[name])
            told["sizes"] = vars(ablation.sizes)
        if found is None:
            return False
        part[name] = {**found, "cpu_s": round(time.process_time() - start)}
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return True


def table(told: Mapping[str, Any]) -> str:
    """The results as markdown."""
    lines = ["| steps of alignment | towers | things named | held-out style | colours | place |"]
    lines.append("| --- " * 6 + "|")
    for steps, part in told["towers"].items():
        for name, found in part.items():
            check, other = found["check"], found["heldout"]
            values = (check["things_right"], other["things_right"], check.get("colours_right", 0.0))
            shares = " | ".join(f"{value:.3f}" for value in (*values, check["place_error"]))
            lines.append(f"| {steps} | {name} | {shares} |")
    lines += ["", "| alignment | run | region tasks before | after | general before | after |"]
    lines.append("| --- " * 6 + "|")
    for steps, part in told["stages"].items():
        for name, found in part.items():
            values = (
                found[when][kind] for kind in ("regions", "general") for when in ("before", "after")
            )
            shares = " | ".join(f"{value:.3f}" for value in values)
            lines.append(f"| {steps} | {name} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run; only read")
    parser.add_argument("--out", type=Path, required=True, help="folder of the short runs")
    names = (*WAYS, *TUNED)
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--aligned", type=Path, help="checkpoint of stage align for 'stages'")
    parser.add_argument("--align-steps", type=int, default=Sizes.align_steps)
    parser.add_argument("--tune-steps", type=int, default=Sizes.tune_steps)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "tiny_ablation.json"
    )
    options = parser.parse_args()
    sizes = Sizes(align_steps=options.align_steps, tune_steps=options.tune_steps)
    with stop_on_signals() as stop, Progress(*columns()) as progress:
        ablation = Ablation(
            read_recipe(options.recipe), options.run, options.out, sizes, progress, stop,
            options.aligned,
        )  # fmt: skip
        finished = measure(ablation, options.parts, options.results)
    if options.results.is_file():
        print(table(json.loads(options.results.read_text(encoding="utf-8"))))
    if not finished:
        print("stopped; everything is saved: the same command goes on")


if __name__ == "__main__":
    main()
