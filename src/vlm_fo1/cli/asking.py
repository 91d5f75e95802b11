"""What every asking command does: pictures in, one question each, answers out.

One bad picture is reported and counted; the others are done. With ``--save`` nothing finished is
lost: each answer is on disk before the next picture is opened.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vlm_fo1.cli.options import Shared
from vlm_fo1.cli.pictures import find_pictures, plan_drawings
from vlm_fo1.cli.saving import AnswerFile, line_of
from vlm_fo1.errors import BoxError, ConfigError, FO1Error, PromptError

if TYPE_CHECKING:
    from vlm_fo1.pipeline import FO1
    from vlm_fo1.structures import Answer


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a command asks of every picture."""

    words: dict[str, Any]
    """The question in plain values: it names the run in a ``--save`` file."""
    ask: Callable[..., "Answer"]
    """Puts it to an opened scene; takes ``max_new_tokens`` and ``on_text`` besides."""
    queries: Sequence[str] | None = None
    """What a proposer that looks for named things shall look for, unless the user says so."""
    needs_boxes: bool = True
    stream: bool = False


def asking(make: Callable[..., Question]) -> Callable[..., None]:
    """Turn what is special about a question into a command with all shared options.

    Args:
        make: Takes the arguments and options that only this command has, annotated for typer; its
            docstring is the help.

    Returns:
        A function for typer: IMAGE, then those of ``make``, then the fields of `Shared`.
    """
    own = inspect.signature(make, eval_str=True).parameters
    image, *shared = inspect.signature(Shared, eval_str=True).parameters.values()
    parameters = [image, *own.values(), *shared]

    @wraps(make)
    def command(**values: Any) -> None:
        question = make(**{name: values.pop(name) for name in own})
        run(Shared(**values), question)

    command.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@dataclass
class _Outcome:
    done: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list[str])


def run(options: Shared, question: Question) -> None:
    """Ask one question of every picture.

    Args:
        options: What the user typed.
        question: What is asked.

    Raises:
        typer.Exit: Code 2 when nothing could start or be saved, 1 when some pictures failed.
    """
    errors = Console(stderr=True)
    with _shown(errors):
        _check_options(options, question)
        boxes = _read_boxes(options, question)
        pictures = find_pictures(options.image, aside=options.out)
        drawings = plan_drawings(options.out, pictures)
        file = None
        if options.save is not None:
            decisive = [*_decisive(options, question), boxes]
            file = AnswerFile(options.save, decisive, fresh=options.fresh)
        todo = [path for path in pictures if file is None or str(path) not in file.finished]
        fo1 = _load(options, errors) if todo else None

    def ask(path: Path) -> "Answer":
        assert fo1 is not None
        queries = options.query or question.queries
        scene = fo1.open(path, boxes, queries=queries, tile=options.tile)
        streamed = {"on_text": print_text} if question.stream else {}
        return question.ask(scene, max_new_tokens=options.max_new_tokens, **streamed)

    outcome = _Outcome(skipped=len(pictures) - len(todo))
    for path in _with_progress(todo, errors):
        if question.stream and len(pictures) > 1:
            typer.echo(f"{path}:")
        answer = _try(lambda path=path: ask(path), path, drawings.get(path), options)
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
            several = len(pictures) > 1
            _print(options, path, answer, record, several=several, streamed=question.stream)
    _conclude(options, outcome, errors, len(pictures))


def print_text(text: str) -> None:
    """Write a piece of an answer at once."""
    typer.echo(text, nl=False)


def _decisive(options: Shared, question: Question) -> list[Any]:
    """What decides the answers, boxes aside; proposals only where something is said of them."""
    words = {**question.words, "tokens": options.max_new_tokens}
    said = [options.proposer, options.query, options.min_score, options.nms, options.tile]
    proposals = [said] if any(value is not None for value in said) else []
    return [words, options.model, options.revision, options.dtype, *proposals]


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


def _check_options(options: Shared, question: Question) -> None:
    """Refuse options that do not go together.

    Raises:
        BoxError: Boxes from two places, or thresholds for boxes that are used as they are.
        PromptError: Two ways to print.
    """
    if question.stream and options.as_json:
        raise PromptError("--stream prints words and --json prints JSON: pass one of them")
    places = [
        name
        for name, value in (
            ("--box", options.box or None),
            ("--boxes", options.boxes),
            ("--proposer", options.proposer),
        )
        if value is not None
    ]
    if len(places) > 1:
        both = "both " if len(places) == 2 else ""
        raise BoxError(f"{both}{' and '.join(places)} were given: pass one of them")
    if places and places != ["--proposer"]:
        for name, value in (
            ("--min-score", options.min_score),
            ("--nms", options.nms),
            ("--query", options.query or None),
        ):
            if value is not None:
                raise BoxError(
                    f"{name} is about what a proposer offers, and {places[0]} gives boxes that are "
                    "used as they are: leave one of them out"
                )


def _read_boxes(options: Shared, question: Question) -> Any:
    """What ``--box`` or ``--boxes`` holds, None where a proposer is asked or nobody.

    Raises:
        BoxError: None where they are needed, or they cannot be read.
    """
    if options.box:
        return parse_boxes(options.box)
    if options.boxes is not None:
        from vlm_fo1.proposers.given import read_boxes

        return read_boxes(options.boxes)
    if question.needs_boxes and options.proposer is None:
        from vlm_fo1.proposers.base import default_proposer

        if default_proposer(options.model) is None:
            raise BoxError(
                "this question points at regions and none were given: "
                "pass --box x1,y1,x2,y2, --boxes FILE or --proposer NAME:ARG"
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


def _load(options: Shared, errors: Console) -> Any:
    with errors.status(Text(f"loading {options.model}")):
        from transformers.utils import logging

        from vlm_fo1.pipeline import FO1

        if options.model == "tiny":
            logging.disable_progress_bar()
        fo1 = FO1.from_pretrained(
            options.model,
            proposer=options.proposer,
            device=options.device,
            dtype=options.dtype,
            revision=options.revision,
        )
        return _with_selection(fo1, options)


def _with_selection(fo1: "FO1", options: Shared) -> "FO1":
    """The thresholds that were typed in place of the proposer's.

    Raises:
        ConfigError: There is no proposer for them, or a threshold that cannot be.
    """
    changed = {"min_score": options.min_score, "nms_iou": options.nms}
    changed = {name: value for name, value in changed.items() if value is not None}
    if changed and fo1.proposer is None:
        raise ConfigError(
            "--min-score and --nms are about what a proposer offers, and there is none: "
            "pass --proposer NAME:ARG"
        )
    return fo1.selecting(replace(fo1.selection, **changed)) if changed else fo1


def _with_progress(pictures: list[Path], errors: Console) -> Iterator[Path]:
    if len(pictures) < 2:
        yield from pictures
        return
    columns = [*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=errors) as progress:
        yield from progress.track(pictures, description="asking")


def _try(
    ask: Callable[[], "Answer"], path: Path, drawing: Path | None, options: Shared
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
    options: Shared,
    path: Path,
    answer: "Answer",
    record: dict[str, Any],
    *,
    several: bool,
    streamed: bool,
) -> None:
    if options.as_json:
        typer.echo(line_of(record))
    elif not several or options.save is None:
        if several and not streamed:
            typer.echo(f"{path}:")
        _show(path, answer, streamed=streamed)


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


def _conclude(options: Shared, outcome: _Outcome, errors: Console, pictures: int) -> None:
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
