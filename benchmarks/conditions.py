"""Negation and several conditions at once: which way of asking finds the things that are meant.

"the cup that is not red", "the red cup" and "the largest cup that is not red" on synthetic images
that show several things of a kind in several colours; boxes are given. Asked as a description (the
detection template), by counting, by reasoning, and by the scores of two plain labels. Run
``python -m benchmarks.conditions --sprites FOLDER`` (a folder that
``python -m recipes.synthetic.build --out FOLDER`` made).
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from benchmarks.tiny_model import make_images
from recipes.synthetic.view import Item, View
from recipes.tiny.recipe import RECIPE, read_recipe
from vlm_fo1 import FO1, Scene
from vlm_fo1.answer import Answer

ROOT = Path(__file__).parents[1]
SEED = 63_000  # of no training and no other measurement
LARGER = 1.5
"""The largest of some things has at least so many times the area of the next."""


@dataclass(frozen=True)
class Case:
    """A description, in words and as conditions, and the regions it means."""

    kind: str
    phrase: str
    name: str
    colour: str
    meant: frozenset[int]


@dataclass
class Sums:
    """What one way of asking reached."""

    cases: int = 0
    exact: int = 0
    right: int = 0
    chosen: int = 0
    wanted: int = 0

    def add(self, found: set[int], meant: frozenset[int]) -> None:
        """Count one answer."""
        self.cases += 1
        self.exact += found == meant
        self.right += len(found & meant)
        self.chosen += len(found)
        self.wanted += len(meant)

    def row(self) -> dict[str, Any]:
        """Figures of all answers together."""
        return {
            "cases": self.cases,
            "exact": round(self.exact / max(self.cases, 1), 3),
            "f1": round(2 * self.right / max(self.chosen + self.wanted, 1), 3),
        }


def cases_of(view: View) -> list[Case]:
    """Cases about kinds of which the image shows several, each with a region and a known colour."""
    found: list[Case] = []
    for name, group in view.by_name.items():
        colours = sorted({item.thing.colour for item in group if item.thing.colour})
        plain = any(item.thing.colour is None for item in group)
        if len(colours) < 2 or plain or len(group) < view.names[name]:
            continue
        colour = colours[0]
        others = [item for item in group if item.thing.colour != colour]
        own = [item for item in group if item.thing.colour == colour]

        def case(kind: str, phrase: str, meant: list[Item], about: tuple[str, str]) -> None:
            found.append(Case(kind, phrase, *about, frozenset(item.region for item in meant)))

        about = (name, colour)
        several = "several" if len(others) > 1 else "one"
        case(f"negation, {several} meant", f"the {name} that is not {colour}", others, about)
        case("two conditions", f"the {colour} {name}", own, about)
        ranked = sorted(others, key=lambda item: -item.box_area)
        if len(ranked) > 1 and ranked[0].box_area >= LARGER * ranked[1].box_area:
            phrase = f"the largest {name} that is not {colour}"
            case("negation and size", phrase, ranked[:1], about)
    return found


def chosen(answer: Answer) -> set[int]:
    """Every region that is mentioned."""
    return {index for said in answer.mentions for index in said.indices}


def by_scores(scene: Scene, case: Case) -> set[int]:
    """From what scores of two labels say: one without the other, or both; and the largest."""
    pair = [case.name, f"{case.colour} {case.name}"]
    answer = scene.detect(pair, scores="branches")
    of_name, of_both = (answer.scores_of(label) >= 0.5 for label in pair)
    if case.kind == "two conditions":
        return set(np.flatnonzero(of_both).tolist())
    left = np.flatnonzero(of_name & ~of_both)
    if case.kind == "negation and size" and len(left):
        sides = scene.regions.xyxy[left]
        areas = (sides[:, 2:] - sides[:, :2]).prod(1)
        left = left[[int(areas.argmax())]]
    return set(left.tolist())


WAYS: dict[str, Callable[[Scene, Case], set[int]]] = {
    "description": lambda scene, case: chosen(scene.refer(case.phrase, scores=None)),
    "counting": lambda scene, case: chosen(scene.count(case.phrase, scores=None)),
    "reasoning": lambda scene, case: chosen(
        scene.reason(f"Which is {case.phrase}?", max_new_tokens=96)
    ),
    "two labels, scores": by_scores,
}


@dataclass
class Report:
    """Sums by kind of case and way."""

    sums: dict[tuple[str, str], Sums] = field(default_factory=dict[tuple[str, str], Sums])

    def rows(self) -> list[dict[str, Any]]:
        """Figures of each."""
        return [{"kind": kind, "way": way, **s.row()} for (kind, way), s in self.sums.items()]


def main() -> None:
    """Measure, print the table's rows, and write ``benchmarks/results/conditions.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True, help="sprite folder")
    parser.add_argument("--images", type=int, default=200, help="of which few have a case")
    parser.add_argument("--cases", type=int, default=60, help="at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/conditions.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fo1 = FO1.from_pretrained("tiny")
    styles = ("google", "fluent")
    views = make_images(read_recipe(RECIPE), options.sprites, styles, options.images, SEED)
    asked = [(view, case) for view in views for case in cases_of(view)][: options.cases]
    report = Report()
    scenes: dict[int, Scene] = {}
    for view, case in track(asked, "asking"):
        if id(view) not in scenes:
            scenes = {id(view): fo1.open(view.rendered.image, view.regions.xyxy)}
        for way, ask in WAYS.items():
            sums = report.sums.setdefault((case.kind, way), Sums())
            sums.add(ask(scenes[id(view)], case), case.meant)
    for row in report.rows():
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    told = {"cases": len(asked), "torch": torch.__version__, "rows": report.rows()}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
