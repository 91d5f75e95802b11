"""What every asking command does: pictures in, one question each, answers out.

One bad picture is reported and counted; the others are done. With ``--save`` nothing finished is
lost: each answer is on disk before the next picture is opened.
"""

from collections import Counter
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

from vlm_fo1.cli.saving import AnswerFile, line_of
from vlm_fo1.errors import BoxError, FO1Error, ImageError, PromptError

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
    unchosen: bool = False
    as_json: bool = False
    save: Path | None = None
    fresh: bool = False
    stream: bool = False
    needs_boxes: bool = True

    def decisive(self) -> list[Any]:
        """What decides the answers, boxes aside."""
        return [self.question, self.model, self.revision, self.dtype]


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
        typer.Exit: Code 2 when nothing could start or be saved, 1 when some pictures failed.
    """
    errors = Console(stderr=True)
    with _shown(errors):
        boxes = _read_boxes(options)
        pictures = find_pictures(options.image, aside=options.out)
        drawings = plan_drawings(options.out, pictures)
        file = None
        if options.save is not None:
            file = AnswerFile(options.save, [*options.decisive(), boxes], fresh=options.fresh)
        todo = [path for path in pictures if file is None or str(path) not in file.finished]
        fo1 = _load(options, errors) if todo else None
    outcome = _Outcome(skipped=len(pictures) - len(todo))
    for path in _with_progress(todo, errors):
        assert fo1 is not None
        if options.stream and len(pictures) > 1:
            typer.echo(f"{path}:")
        answer = _try(
            lambda path=path: ask(fo1.open(path, boxes)), path, drawings.get(path), options
        )
        if isinstance(answer, Exception):
            outcome.failed.append(str(path))
            record = {"file": str(path), "error": _reason(answer)}
            errors.print(Text(f"{path}: {_reason(answer)}", style="red"), soft_wrap=True)
        else:
            outcome.done += 1
            record = {"file": str(path), **answer.to_dict()}
        if file is not None:
            with _shown(errors):
                file.append(record)
        if not isinstance(answer, Exception):
            _print(options, path, answer, record, several=len(pictures) > 1)
    _conclude(options, outcome, errors, len(pictures))


def find_pictures(image: str, *, aside: Path | None = None) -> list[Path]:
    """The pictures that IMAGE names, sorted.

    Args:
        image: A file, a folder or a pattern.
        aside: A folder inside that folder which is not searched: where the drawings go.

    Raises:
        ImageError: Nothing there.
    """
    from vlm_fo1.images import IMAGE_SUFFIXES

    if not image:
        raise ImageError("IMAGE is empty: name a picture, a folder or a pattern")
    path = Path(image)
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
        if aside is not None and aside.resolve() != path.resolve():
            found = [p for p in found if not p.resolve().is_relative_to(aside.resolve())]
        if not found:
            raise ImageError(f"the folder {path} holds no pictures")
        return sorted(found)
    if path.exists() or not any(sign in image for sign in "*?["):
        return [path]  # a missing file is reported as one, by whoever opens it
    root = Path(path.anchor) if path.is_absolute() else Path()
    try:
        found = sorted(p for p in root.glob(str(path.relative_to(root))) if p.is_file())
    except ValueError as error:
        raise ImageError(f"{image} is no pattern: {error}") from error
    if not found:
        raise ImageError(f"no picture matches {image}")
    return found


def plan_drawings(out: Path | None, pictures: list[Path]) -> dict[Path, Path]:
    """Where the drawing of each picture goes; makes the folders.

    Args:
        out: A file for one picture, else a folder: one that exists, or a name without a suffix.
        pictures: All pictures; in a folder their drawings keep the subfolders they are in.

    Returns:
        Picture to drawing; empty without ``out``.

    Raises:
        ImageError: One file for several pictures, a kind of file that cannot be written, or a
            drawing that would take the place of a picture.
    """
    if out is None:
        return {}
    if out.suffix and not out.is_dir():
        if len(pictures) > 1:
            raise ImageError(
                f"--out {out} is one file for {len(pictures)} pictures: name a folder that exists, "
                "or one without a dot in its name"
            )
        _check_kind(out)
        drawings = {pictures[0]: out}
    else:
        drawings = _in_folder(out, pictures)
    originals = {path.resolve() for path in pictures}
    for path, drawing in drawings.items():
        if drawing.resolve() in originals:
            raise ImageError(
                f"--out {out} would put a drawing of {path} over {drawing}: name another place"
            )
        drawing.parent.mkdir(parents=True, exist_ok=True)
    return drawings


def _check_kind(out: Path) -> None:
    from PIL import Image

    from vlm_fo1.images import IMAGE_SUFFIXES

    kinds = Image.registered_extensions()
    known = {suffix for suffix in IMAGE_SUFFIXES if kinds.get(suffix) in Image.SAVE}
    if out.suffix.lower() not in known:
        raise ImageError(
            f"--out {out}: no picture can be written as {out.suffix}; "
            f"one of {', '.join(sorted(known))} is needed"
        )


def _in_folder(out: Path, pictures: list[Path]) -> dict[Path, Path]:
    """One drawing a picture, ``a/b.png`` as ``b.jpg``, or ``b.png.jpg`` where a ``b.jpg`` is."""
    root = pictures[0].parent
    while not all(path.is_relative_to(root) for path in pictures):
        root = root.parent
    plain = {path: path.relative_to(root).with_suffix(".jpg") for path in pictures}
    times = Counter(plain.values())
    for path, name in plain.items():
        if times[name] > 1:
            plain[path] = name.with_name(f"{path.name}.jpg")
    return {path: out / name for path, name in plain.items()}


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


def _read_boxes(options: Run) -> Any:
    """What ``--box`` or ``--boxes`` holds, None without either.

    Raises:
        BoxError: None where they are needed, both, or they cannot be read.
        PromptError: Options that do not go together.
    """
    if options.stream and options.as_json:
        raise PromptError("--stream prints words and --json prints JSON: pass one of them")
    if options.box and options.boxes is not None:
        raise BoxError("both --box and --boxes were given: pass one of them")
    if options.box:
        return parse_boxes(options.box)
    if options.boxes is not None:
        from vlm_fo1.proposers.given import read_boxes

        return read_boxes(options.boxes)
    if options.needs_boxes:
        raise BoxError(
            "this question points at regions and none were given: "
            "pass --box x1,y1,x2,y2 or --boxes FILE"
        )
    return None


@contextmanager
def _shown(errors: Console) -> Iterator[None]:
    """Turn our errors and those of the disk into a line for people and exit code 2.

    Raises:
        typer.Exit: Such an error came.
    """
    try:
        yield
    except (FO1Error, OSError) as error:
        errors.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        raise typer.Exit(code=2) from error


def _load(options: Run, errors: Console) -> Any:
    with errors.status(Text(f"loading {options.model}")):
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


def _with_progress(pictures: list[Path], errors: Console) -> Iterator[Path]:
    if len(pictures) < 2:
        yield from pictures
        return
    columns = [*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=errors) as progress:
        yield from progress.track(pictures, description="asking")


def _try(
    ask: Callable[[], "Answer"], path: Path, drawing: Path | None, options: Run
) -> "Answer | Exception":
    """The answer, drawn if that is wanted; or what went wrong with this one picture."""
    from torch import OutOfMemoryError

    try:
        answer = ask()
        if drawing is not None:
            answer.draw(path, show_unchosen=options.unchosen).save(drawing)
    except (FO1Error, OSError, MemoryError, OutOfMemoryError) as error:
        return error
    return answer


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _print(
    options: Run, path: Path, answer: "Answer", record: dict[str, Any], *, several: bool
) -> None:
    if options.as_json:
        typer.echo(line_of(record))
    elif not several or options.save is None:
        if several and not options.stream:
            typer.echo(f"{path}:")
        _show(path, answer, streamed=options.stream)


def _show(path: Path, answer: "Answer", *, streamed: bool) -> None:
    console = Console()
    if streamed:
        console.print()  # ends the line that was written piece by piece
    else:
        console.print(Text(answer.plain or "(no words)"), soft_wrap=True)
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


def _conclude(options: Run, outcome: _Outcome, errors: Console, pictures: int) -> None:
    if pictures > 1 or outcome.skipped:
        line = f"{outcome.done} answered"
        if outcome.skipped:
            line += f", {outcome.skipped} were already in {options.save}"
        if outcome.failed:
            line += f", {len(outcome.failed)} failed: {', '.join(outcome.failed[:5])}"
            line += ", ..." if len(outcome.failed) > 5 else ""
        errors.print(Text(line), soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(code=1)
