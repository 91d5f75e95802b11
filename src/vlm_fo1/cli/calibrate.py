"""`fo1 calibrate`: make scores probabilities, from images whose truth is known."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_fo1.cli import options
from vlm_fo1.cli.running import Failed, Outcome, load_fo1, shown, with_progress
from vlm_fo1.config import read_text
from vlm_fo1.errors import BoxError, ConfigError, DataError
from vlm_fo1.jsonl import check_writable, write_whole
from vlm_fo1.scores import CALIBRATION_FILE, Calibration, fit

if TYPE_CHECKING:
    from vlm_fo1.answer import Answer
    from vlm_fo1.fo1 import FO1


class Fusing(StrEnum):
    """How the proposer's score comes in; see `vlm_fo1.scores.fuse`."""

    NONE = "none"
    GEOMETRIC = "geometric"
    PROPOSAL = "proposal"


@dataclass(frozen=True)
class Sample:
    """An image, what is asked of it, and what is true."""

    image: Path
    labels: tuple[str, ...]
    truth: Any
    """Boxes of the true things of each label, or a COCO data set that has them."""
    boxes: Any = None
    """What the answer may point at; None asks the proposer."""

    def true_boxes(self) -> dict[str, Any]:
        """(M, 4) pixels of the image as shown, for each label.

        Raises:
            BoxError: A box that cannot be used, or one of an image of another size.
            ImageError: The image cannot be read.
        """
        from vlm_fo1.formats.boxes import given_regions
        from vlm_fo1.images import image_frame

        frame = image_frame(self.image)
        if not isinstance(self.truth, Mapping) or "annotations" not in self.truth:
            return {
                name: given_regions(self.truth.get(name, []), frame).regions.xyxy
                for name in self.labels
            }
        found = given_regions(self.truth, frame, image=str(self.image)).regions
        names = np.array(found.labels or (), np.object_)
        return {name: found.xyxy[names == name] for name in self.labels}


