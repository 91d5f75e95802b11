"""Every command that asks, `fo1 detect` and so on: one for each name in `vlm_fo1.tasks.TASKS`.

Images are asked about side by side, ``--batch-size`` at once. One bad image is reported and
counted; the others are done. With ``--save`` nothing finished is lost: the answers of a batch are
on disk before the next is asked.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from vlm_fo1 import tasks
from vlm_fo1.cli.images import check_words
from vlm_fo1.cli.options import Asked
from vlm_fo1.cli.running import Files, answer_images, load_fo1, one_by_one, shown
from vlm_fo1.errors import BoxError, ConfigError, PromptError

if TYPE_CHECKING:
    from vlm_fo1.answer import Answer
    from vlm_fo1.cli.running import Answers
    from vlm_fo1.fo1 import FO1
    from vlm_fo1.plan import Scoring
    from vlm_fo1.proposals import Tile

_ARGUMENTS = {"labels": "labels", "label": "label", "text": "question", "regions": "region"}
"""What a task takes to the argument in which it is typed."""

_SCORED = {"scores", "answer_score", "answer_presence", "calibration"}
"""Fields of `Asked` for tasks that look for labels."""

_OWN = {*_ARGUMENTS.values(), *_SCORED, "detail", "about", "beside", "system", "stream"}
"""Fields of `Asked` that some tasks alone take."""


def command_of(name: str) -> Callable[..., None]:
    """The function of a command, for typer.

    Args:
        name: One of `TaskSpec.command`.

    Returns:
        A function that takes those fields of `Asked` that say something to its task.
    """
    specs = [spec for spec in tasks.TASKS.values() if spec.command == name]
    spec = specs[0]
    own: set[str] = set()
    if spec.takes == "text":
        own |= {"about", "beside", "system"}
    if spec.streams:
        own.add("stream")
    if spec.takes in {"labels", "label"}:
        own |= _SCORED
    argument = None if spec.per_region else _ARGUMENTS.get(spec.takes)
    parameters: list[inspect.Parameter] = []
    for field in inspect.signature(Asked, eval_str=True).parameters.values():
        if field.name == argument:
            parameters.append(field.replace(default=inspect.Parameter.empty))
        elif field.name == "detail" and len(specs) > 1:
            parameters.append(_detail(field, [each.detail for each in specs]))
        elif field.name in own or field.name not in _OWN:
            parameters.append(field)

    def command(**values: Any) -> None:
        run(name, Asked(**values))

    more = " One question a box." if spec.per_region else ""
    more += "" if spec.needs_regions else " Boxes are optional."
    example = f"\n\nfo1 {name} {spec.example}" if spec.example else ""
    command.__doc__ = f"{spec.help}{more}{example}"
    command.__signature__ = inspect.Signature(parameters)
    return command


def _detail(field: inspect.Parameter, details: list[str]) -> inspect.Parameter:
    """``--detail``, which chooses among the tasks of a command; the first of them by default."""
    choice = StrEnum("Detail", {detail.upper(): detail for detail in details})
    option = Annotated[choice, typer.Option(help="How much is said.")]
    return field.replace(annotation=option, default=next(iter(choice)))


def run(name: str, typed: Asked) -> None:
    """Ask one question of every image.

    Args:
        name: The command.
        typed: Its arguments and options.

    Raises:
        typer.Exit: Code 2 when nothing could start or be saved, 1 when some images failed.
    """
    errors = Console(stderr=True)
    with shown(errors):
        check_words([*(typed.labels or ()), typed.label, typed.question])
        request = _request(name, typed)
        _check_options(typed)
        boxes = _read_boxes(typed, request)
        tile = tile_of(typed.tile)

        def load(several: bool) -> "Callable[[Sequence[Path]], Answers]":
            fo1 = _load(typed, errors)
            given = boxes
            if several and boxes is not None:
                from vlm_fo1.formats.boxes import by_image

                given = by_image(boxes)
            how: dict[str, Any] = {
                "images": typed.beside or (),
                "queries": typed.query,
                "tile": tile,
                "max_new_tokens": typed.max_new_tokens,
                "constrain": typed.constrain,
                "scores": _scoring(typed),
            }
            if typed.stream:
                return one_by_one(
                    lambda path: _bounded(
                        fo1.answer(path, request, given, on_text=_print_text, **how), typed
                    )
                )
            return lambda paths: (
                answer if isinstance(answer, Exception) else _bounded(answer, typed)
                for answer in fo1.answer_many(
                    ((path, request, given) for path in paths), batch_size=typed.batch_size, **how
                )
            )

        answer_images(
            Files(typed.image, typed.out, typed.save, typed.unchosen, typed.as_json, typed.fresh),
            [*_decisive(request, typed), boxes],
            load,
            errors,
            doing="asking",
            columns=("label", "region", "box (x1, y1, x2, y2)", "score", "confidence"),
            rows=_rows,
            streamed=typed.stream,
        )


def _scoring(typed: Asked) -> "Scoring":
    return None if typed.scores == "none" else typed.scores.value


def _bounds(typed: Asked) -> dict[str, Any]:
    """Those bounds of `Answer.select` that were typed."""
    bounds = {"min_score": typed.answer_score, "min_presence": typed.answer_presence}
    return {name: value for name, value in bounds.items() if value is not None}


def _print_text(text: str) -> None:
    typer.echo(text, nl=False)


def _request(name: str, typed: Asked) -> tasks.Request:
    """What was typed as a request.

    Raises:
        PromptError: It cannot be asked.
    """
    return tasks.Request(
        task=tasks.task_of(name, str(typed.detail)),
        labels=tuple(typed.labels or ([typed.label] if typed.label else ())),
        text=typed.question,
        regions=tuple(typed.about or ()) if typed.region is None else (typed.region,),
        system=typed.system,
    )


def _decisive(request: tasks.Request, typed: Asked) -> list[Any]:
    """What decides the answers, boxes aside; proposals only where something is said of them."""
    asked = {**request.to_dict(), "tokens": typed.max_new_tokens}
    asked |= {"with": [str(path) for path in typed.beside]} if typed.beside else {}
    asked |= {"image_size": typed.image_size} if typed.image_size else {}
    asked |= {} if typed.scores == "joint" else {"scores": str(typed.scores)}
    asked |= {} if typed.constrain else {"constrain": False}
    asked |= _bounds(typed)
    asked |= {"calibration": str(typed.calibration)} if typed.calibration else {}
    tile = None if typed.tile == "auto" else typed.tile
    said = [typed.proposer, typed.query, typed.min_score, typed.nms, tile]
    proposals = [said] if any(value is not None for value in said) else []
    return [asked, typed.model, typed.revision, typed.dtype, *proposals]


def _bounded(answer: "Answer", typed: Asked) -> "Answer":
    """The answer within the bounds that were typed, if any."""
    bounds = _bounds(typed)
    return answer.select(**bounds) if bounds else answer


def tile_of(text: str) -> "Tile":
    """What ``--tile`` means.

    Raises:
        ConfigError: Neither a number of pixels nor one of its words.
    """
    if text == "auto":
        return "auto"
    if text == "none":
        return None
    if not text.isdecimal():
        raise ConfigError(f"--tile {text}: a number of pixels, 'auto' or 'none' is needed")
    return int(text)


def _parse_boxes(texts: list[str]) -> list[list[float]]:
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


def _check_options(typed: Asked) -> None:
    """Refuse options that do not go together.

    Raises:
        BoxError: Boxes from two places, or thresholds for boxes that are used as they are.
        PromptError: Two ways to print, or bounds on scores without any.
    """
    if typed.stream and typed.as_json:
        raise PromptError("--stream prints words and --json prints JSON: pass one of them")
    if typed.scores == "none" and _bounds(typed):
        raise PromptError(
            "--answer-score and --answer-presence choose by scores, and --scores none leaves them "
            "out: pass one of them"
        )
    places = [
        name
        for name, value in (
            ("--box", typed.box or None),
            ("--boxes", typed.boxes),
            ("--proposer", typed.proposer),
        )
        if value is not None
    ]
    if len(places) > 1:
        both = "both " if len(places) == 2 else ""
        raise BoxError(f"{both}{' and '.join(places)} were given: pass one of them")
    if places and places != ["--proposer"]:
        for name, value in (
            ("--min-score", typed.min_score),
            ("--nms", typed.nms),
            ("--query", typed.query or None),
        ):
            if value is not None:
                raise BoxError(
                    f"{name} is about what a proposer offers, and {places[0]} gives boxes that are "
                    "used as they are: leave one of them out"
                )


def _read_boxes(typed: Asked, request: tasks.Request) -> Any:
    """What ``--box`` or ``--boxes`` holds, None where a proposer is asked or nobody.

    Raises:
        BoxError: None where they are needed, or they cannot be read.
    """
    if typed.box:
        return _parse_boxes(typed.box)
    if typed.boxes is not None:
        from vlm_fo1.formats.boxes import read_boxes

        return read_boxes(typed.boxes)
    if request.spec.needs_regions and typed.proposer is None:
        from vlm_fo1.proposers.base import default_proposer

        if default_proposer(typed.model) is None:
            raise BoxError(
                "this question points at regions and none were given: "
                "pass --box x1,y1,x2,y2, --boxes FILE or --proposer NAME:ARG"
            )
    return None


def _load(typed: Asked, errors: Console) -> "FO1":
    """The model, with the thresholds that were typed in place of the proposer's.

    Raises:
        ConfigError: There is no proposer for them, or a threshold that cannot be.
    """
    fo1 = load_fo1(
        typed.model,
        errors,
        proposer=typed.proposer,
        device=typed.device,
        dtype=typed.dtype,
        revision=typed.revision,
        token=typed.token,
        strict=typed.strict,
        calibration=typed.calibration,
    )
    if typed.image_size is not None:
        fo1 = fo1.seeing(typed.image_size)
    changed = {"min_score": typed.min_score, "nms_iou": typed.nms}
    changed = {name: value for name, value in changed.items() if value is not None}
    if changed and fo1.proposer is None:
        raise ConfigError(
            "--min-score and --nms are about what a proposer offers, and there is none: "
            "pass --proposer NAME:ARG"
        )
    return fo1.selecting(replace(fo1.selection, **changed)) if changed else fo1


def _rows(answer: "Answer") -> Iterator[tuple[str, ...]]:
    """Each region that is pointed at, and each label without one."""
    for mention in answer.mentions:
        for position, index in enumerate(mention.indices):
            sure = None if mention.confidence is None else mention.confidence[position]
            score = None if answer.scores is None else answer.scores_of(mention.label)[index]
            corners = ", ".join(f"{value:g}" for value in answer.regions.xyxy[index].tolist())
            label = mention.label or "(no label)"
            yield label, str(index), corners, _two_digits(score), _two_digits(sure)
        if not mention.indices:
            yield mention.label, "none", "", "", ""


def _two_digits(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"
