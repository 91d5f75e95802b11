"""What the bundled model can do: every task on images it never saw, beside three baselines.

Run ``python -m benchmarks.tiny_model --sprites DIR --out results.json``: by vendor, those that
train, those held out during the work, and with ``--final`` the one held out to the end. Boxes are
given (things, shifted as proposals are, and boxes around nothing); everything else comes from the
image, through the same processor, network and parser that `FO1` uses, in batches.
"""

import argparse
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.synthetic.kinds import SIGN
from recipes.synthetic.questions import ASKERS
from recipes.synthetic.referring import phrases
from recipes.synthetic.render import render
from recipes.synthetic.sprites import load_sprites
from recipes.synthetic.view import View, brief
from recipes.tiny.recipe import Recipe, read_recipe
from vlm_fo1 import FO1
from vlm_fo1.answer import Answer
from vlm_fo1.data.regions import build_regions
from vlm_fo1.model.modeling import EncodedImages
from vlm_fo1.parser import parse
from vlm_fo1.regions import Regions
from vlm_fo1.tasks import Question, Task, ask_labels, ask_regions


@dataclass
class Asked:
    """A question on one image and what is right."""

    number: int
    task: str
    question: Question
    truth: Any
    form: str = ""
    answer: Answer | None = field(default=None, repr=False)


def make_images(
    recipe: Recipe, sprites: str, styles: tuple[str, ...], count: int, seed: int,
    **values: Any,
) -> list[View]:  # fmt: skip
    """Images of the recipe's kind with 8 to 30 regions, from another seed, without variety."""
    config = recipe.image_config(
        sprites, styles=styles, objects=(6, 22), distractors=(0, 7), variety={}, synonyms=0.0,
        **values,
    )  # fmt: skip
    views: list[View] = []
    index = 0
    while len(views) < count:
        streams = [np.random.default_rng([seed, index, part]) for part in range(2)]
        index += 1
        rendered = render(config, load_sprites(sprites, config.final), streams[0])
        regions = build_regions(
            rendered.boxes_xyxy, rendered.image.size, streams[1], distractors=config.distractors
        )
        if 8 <= len(regions.xyxy) <= 30:
            views.append(View(rendered, regions, config))
    return views


def make_questions(views: Sequence[View], seed: int) -> list[Asked]:
    """One detection and counting, up to two referring, three captions, all signs, one match."""
    asked: list[Asked] = []
    for number, view in enumerate(views):
        rng = np.random.default_rng([seed, 9, number])
        count = len(view.regions.xyxy)
        present = [str(name) for name in rng.permutation(sorted(view.by_name))[:2]]
        absent = view.absent(rng, present[0] if rng.random() < 0.5 else None)
        labels = [str(name) for name in rng.permutation([*present, absent])]
        truth = {name: {i.region for i in view.by_name.get(name, ())} for name in labels}
        asked.append(Asked(number, "detection", ask_labels(Task.DETECTION, labels), truth))
        item = view.items[rng.integers(len(view.items))]
        name = item.thing.name
        question = ask_labels(Task.COUNTING, name)
        asked.append(Asked(number, "counting", question, len(view.by_name[name])))
        forms = phrases(view)
        if len(forms) > 1:
            forms.pop("only", None)
        for form in rng.permutation(sorted(forms))[:2]:
            phrase, target = forms[form][rng.integers(len(forms[form]))]
            question = ask_labels(Task.REFERRING, phrase)
            asked.append(Asked(number, "referring", question, {target.region}, str(form)))
        for at in rng.permutation(len(view.items))[:3]:
            item = view.items[at]
            question = ask_regions(Task.BRIEF_CAPTION, [item.region], count)
            asked.append(Asked(number, "caption", question, item.thing))
        for item in view.by_name.get(SIGN, ()):
            question = ask_regions(Task.REGION_OCR, [item.region], count)
            asked.append(Asked(number, "ocr", question, item.thing.text))
        groups = [g for g in view.by_name.values() if len(g) > 1]
        if groups:
            group = groups[rng.integers(len(groups))]
            item = group[rng.integers(len(group))]
            question = ask_regions(Task.VISUAL_PROMPT, [item.region], count)
            others = {other.region for other in group} - {item.region}
            asked.append(Asked(number, "visual_prompt", question, others))
        for task in (Task.FREE, Task.REASONING):
            turn = ASKERS[task](view, rng)
            if turn is not None:
                question = Question(task=task, text=turn.question)
                asked.append(Asked(number, str(task), question, turn.answer))
    return asked


@torch.inference_mode()
def encode(fo1: FO1, views: Sequence[View]) -> list[EncodedImages]:
    """Every image once, from its image and its boxes."""
    encoded: list[EncodedImages] = []
    for view in views:
        inputs = fo1.processor.image_processor(view.rendered.image, view.regions.xyxy)
        encoded.append(
            fo1.model.encode_images(
                inputs["pixel_values"], inputs["image_grid_thw"], inputs["aux_pixel_values"],
                inputs["region_boxes"],
            )
        )  # fmt: skip
    return encoded


