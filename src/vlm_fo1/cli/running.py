"""What all commands that go through pictures share: loading, progress, how errors show and end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.text import Text

from vlm_fo1.errors import FO1Error, ItemError, OutputError, item_errors

if TYPE_CHECKING:
    from vlm_fo1.fo1 import FO1


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


def bars(errors: Console, **options: Any) -> Progress:
    """Progress bars with the number of what is done and the time left."""
    columns = [*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn()]
    return Progress(*columns, console=errors, **options)


def with_progress(pictures: Sequence[Path], errors: Console, doing: str) -> Iterator[Path]:
    """The pictures one by one, with a bar where there are several."""
    with bars(errors, disable=len(pictures) < 2) as progress:
        yield from progress.track(pictures, description=doing)


@dataclass(frozen=True)
class Failed:
    """What stands in a file for a picture that failed."""

    record: dict[str, Any]


@dataclass(kw_only=True)
class Outcome:
    """How many pictures were done, were done before, and failed."""

    skipped: int = 0
    done: int = 0
    failed: list[str] = field(default_factory=list[str])

    def attempt(self, path: Path, do: Callable[[Path], Result], errors: Console) -> Result | Failed:
        """What ``do`` makes of a picture; what goes wrong with it is said to the user.

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
        """One line about all pictures, where there are several.

        Args:
            verb: What was done to them, perhaps with a remark.
            file: Where those that were done before stand.
            errors: Where the line goes.
            several: Whether more than one picture was named.

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
