"""What every asking command does: pictures in, one question each, answers out.

One bad picture is reported and counted; the others are done. With ``--save`` nothing finished is
lost: each answer is on disk before the next picture is opened.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vlm_fo1.errors import BoxError, FO1Error, ImageError

if TYPE_CHECKING:
    from vlm_fo1.pipeline import Scene
    from vlm_fo1.structures import Answer

Ask = Callable[["Scene"], "Answer"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The shared options of one command, see `cli.options`."""

    image: str
    question: dict[str, Any]
    """What is asked, in plain values: it names the run in a ``--save`` file."""
    box: list[str] | None = None
    boxes: Path | None = None
    model: str = "tiny"
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    out: Path | None = None
    as_json: bool = False
    save: Path | None = None
    fresh: bool = False
    needs_boxes: bool = True

    def identity(self) -> str:
        """A short hash of what decides the answers."""
        decisive = [self.question, self.box, str(self.boxes), self.model, self.revision, self.dtype]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]


@dataclass
class _Outcome:
    done: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list[str])


def run(options: Run, ask: Ask) -> None:
    """Ask one question of every picture.

    Args:
        options: What the user typed.
        ask: Puts the question to an opened scene.

    Raises:
        typer.Exit: Code 2 when nothing could start, 1 when some pictures failed.
        BoxError: Shown as a line and turned into exit code 2.
    """
    errors = Console(stderr=True)
    with _shown(errors):
        if options.needs_boxes and not options.box and options.boxes is None:
            raise BoxError(
                "this question points at regions and none were given: "
                "pass --box x1,y1,x2,y2 or --boxes FILE"
            )
        if options.box and options.boxes is not None:
            raise BoxError("both --box and --boxes were given: pass one of them")
        pictures = find_pictures(options.image)
        _check_out(options.out, len(pictures))
        finished = _resume(options) if options.save is not None else set[str]()
        fo1 = _load(options, errors)
        boxes = parse_boxes(options.box) if options.box else options.boxes
    outcome = _Outcome()
    for path in _with_progress(pictures, errors):
        if str(path) in finished:
            outcome.skipped += 1
            continue
        try:
            answer = ask(fo1.open(path, boxes))
            _deliver(options, path, answer, alone=len(pictures) == 1)
            outcome.done += 1
        except (FO1Error, OSError) as error:
            outcome.failed.append(str(path))
            _append(options, {"image": str(path), "error": str(error)})
            errors.print(Text(f"{path}: {error}", style="red"), soft_wrap=True)
    _conclude(options, outcome, errors, len(pictures))


def find_pictures(image: str) -> list[Path]:
    """The pictures that IMAGE names, sorted.

    Raises:
        ImageError: Nothing there.
    """
    from vlm_fo1.images import IMAGE_SUFFIXES

    path = Path(image)
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
        if not found:
            raise ImageError(f"the folder {path} holds no pictures")
        return sorted(found)
    if path.exists() or not any(sign in image for sign in "*?["):
        return [path]  # a missing file is reported as one, by whoever opens it
    root = Path(path.anchor) if path.is_absolute() else Path()
    found = sorted(p for p in root.glob(str(path.relative_to(root))) if p.is_file())
    if not found:
        raise ImageError(f"no picture matches {image}")
    return found


def parse_boxes(texts: list[str]) -> list[list[float]]:
    """``["1,2,30,40"]`` to ``[[1.0, 2.0, 30.0, 40.0]]``.

    Raises:
        BoxError: Not four numbers.
    """
    boxes: list[list[float]] = []
    for text in texts:
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 4:
            raise BoxError(f"--box {text!r}: four numbers are needed, x1,y1,x2,y2")
        boxes.append(numbers)
    return boxes


@contextmanager
def _shown(errors: Console) -> Iterator[None]:
    """Turn our errors into a line for people and exit code 2.

    Raises:
        typer.Exit: One of our errors came.
    """
    try:
        yield
    except FO1Error as error:
        errors.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        raise typer.Exit(code=2) from error


def _load(options: Run, errors: Console) -> Any:
    with errors.status(f"loading {options.model}"):
        from transformers.utils import logging

        from vlm_fo1.pipeline import FO1

        if options.model == "tiny":
            logging.disable_progress_bar()
        return FO1.from_pretrained(
            options.model,
            device=options.device,
            dtype=options.dtype,
            revision=options.revision,
        )


def _check_out(out: Path | None, pictures: int) -> None:
    if out is not None and pictures > 1:
        if out.suffix and not out.is_dir():
            raise ImageError(f"--out {out} is one file for {pictures} pictures: name a folder")
        out.mkdir(parents=True, exist_ok=True)


def _with_progress(pictures: list[Path], errors: Console) -> Iterator[Path]:
    if len(pictures) == 1:
        yield from pictures
        return
    columns = [*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=errors) as progress:
        yield from progress.track(pictures, description="asking")


def _deliver(options: Run, path: Path, answer: "Answer", *, alone: bool) -> None:
    record = {"image": str(path), **answer.to_dict()}
    if options.out is not None:
        target = options.out
        if not alone or target.is_dir():
            target = target / f"{path.stem}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        answer.draw(path).save(target)
    if options.as_json:
        typer.echo(json.dumps(record, ensure_ascii=False))
    elif alone or options.save is None:
        _show(path, answer)
    _append(options, record)


def _show(path: Path, answer: "Answer") -> None:
    console = Console()
    console.print(Text(answer.plain or "(no words)"))
    if answer.count is not None:
        console.print(f"count: {answer.count}")
    if answer.mentions:
        table = Table(box=None, pad_edge=False)
        for title in ("label", "region", "box (x1, y1, x2, y2)", "confidence"):
            table.add_column(title)
        for mention in answer.mentions:
            for position, index in enumerate(mention.indices):
                sure = "" if mention.confidence is None else f"{mention.confidence[position]:.2f}"
                corners = ", ".join(f"{value:g}" for value in answer.regions.xyxy[index].tolist())
                table.add_row(Text(mention.label), str(index), corners, sure)
            if not mention.indices:
                table.add_row(Text(mention.label), "none", "", "")
        console.print(table)
    for problem in answer.problems:
        Console(stderr=True).print(Text(f"{path.name}: {problem}", style="yellow"), soft_wrap=True)


def _append(options: Run, record: dict[str, Any]) -> None:
    if options.save is not None:
        with options.save.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": options.identity(), **record}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _resume(options: Run) -> set[str]:
    """Pictures that the ``--save`` file has answers for; lines of failures are taken out of it.

    Raises:
        FO1Error: The file belongs to another command.
    """
    path = options.save
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        path.unlink(missing_ok=True)
    if not path.exists():
        return set()
    kept: list[str] = []
    finished: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was cut off while writing it
        if record.get("run") != options.identity():
            raise FO1Error(
                f"{path} holds the answers of another command: choose another file, or --fresh"
            )
        if "error" not in record:
            kept.append(line)
            finished.add(record["image"])
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    partial.replace(path)
    return finished


def _conclude(options: Run, outcome: _Outcome, errors: Console, pictures: int) -> None:
    if pictures > 1:
        line = f"{outcome.done} answered"
        if outcome.skipped:
            line += f", {outcome.skipped} were already in {options.save}"
        if outcome.failed:
            line += f", {len(outcome.failed)} failed: {', '.join(outcome.failed[:5])}"
            line += ", ..." if len(outcome.failed) > 5 else ""
        errors.print(line, soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(code=1)
