"""`fo1 segment`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vlm_fo1.cli import options
from vlm_fo1.cli.pictures import find_pictures, plan_drawings
from vlm_fo1.cli.saving import AnswerFile, line_of
from vlm_fo1.cli.segmenting import (
    Phrase,
    Proposing,
    Query,
    check_out,
    load_fo1,
    load_offering,
    shown,
)
from vlm_fo1.errors import FO1Error

if TYPE_CHECKING:
    from vlm_fo1.structures import Answer


def command(
    image: options.Image,
    phrase: Phrase,
    proposer: Proposing,
    query: Query = None,
    out: options.Out = None,
    unchosen: options.Unchosen = False,
    as_json: options.AsJson = False,
    save: options.Save = None,
    fresh: options.Fresh = False,
    model: options.Model = "tiny",
    revision: options.Revision = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_new_tokens: options.Tokens = 512,
) -> None:
    """Find what a phrase means, as masks: a proposer offers, the model chooses.

    fo1 segment photo.jpg "the cup behind the plate" --query cup --proposer sam3:facebook/sam3
    """
    errors = Console(stderr=True)
    with shown(errors):
        check_out(out, save)
        pictures = find_pictures(image, aside=out)
        drawings = plan_drawings(out, pictures)
        question = {"task": "segment", "phrase": phrase, "query": query, "tokens": max_new_tokens}
        file = None
        if save is not None:
            decisive = [question, proposer, model, revision, dtype]
            file = AnswerFile(save, decisive, fresh=fresh)
        todo = [path for path in pictures if file is None or str(path) not in file.finished]
        ask = _asker(proposer, model, revision, device, dtype, errors) if todo else None

    def answered(path: Path) -> "Answer":
        assert ask is not None
        answer = ask(path, phrase, query=query, max_new_tokens=max_new_tokens)
        if path in drawings:
            answer.draw(path, show_unchosen=unchosen).save(drawings[path])
        return answer

    outcome = _Outcome(as_json=as_json, several=len(pictures) > 1)
    columns = [*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=errors, disable=len(todo) < 2) as progress:
        for path in progress.track(todo, description="segmenting"):
            record = outcome.of(path, answered, errors, quiet=file is not None and outcome.several)
            if file is not None:
                with shown(errors):
                    file.append(record)
    outcome.conclude(len(pictures) - len(todo), save, errors)


def _asker(
    proposer: str,
    model: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    errors: Console,
) -> "Callable[..., Answer]":
    """Loads what is needed; the rest of `segmenting.segment` is for each picture."""
    offering = load_offering(proposer, device, dtype, errors)
    fo1 = load_fo1(model, revision, device, dtype, errors)
    from vlm_fo1.segmenting import segment

    return partial(segment, fo1, offering)


@dataclass(kw_only=True)
class _Outcome:
    """Shows each answer and counts what failed."""

    as_json: bool
    several: bool
    done: int = 0
    failed: list[str] = field(default_factory=list[str])

    def of(
        self, path: Path, ask: Callable[[Path], "Answer"], errors: Console, *, quiet: bool
    ) -> dict[str, Any]:
        """The record of a picture."""
        from torch import OutOfMemoryError

        try:
            answer = ask(path)
        except (FO1Error, OSError, MemoryError, OutOfMemoryError) as error:
            reason = str(error) or type(error).__name__
            self.failed.append(str(path))
            errors.print(Text(f"{path}: {reason}", style="red"), soft_wrap=True)
            return {"file": str(path), "error": reason}
        self.done += 1
        record = {"file": str(path), **answer.to_dict(), "segments": _segments(answer)}
        if self.as_json:
            typer.echo(line_of(record))
        elif not quiet:
            if self.several:
                typer.echo(f"{path}:")
            _show(path, answer, errors)
        return record

    def conclude(self, skipped: int, save: Path | None, errors: Console) -> None:
        """One line about all pictures.

        Raises:
            typer.Exit: Some failed.
        """
        if self.several or skipped:
            line = f"{self.done} answered"
            line += f", {skipped} were already in {save}" if skipped else ""
            line += f", {len(self.failed)} failed: {', '.join(self.failed)}" if self.failed else ""
            errors.print(Text(line), soft_wrap=True)
        if self.failed:
            raise typer.Exit(code=1)


def _segments(answer: "Answer") -> list[dict[str, Any]]:
    """What was chosen, each with its mask as COCO's run lengths where it has one."""
    ids = {label: number for number, label in enumerate(answer, start=1)}
    names = {number: label for label, number in ids.items()}
    return [
        {
            "label": names[result["category_id"]],
            **{key: result[key] for key in ("bbox", "score", "segmentation") if key in result},
        }
        for result in answer.to_coco(0, ids, score="proposal")
    ]


def _show(path: Path, answer: "Answer", errors: Console) -> None:
    console = Console()
    console.print(Text(answer.plain or "(no words)"), soft_wrap=True)
    console.print(f"count: {answer.count}")
    chosen = answer.chosen
    if len(chosen):
        table = Table(box=None, pad_edge=False)
        for title in ("label", "box (x1, y1, x2, y2)", "score", "pixels"):
            table.add_column(title)
        for index, box in enumerate(chosen.xyxy.tolist()):
            table.add_row(
                Text(chosen.labels[index] if chosen.labels else ""),
                ", ".join(f"{value:.1f}" for value in box),
                "" if chosen.scores is None else f"{chosen.scores[index]:.2f}",
                "" if chosen.masks is None else str(int(chosen.masks[index].sum())),
            )
        console.print(table)
    for problem in answer.problems:
        errors.print(Text(f"{path.name}: {problem}", style="yellow"), soft_wrap=True)