def command(
    data: Annotated[
        Path,
        typer.Argument(
            help="A COCO data set, or JSON Lines, each line an image with its labels: "
            r'{"image": "a.jpg", "truth": {"cat": \[\[x1, y1, x2, y2]], "dog": \[]}} and maybe '
            r'"boxes": \[...]. Half of the images are fitted to, the others tell how well it went.'
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images.", show_default="that of DATA"),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Where the calibration goes; for --calibration.")
    ] = Path(CALIBRATION_FILE),
    plot: Annotated[
        Path | None, typer.Option(help="Where reliability diagrams go, as an SVG image.")
    ] = None,
    fusion: Annotated[
        Fusing, typer.Option(help="How the proposer's own score comes in; docs/scores.md.")
    ] = Fusing.NONE,
    scores: options.Scores = options.Scoring.JOINT,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Use so many images at most.", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which images, and which absent labels.")] = 0,
    proposer: options.Proposer = None,
    model: options.Model = "tiny",
    revision: options.Revision = None,
    token: options.Token = None,
    strict: options.Strict = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Fit what makes a model's scores probabilities, and say how well it went on other images.

    fo1 calibrate annotations/instances_val2017.json --images val2017 --proposer upn:weights
    """
    errors = Console(stderr=True)
    with shown(errors):
        _check(scores, out, plot)
        samples = read_samples(data, images, seed)[:limit]
        fo1 = load_fo1(
            model, errors, proposer=proposer, revision=revision, token=token, strict=strict,
            device=device, dtype=dtype, calibration=Calibration(),
        )  # fmt: skip
        told = {"model": model, "data": data.name, "scores": str(scores)}
        outcome = Outcome()
        made, diagrams = calibrated(fo1, samples, scores, fusion, told, outcome, errors)
        write_whole(out, (json.dumps(made.to_dict(), indent=1) + "\n").encode())
        if plot is not None:
            write_whole(plot, diagrams.encode())
        _show(made, out, errors)
        outcome.conclude("asked", out, errors, several=True)


def _check(scores: options.Scoring, *outputs: Path | None) -> None:
    """Refuse what cannot be, before anything is asked.

    Raises:
        ConfigError: There are no scores to calibrate.
        OutputError: A file that cannot be written.
    """
    if scores == "none":
        raise ConfigError("--scores none leaves nothing to calibrate: take joint or branches")
    for path in outputs:
        if path is not None:
            check_writable(path)


def calibrated(
    fo1: "FO1",
    samples: Sequence[Sample],
    scores: options.Scoring,
    fusion: Fusing,
    told: Mapping[str, Any],
    outcome: Outcome,
    errors: Console,
) -> tuple[Calibration, str]:
    """Ask about every image, fit to every second one, and measure on the others.

    Args:
        fo1: Gives raw scores.
        samples: At least two.
        scores: How answers get scores.
        fusion: How the proposer's score comes in.
        told: What else `Calibration.measured` shall say.
        outcome: Counts images that failed.
        errors: Where they are told.

    Returns:
        The calibration, and reliability diagrams of it.

    Raises:
        DataError: The images of one half have no pair of a label and a region, or none that is
            true, so that nothing can be told.
    """
    from vlm_fo1.eval.calibration import measured, pairs_of, reliability_svg
    from vlm_fo1.tasks import Request, Task

    by_image = {sample.image: sample for sample in samples}

    def answered(path: Path) -> "tuple[Answer, dict[str, Any]]":
        sample = by_image[path]
        truth = sample.true_boxes()
        request = Request(task=Task.DETECTION, labels=sample.labels)
        way: Any = scores.value
        return fo1.answer(path, request, sample.boxes, scores=way), truth

    halves: tuple[list[Any], list[Any]] = ([], [])
    for number, path in enumerate(with_progress(list(by_image), errors, "asking")):
        done = outcome.attempt(path, answered, errors)
        if not isinstance(done, Failed):
            halves[number % 2].append(done)
    fitted_to, fresh = (
        pairs_of([answer for answer, _ in half], [truth for _, truth in half]) for half in halves
    )
    for known in (fitted_to, fresh):
        if not known[0].true.any():
            raise DataError(
                f"none of {len(known[0].true)} pairs of a label and a region is true, so nothing "
                "can be told: labels and names of the truth have to be the same, and some box has "
                "to cover a thing"
            )
    made = fit(*fitted_to, fusion=fusion.value)
    numbers = {"images": [len(half) for half in halves], **measured(*fresh, made)}
    made = replace(made, measured={**told, **numbers})
    return made, reliability_svg(fresh[0], made)


def read_samples(data: Path, images: Path | None, seed: int) -> list[Sample]:
    """The images of a data set, shuffled.

    Args:
        data: A COCO data set, or ``.jsonl``.
        images: Folder of the images; that of ``data`` by default.
        seed: Of the order, and of the absent labels that a COCO data set is asked for: as many an
            image as are there, at least one.

    Raises:
        DataError: It cannot be read, is neither, or has less than two images.
    """
    folder = data.parent if images is None else images
    rng = np.random.default_rng(seed)
    samples = _of_lines(data, folder) if data.suffix == ".jsonl" else _of_coco(data, folder, rng)
    if len(samples) < 2:
        raise DataError(f"{data} has {len(samples)} images: one to fit to and one to measure")
    return [samples[index] for index in rng.permutation(len(samples))]


def _of_lines(data: Path, folder: Path) -> list[Sample]:
    found: list[Sample] = []
    for number, line in enumerate(read_text(data, DataError).split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            truth = values["truth"]
            labels = tuple(values.get("labels", truth))
            if not isinstance(truth, dict) or not labels or not set(truth) <= set(labels):
                raise TypeError("'truth' has to hold boxes for each of its labels")
            found.append(Sample(folder / values["image"], labels, truth, values.get("boxes")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{data}, line {number}: 'image' and 'truth' are needed, a dict from label to a "
                f"list of boxes ({type(error).__name__}: {error})"
            ) from error
    return found


def _of_coco(data: Path, folder: Path, rng: np.random.Generator) -> list[Sample]:
    from vlm_fo1.formats.boxes import read_boxes
    from vlm_fo1.formats.coco import CocoFile

    read = read_boxes(data)
    if not isinstance(read, CocoFile):
        raise DataError(f"{data} is no COCO data set with 'images' and 'annotations', nor .jsonl")
    things = [one for one in read["annotations"] if not one.get("iscrowd")]
    file = CocoFile({**read, "annotations": things})
    names = sorted({str(category["name"]) for category in read.get("categories", ())})
    found: list[Sample] = []
    for entry in read["images"]:
        try:
            said = file.image(entry["file_name"]).annotations
        except (BoxError, KeyError) as error:
            raise DataError(f"{data}: {error}") from error
        present = sorted({name for one in said if (name := file.label(one)) is not None})
        absent = rng.permutation([name for name in names if name not in present])
        labels = (*present, *absent[: max(1, len(present))].tolist())
        if labels:
            found.append(Sample(folder / entry["file_name"], labels, file))
    return found


def _show(made: Calibration, out: Path, errors: Console) -> None:
    told = made.measured
    fitted, fresh = told["images"]
    table = Table("on other images", "before", "after", box=None, pad_edge=False)
    for title, key in (
        ("calibration error of scores", "ece"),
        ("log loss of scores", "log_loss"),
        ("calibration error of presence", "presence_ece"),
        ("log loss of presence", "presence_log_loss"),
    ):
        values = (told[f"{key}_before"], told[f"{key}_after"])
        if None not in values:
            table.add_row(title, *(f"{value:.4f}" for value in values))
    console = Console()
    weight = f", weight of the proposer {made.weight:.2f}" if made.fusion == "geometric" else ""
    typer.echo(
        f"fitted to {fitted} images, measured on {fresh} others with {told['pairs']} pairs of a "
        f"label and a region, {told['true_pairs']} of them true"
    )
    typer.echo(
        f"temperature {made.temperature:.3f}, of presence {made.presence_temperature:.3f}{weight}"
    )
    console.print(table)
    typer.echo(f"written to {out}")
    for what, key in (("scores", "log_loss"), ("presences", "presence_log_loss")):
        if (told[f"{key}_after"] or 0) > (told[f"{key}_before"] or 0):
            line = f"{what} tell the truth worse than before: take more images"
            errors.print(Text(line, style="yellow"), soft_wrap=True)
