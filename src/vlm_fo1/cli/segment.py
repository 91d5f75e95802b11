"""`fo1 segment`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_fo1.cli import options
from vlm_fo1.cli.pictures import check_words, find_pictures, plan_drawings, save_drawing
from vlm_fo1.cli.running import Failed, Outcome, load_fo1, shown, with_progress
from vlm_fo1.cli.saving import AnswerFile
from vlm_fo1.cli.segmenting import (
    Phrase,
    Proposing,
    Query,
    check_out,
    load_offering,
)
from vlm_fo1.jsonl import line_of
from vlm_fo1.tasks import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from vlm_fo1.answer import Answer


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
    token: options.Token = None,
    strict: options.Strict = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_new_tokens: options.Tokens = MAX_NEW_TOKENS,
) -> None:
    """Find what a phrase means, as masks: a proposer offers, the model chooses.

    fo1 segment photo.jpg "the cup behind the plate" --query cup --proposer sam3:facebook/sam3
    """
    errors = Console(stderr=True)
    with shown(errors):
        check_out(out, save)
        check_words([phrase])
        pictures = find_pictures(image, errors, aside=out)
        drawings = plan_drawings(out, pictures)
        question = {"task": "segment", "phrase": phrase, "query": query, "tokens": max_new_tokens}
        how = {"device": device, "dtype": dtype, "token": token}
        about = {"revision": revision, "strict": strict}
        with AnswerFile(save, [question, proposer, model, revision, dtype], fresh=fresh) as file:
            todo = [path for path in pictures if str(path) not in file.finished]
            ask = _asker(proposer, model, errors, how, about) if todo else None

            def answered(path: Path) -> "Answer":
                assert ask is not None
                answer = ask(path, phrase, query=query, max_new_tokens=max_new_tokens)
                if path in drawings:
                    save_drawing(answer.draw(path, show_unchosen=unchosen), drawings[path])
                return answer

            outcome = Outcome(skipped=len(pictures) - len(todo))
            several = len(pictures) > 1
            for path in with_progress(todo, errors, "segmenting"):
                answer = outcome.attempt(path, answered, errors)
                failed = isinstance(answer, Failed)
                record = answer.record if failed else _record(path, answer)
                file.append(record)
                if failed:
                    continue
                if as_json:
                    typer.echo(line_of(record))
                elif save is None or not several:
                    if several:
                        typer.echo(f"{path}:")
                    _show(path, answer, errors)
        outcome.conclude("answered", save, errors, several=several)


def _asker(
    proposer: str,
    model: str,
    errors: Console,
    how: dict[str, Any],
    about: dict[str, Any],
) -> "Callable[..., Answer]":
    """Loads what is needed; the rest of `FO1.segment` is for each picture."""
    from vlm_fo1.proposals import ON_IMAGES

    offering = load_offering(proposer, **how, errors=errors, least=ON_IMAGES.unsure_min_score)
    fo1 = load_fo1(model, errors, **how, **about)
    return partial(fo1.segment, proposer=offering)


def _record(path: Path, answer: "Answer") -> dict[str, Any]:
    return {"file": str(path), **answer.to_dict(), "segments": _segments(answer)}


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