@torch.inference_mode()
def answer_all(
    fo1: FO1, views: Sequence[View], encoded: Sequence[EncodedImages], asked: Sequence[Asked],
    *, batch: int = 48,
) -> None:  # fmt: skip
    """Greedy answers, a batch of questions at a time, by length."""
    processor = fo1.processor
    prompts = {
        id(item): processor.encode_prompt(
            item.question.text, len(views[item.number].regions.xyxy),
            len(encoded[item.number].image_tokens[0]),
        )
        for item in asked
    }  # fmt: skip
    order = sorted(asked, key=lambda item: (item.task, len(prompts[id(item)])))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        longest = max(len(prompts[id(item)]) for item in rows)
        pad = processor.stop_token_id
        ids = [[pad] * (longest - len(prompts[id(i)])) + prompts[id(i)] for i in rows]
        mask = [[0] * (longest - len(prompts[id(i)])) + [1] * len(prompts[id(i)]) for i in rows]
        images = EncodedImages(
            [encoded[i.number].image_tokens[0] for i in rows],
            [encoded[i.number].region_tokens[0] for i in rows],
            torch.cat([encoded[i.number].image_grid_thw for i in rows]),
        )
        ids_BT = torch.tensor(ids)
        found = fo1.model.generate(
            ids_BT, torch.tensor(mask), encoded=images, max_new_tokens=96, do_sample=False,
            eos_token_id=processor.stop_token_id, pad_token_id=processor.stop_token_id,
        )  # fmt: skip
        for item, new in zip(rows, found[:, longest:], strict=True):
            view = views[item.number]
            regions = Regions(view.regions.xyxy, view.rendered.image.size)
            item.answer = parse(processor.decode(new), regions, item.question)


def score(asked: Sequence[Asked]) -> dict[str, float]:
    """The figures of what was answered."""
    answers = [item.answer for item in asked if item.answer is not None]
    chosen = [{m.label: set(m.indices) for m in answer.mentions} for answer in answers]
    counts = [answer.count for answer in answers]
    return figures(asked, chosen, counts, [answer.text for answer in answers])


def figures(
    asked: Sequence[Asked], chosen: Sequence[dict[str, set[int]]], counts: Sequence[int | None],
    texts: Sequence[str],
) -> dict[str, float]:  # fmt: skip
    """Figures from what was chosen, counted and written for each question."""
    hits: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    pairs = {"detection": [0, 0, 0], "visual_prompt": [0, 0, 0]}
    for item, found, count, text in zip(asked, chosen, counts, texts, strict=True):
        united = set().union(*found.values()) if found else set()
        if item.task == "detection":
            for label, truth in item.truth.items():
                got = found.get(label, set())
                _add(pairs["detection"], got, truth)
                if not truth:
                    tried["absent"] += 1
                    hits["absent"] += not got
            continue
        if item.task == "visual_prompt":
            _add(pairs["visual_prompt"], united, item.truth)
            continue
        right = _right(item, united, count, text)
        if item.task == "referring":
            tried[f"referring/{item.form}"] += 1
            hits[f"referring/{item.form}"] += right
        if item.task == "caption":
            tried["caption_exact"] += 1
            hits["caption_exact"] += text == brief(item.truth)
        tried[item.task] += 1
        hits[item.task] += right
    result = {name: round(hits[name] / tried[name], 4) for name in sorted(tried)}
    for name, (both, got, truth) in pairs.items():
        result[f"{name}_f1"] = round(2 * both / max(got + truth, 1), 4)
    return result


def _right(item: Asked, chosen: set[int], count: int | None, text: str) -> bool:
    """Whether an answer that is right or wrong is right."""
    if item.task == "counting":
        return count == item.truth
    if item.task == "referring":
        return chosen == item.truth
    if item.task == "caption":
        return _names(text, item.truth)
    if item.task == "reasoning":
        return text.rpartition("<answer>")[2] == item.truth.rpartition("<answer>")[2]
    return text == item.truth


def _add(sums: list[int], got: set[int], truth: set[int]) -> None:
    for position, value in enumerate((len(got & truth), len(got), len(truth))):
        sums[position] += value


def _names(text: str, thing: Any) -> bool:
    if thing.name == SIGN:
        return text.startswith(f"a {SIGN}")
    return text.split(" ")[-1] == thing.name


