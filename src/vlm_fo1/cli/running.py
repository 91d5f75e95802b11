"""What commands share: loading, going through images, how answers and errors show and end."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vlm_fo1.cli.images import find_images, plan_drawings, save_drawing
from vlm_fo1.cli.saving import AnswerFile
from vlm_fo1.errors import FO1Error, ItemError, OutputError, item_errors
from vlm_fo1.jsonl import line_of

if TYPE_CHECKING:
    from vlm_fo1.answer import Answer
    from vlm_fo1.fo1 import FO1
    from vlm_fo1.proposers.base import Proposer

    Answers = Generator[Answer | FO1Error]

Result = TypeVar("Result")


@contextmanager
def shown(errors: Console) -> Iterator[None]:
    """Turn our errors and those of the disk into a line for people and exit code 2.

    Raises:
        typer.Exit: Such an error came.
        BrokenPipeError: As it is, which ends the program quietly.
    """
    try:
        yield
    except BrokenPipeError:  # whoever reads our output has enough: `fo1 ... | head`
        raise
    except (FO1Error, OSError) as error:
        errors.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        raise typer.Exit(code=2) from error


def load_fo1(model: str, errors: Console, **options: Any) -> "FO1":
    """The model, with a status line while it loads.

    Args:
        model: What the user typed.
        errors: Where the line goes.
        **options: For `FO1.from_pretrained`.
    """
    with errors.status(Text(f"loading {model}")):
        from transformers.utils import logging

        from vlm_fo1.fo1 import FO1

        if model == "tiny":
            logging.disable_progress_bar()
        return FO1.from_pretrained(model, **options)


def load_offering(name: str, errors: Console, *, least: float, **options: Any) -> "Proposer":
    """A proposer; one of SAM 3 leaves out what scores less, which saves making its masks.

    Args:
        name: What the user typed.
        errors: Where it is said that it loads.
        least: That score.
        **options: For `load_proposer`.
    """
    with errors.status(Text(f"loading {name}")):
        from vlm_fo1.proposers.base import load_proposer

        if name.partition(":")[0] == "sam3":
            options["min_score"] = least
        return load_proposer(name, **options)


def bars(errors: Console, **options: Any) -> Progress:
    """Progress bars with the number of what is done and the time left."""
    columns = [*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn()]
    return Progress(*columns, console=errors, **options)


def with_progress(images: Sequence[Path], errors: Console, doing: str) -> Iterator[Path]:
    """The images one by one, with a bar where there are several."""
    with bars(errors, disable=len(images) < 2) as progress:
        yield from progress.track(images, description=doing)


@dataclass(frozen=True)
class Failed:
    """What stands in a file for an image that failed."""

    record: dict[str, Any]


@dataclass(kw_only=True)
class Outcome:
    """How many images were done, were done before, and failed."""

    skipped: int = 0
    done: int = 0
    failed: list[str] = field(default_factory=list[str])

    def attempt(self, path: Path, do: Callable[[Path], Result], errors: Console) -> Result | Failed:
        """What ``do`` makes of an image; what goes wrong with it is said to the user.

        Raises:
            OutputError: The disk refuses what was made, and would refuse that of the next too.
        """
        try:
            with item_errors(str(path)):
                result = do(path)
        except OutputError:
            raise
        except FO1Error as error:
            line = f"{path}: {error}"
            if isinstance(error, ItemError):
                line = f"{error} (fo1 --verbose shows where)"
            self.failed.append(str(path))
            errors.print(Text(line, style="red"), soft_wrap=True)
            return Failed({"file": str(path), "error": str(error)})
        self.done += 1
        return result

    def conclude(self, verb: str, file: Path | None, errors: Console, *, several: bool) -> None:
        """One line about all images, where there are several.

        Args:
            verb: What was done to them, perhaps with a remark.
            file: Where those that were done before stand.
            errors: Where the line goes.
            several: Whether more than one image was named.

        Raises:
            typer.Exit: Some failed; code 1.
        """
        if several or self.skipped:
            line = f"{self.done} {verb}"
            if self.skipped:
                line += f", {self.skipped} were already in {file}"
            if self.failed:
                line += f", {len(self.failed)} failed: {', '.join(self.failed[:5])}"
                line += ", ..." if len(self.failed) > 5 else ""
            errors.print(Text(line), soft_wrap=True)
        if self.failed:
            raise typer.Exit(code=1)


@dataclass(frozen=True)
class Files:
    """Which images are asked about and where answers go, as the user typed it."""

    image: str
    out: Path | None
    save: Path | None
    unchosen: bool
    as_json: bool
    fresh: bool


def answer_images(
    files: Files,
    decisive: list[Any],
    load: "Callable[[bool], Callable[[Sequence[Path]], Answers]]",
    errors: Console,
    *,
    doing: str,
    columns: Sequence[str],
    rows: "Callable[[Answer], Iterable[Sequence[str]]]",
    record: "Callable[[Answer], dict[str, Any]] | None" = None,
    streamed: bool = False,
) -> None:
    """Ask about every image; draw, save and print each answer before the next is taken.

    Args:
        files: Which images, and where answers go.
        decisive: What decides the answers, in plain values: it names the run in a ``--save`` file.
        load: Makes what answers images in order, where one is left to be asked about; is told
            whether there are several.
        errors: Where problems go.
        doing: What stands at the progress bar.
        columns: Titles of the table of an answer.
        rows: Its rows.
        record: More for the saved line of an answer.
        streamed: Whether the words of an answer are printed as they come.

    Raises:
        typer.Exit: Some images failed; code 1.
    """
    images = find_images(files.image, errors, aside=files.out)
    drawings = plan_drawings(files.out, images)
    several = len(images) > 1
    with AnswerFile(files.save, decisive, fresh=files.fresh) as file, ExitStack() as stack:
        todo = [path for path in images if str(path) not in file.finished]
        answers = stack.enter_context(closing(load(several)(todo))) if todo else None

        def answered(path: Path) -> "Answer":
            assert answers is not None
            answer = next(answers)
            if isinstance(answer, FO1Error):
                raise answer
            if path in drawings:
                save_drawing(answer.draw(path, show_unchosen=files.unchosen), drawings[path])
            return answer

        outcome = Outcome(skipped=len(images) - len(todo))
        for path in with_progress(todo, errors, doing):
            if streamed and several:
                typer.echo(f"{path}:")
            answer = outcome.attempt(path, answered, errors)
            if isinstance(answer, Failed):
                file.append(answer.record)
                continue
            line = {"file": str(path), **answer.to_dict(), **(record(answer) if record else {})}
            file.append(line)
            if files.as_json:
                typer.echo(line_of(line))
            elif not several or files.save is None:
                if several and not streamed:
                    typer.echo(f"{path}:")
                _print_answer(path, answer, columns, rows(answer), errors, streamed=streamed)
    outcome.conclude("answered", files.save, errors, several=several)


def one_by_one(ask: "Callable[[Path], Answer]") -> "Callable[[Sequence[Path]], Answers]":
    """What answers images one after the other, each when the one before is dealt with."""

    def answers(paths: Sequence[Path]) -> "Answers":
        for path in paths:
            try:
                with item_errors(str(path)):
                    answer = ask(path)
            except FO1Error as error:
                yield error
            else:
                yield answer

    return answers


def _print_answer(
    path: Path,
    answer: "Answer",
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    errors: Console,
    *,
    streamed: bool,
) -> None:
    console = Console()
    if streamed:
        console.print()  # ends the line that was written piece by piece
    else:
        console.print(Text(answer.plain or "(no words)"), soft_wrap=True)
    if answer.count is not None:
        console.print(f"count: {answer.count}")
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    if table.row_count:
        console.print(table)
    for problem in answer.problems:
        errors.print(Text(f"{path.name}: {problem}", style="yellow"), soft_wrap=True)
