"""What every asking command does: pictures in, one question each, answers out.

One bad picture is reported and counted; the others are done. With ``--save`` nothing finished is
lost: each answer is on disk before the next picture is opened.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_fo1.cli.options import Shared
from vlm_fo1.cli.pictures import check_words, find_pictures, plan_drawings, save_drawing
from vlm_fo1.cli.running import Failed, Outcome, load_fo1, shown, with_progress
from vlm_fo1.cli.saving import AnswerFile
from vlm_fo1.errors import BoxError, ConfigError, PromptError
from vlm_fo1.jsonl import line_of

if TYPE_CHECKING:
    from vlm_fo1.answer import Answer
    from vlm_fo1.fo1 import FO1, Tile


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
        typed = {name: values.pop(name) for name in own}
        with shown(Console(stderr=True)):
            given = [value if isinstance(value, list) else [value] for value in typed.values()]
            check_words([word for words in given for word in words if isinstance(word, str)])
        run(Shared(**values), make(**typed))

    command.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def run(options: Shared, question: Question) -> None:
    """Ask one question of every picture.

    Args:
        options: What the user typed.
        question: What is asked.

    Raises:
        typer.Exit: Code 2 when nothing could start or be saved, 1 when some pictures failed.
    """
    errors = Console(stderr=True)
    with shown(errors):
        _check_options(options, question)
        boxes = _read_boxes(options, question)
        tile = _tile(options.tile, question)
        pictures = find_pictures(options.image, errors, aside=options.out)
        drawings = plan_drawings(options.out, pictures)
        decisive = [*_decisive(options, question), boxes]
        with AnswerFile(options.save, decisive, fresh=options.fresh) as file:
            todo = [path for path in pictures if str(path) not in file.finished]
            fo1 = _load(options, errors) if todo else None
            if len(pictures) > 1 and boxes is not None:
                from vlm_fo1.formats.boxes import by_image

                boxes = by_image(boxes)

            def ask(path: Path) -> "Answer":
                assert fo1 is not None
                queries = options.query or question.queries
                scene = fo1.open(path, boxes, queries=queries, tile=tile)
                streamed = {"on_text": print_text} if question.stream else {}
                answer = question.ask(scene, max_new_tokens=options.max_new_tokens, **streamed)
                if path in drawings:
                    drawn = answer.draw(path, show_unchosen=options.unchosen)
                    save_drawing(drawn, drawings[path])
                return answer

            outcome = Outcome(skipped=len(pictures) - len(todo))
            several = len(pictures) > 1
            for path in with_progress(todo, errors, "asking"):
                if question.stream and several:
                    typer.echo(f"{path}:")
                answer = outcome.attempt(path, ask, errors)
                failed = isinstance(answer, Failed)
                record = answer.record if failed else {"file": str(path), **answer.to_dict()}
                file.append(record)
                if not failed:
                    _print(options, path, answer, record, several=several, streamed=question.stream)
        outcome.conclude("answered", options.save, errors, several=several)


def print_text(text: str) -> None:
    """Write a piece of an answer at once."""
    typer.echo(text, nl=False)


def _decisive(options: Shared, question: Question) -> list[Any]:
    """What decides the answers, boxes aside; proposals only where something is said of them."""
    words = {**question.words, "tokens": options.max_new_tokens}
    words |= {"image_size": options.image_size} if options.image_size else {}
    tile = None if options.tile == "auto" else options.tile
    said = [options.proposer, options.query, options.min_score, options.nms, tile]
    proposals = [said] if any(value is not None for value in said) else []
    return [words, options.model, options.revision, options.dtype, *proposals]


def _tile(text: str, question: Question) -> "Tile":
    """What ``--tile`` means for a question.

    Raises:
        ConfigError: Neither a number of pixels nor one of its words.
    """
    if text == "auto":
        return "auto" if question.words.get("task") in {"detection", "counting"} else None
    if text == "none":
        return None
    if not text.isdecimal():
        raise ConfigError(f"--tile {text}: a number of pixels, 'auto' or 'none' is needed")
    return int(text)


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
        from vlm_fo1.formats.boxes import read_boxes

        return read_boxes(options.boxes)
    if question.needs_boxes and options.proposer is None:
        from vlm_fo1.proposers.base import default_proposer

        if default_proposer(options.model) is None:
            raise BoxError(
                "this question points at regions and none were given: "
                "pass --box x1,y1,x2,y2, --boxes FILE or --proposer NAME:ARG"
            )
    return None


def _load(options: Shared, errors: Console) -> "FO1":
    fo1 = load_fo1(
        options.model,
        errors,
        proposer=options.proposer,
        device=options.device,
        dtype=options.dtype,
        revision=options.revision,
        token=options.token,
        strict=options.strict,
    )
    if options.image_size is not None:
        fo1 = fo1.seeing(options.image_size)
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
                table.add_row(Text(mention.label or "(no label)"), str(index), corners, sure)
            if not mention.indices:
                table.add_row(Text(mention.label), "none", "", "")
        console.print(table)
    for problem in answer.problems:
        Console(stderr=True).print(Text(f"{path.name}: {problem}", style="yellow"), soft_wrap=True)