def baselines(views: Sequence[View], asked: Sequence[Asked]) -> dict[str, dict[str, float]]:
    """A constant answer, and one that knows what is a thing but not which."""
    modes = {
        task: Counter(str(i.truth) for i in asked if i.task == task).most_common(1)[0][0]
        for task in {i.task for i in asked}
        if task in {"counting", "ocr", "free", "reasoning"}
    }
    kind = Counter(i.truth.name for i in asked if i.task == "caption").most_common(1)[0][0]
    constant, blind, texts = [], [], []
    counts = [int(modes.get("counting", 0))] * len(asked)
    rng = np.random.default_rng(0)
    for item in asked:
        things = [thing.region for thing in views[item.number].items]
        labels = list(item.truth) if item.task == "detection" else ["it"]
        constant.append({label: {0} for label in labels})
        one = {int(things[rng.integers(len(things))])}
        blind.append({label: one if item.task == "referring" else set(things) for label in labels})
        texts.append(f"a {kind}" if item.task == "caption" else modes.get(item.task, ""))
    return {
        "constant answer": figures(asked, constant, counts, texts),
        "class-blind": figures(asked, blind, counts, texts),
    }


@torch.inference_mode()
def timed(fo1: FO1, views: Sequence[View]) -> dict[str, float]:
    """Seconds of one detect from an image, median and worst."""
    spent: list[float] = []
    for view in views:
        start = time.perf_counter()
        fo1.detect(view.rendered.image, sorted(view.by_name)[:3], boxes=view.regions.xyxy)
        spent.append(time.perf_counter() - start)
    return {"median_s": round(float(np.median(spent)), 3), "worst_s": round(max(spent), 3)}


def groups(sprites: str, *, final: bool) -> dict[str, tuple[tuple[str, ...], dict[str, Any]]]:
    """What is measured: a name to drawing styles and settings of its images.

    All that train together, each vendor held out, signs with words that no training shows, and
    only if ``final`` the vendor that is held out to the end.
    """
    known, all_known = load_sprites(sprites), load_sprites(sprites, final=True)
    result: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {TRAINED: (known.styles, {})}
    result |= {f"vendor held out: {style}": ((style,), {}) for style in sorted(known.held_out)}
    result["words held out"] = (known.styles, {"held_out_words": True, "signs": (2, 4)})
    if final:
        for style in sorted(set(all_known.pictures) - set(known.pictures)):
            result[f"final vendor: {style}"] = ((style,), {"final": True})
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/tiny/tiny.yaml"))
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--shuffled", type=int, default=100)
    parser.add_argument("--seed", type=int, default=90210)
    parser.add_argument("--final", action="store_true", help="the vendor held out to the end, too")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(2)
    recipe = read_recipe(options.recipe)
    start = time.perf_counter()
    fo1 = FO1.from_pretrained(options.model)
    load_s = round(time.perf_counter() - start, 2)
    report: dict[str, Any] = {
        "model": options.model, "images": options.images, "seed": options.seed,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "load_s": load_s,
    }  # fmt: skip
    for name, (styles, values) in groups(options.sprites, final=options.final).items():
        views = make_images(recipe, options.sprites, styles, options.images, options.seed, **values)
        encoded = encode(fo1, views)
        asked = make_questions(views, options.seed)
        answer_all(fo1, views, encoded, asked)
        part: dict[str, Any] = {
            "styles": styles,
            "questions": dict(Counter(item.task for item in asked)),
            "regions": [min(len(v.regions.xyxy) for v in views),
                        max(len(v.regions.xyxy) for v in views)],
            "model": score(asked),
            **baselines(views, asked),
        }  # fmt: skip
        rng = np.random.default_rng(1)
        few = [item for item in asked if item.number < options.shuffled]
        mixed = [
            EncodedImages(
                e.image_tokens,
                [e.region_tokens[0][torch.from_numpy(rng.permutation(len(e.region_tokens[0])))]],
                e.image_grid_thw,
            )
            for e in encoded
        ]
        answer_all(fo1, views, mixed, few)
        part["shuffled regions"] = score(few)
        if name == TRAINED:
            report["detect"] = timed(fo1, views[:20])
        report[name] = part
        print(name, json.dumps(part["model"], indent=None), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))


TRAINED = "training vendors"
ROWS = (
    ("Detection F1, 3 labels, one absent", "detection_f1"),
    ("Absent labels answered with nothing", "absent"),
    ("Counting exact", "counting"),
    ("Referring", "referring"),
    ("Region caption names the kind", "caption"),
    ("Region caption word for word", "caption_exact"),
    ("Region OCR exact", "ocr"),
    ("Visual prompt F1", "visual_prompt_f1"),
    ("Questions about the whole image", "free"),
    ("Reasoning, the answer", "reasoning"),
)


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    columns = ("model", "constant answer", "class-blind", "shuffled regions")
    lines: list[str] = []
    parts = [name for name, value in report.items() if isinstance(value, dict) and "model" in value]
    for part in parts:
        lines += [f"\n| {part} | " + " | ".join(columns) + " |", "| --- " * 5 + "|"]
        for title, key in ROWS:
            values = [report[part][column].get(key, float("nan")) for column in columns]
            lines.append(f"| {title} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    lines.append(f"\nload {report['load_s']} s, detect {report['detect']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
