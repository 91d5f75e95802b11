"""`fo1 eval`: a benchmark, from its files to a report."""

import logging
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_fo1.cli import options
from vlm_fo1.cli.running import bars, load_fo1, shown
from vlm_fo1.errors import ConfigError, EvaluationError
from vlm_fo1.tasks import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from vlm_fo1.eval.benchmark import Benchmark, Item
    from vlm_fo1.eval.files import Header
    from vlm_fo1.eval.report import Report
    from vlm_fo1.eval.run import AnswerMany

logger = logging.getLogger(__name__)


def command(
    benchmark: Annotated[
        str, typer.Argument(help="Its name; `fo1 eval --list` shows them all.", show_default=False)
    ] = "",
    data: Annotated[
        Path | None, typer.Option(help="Folder of its files, as --list says.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of predictions and report.", show_default="evaluations/BENCHMARK"
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="A choice of the benchmark, as --list says; repeatable."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first items.")] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Ask one part of the items, for N processes or machines; put the files of all "
            "parts in one folder and score that.",
        ),
    ] = "1/1",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with predictions that are there; what failed is tried again."
        ),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask everything anew.")] = False,
    score_only: Annotated[
        bool,
        typer.Option("--score-only", help="Score the predictions of --out; needs no model."),
    ] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show the benchmarks, their files and options.")
    ] = False,
    samples: Annotated[
        int, typer.Option(min=1, help="Resamples of images behind each 95 % interval.")
    ] = 1000,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Items that are asked at once; the last digits of the model's probabilities "
            "depend on it.",
        ),
    ] = 8,
    boxes: options.Boxes = None,
    proposer: options.Proposer = None,
    min_score: options.MinScore = None,
    nms: options.Nms = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS|auto|none",
            help="Look at large images through tiles, as the other commands do.",
            show_default="what the benchmark says",
        ),
    ] = None,
    model: options.Model = "tiny",
    revision: options.Revision = None,
    token: options.Token = None,
    strict: options.Strict = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    image_size: options.ImageSize = None,
    max_new_tokens: options.Tokens = MAX_NEW_TOKENS,
) -> None:
    """Score a model on a benchmark, by its true protocol, or on a COCO folder of your own.

    Predictions go to predictions.jsonl as they come; the report is made of that file alone:
    report.md, report.json and report.html with figures in print beside ours.

    fo1 eval folder --data my_photos --model omlab/VLM-FO1_Qwen2.5-VL-3B-v01 --proposer upn:upn.pth
    """
    if show_list:
        _show_list()
        return
    job = Job(
        benchmark=benchmark,
        data=data,
        out=out or Path("evaluations") / (benchmark or "."),
        options=option or [],
        limit=limit,
        shard=shard,
        resume=resume,
        fresh=fresh,
        samples=samples,
        batch_size=batch_size,
        boxes=boxes,
        model={
            "model": model,
            "revision": revision,
            "dtype": dtype,
            "proposer": proposer,
            "boxes": None if boxes is None else str(boxes),
            "min_score": min_score,
            "nms": nms,
            "tile": tile,
            "image_size": image_size,
            "max_new_tokens": max_new_tokens,
        },
        loading={"device": device, "token": token, "strict": strict},
    )
    _evaluate(job, score_only=score_only)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the user typed."""

    benchmark: str
    data: Path | None
    out: Path
    options: list[str]
    limit: int | None
    shard: str
    resume: bool
    fresh: bool
    samples: int
    batch_size: int
    boxes: Path | None
    model: dict[str, Any]
    """What decides the answers."""
    loading: dict[str, Any]
    """What does not."""


def _evaluate(job: Job, *, score_only: bool) -> None:
    """Ask, unless the predictions are there already; then score, once all parts are there.

    Raises:
        typer.Exit: Code 2 when nothing could be scored, 1 when some items failed.
    """
    errors = Console(stderr=True)
    with shown(errors):
        failed = 0 if score_only else _ask(job, errors)
        if score_only or _all_parts(job):
            failed = _score(job, errors)
        else:
            said = (
                f"part {job.shard} is done, {failed} items failed; when the files of all parts are "
                f"in {job.out}: fo1 eval --score-only --out {job.out}"
            )
            errors.print(Text(said), soft_wrap=True)
    if failed:
        raise typer.Exit(code=1)


def _ask(job: Job, errors: Console) -> int:
    """Ask what was not answered yet, and return how many items failed.

    Raises:
        EvaluationError: No benchmark or no data was named, or something is wrong with them.
    """
    from vlm_fo1 import config
    from vlm_fo1._extras import require
    from vlm_fo1.eval.benchmarks import load_benchmark
    from vlm_fo1.eval.files import Header, PredictionFile
    from vlm_fo1.eval.run import Shard, digest_of, predict
    from vlm_fo1.eval.versions import versions

    if not job.benchmark or job.data is None:
        raise EvaluationError(
            "name a benchmark and its folder: fo1 eval folder --data my_photos; `fo1 eval --list` "
            "shows what there is"
        )
    benchmark = load_benchmark(job.benchmark, job.options)
    for package in benchmark.card.needs:
        require(package, extra="eval")
    part = Shard.parse(job.shard)
    items = _items(job, benchmark, errors)
    header = Header(
        benchmark=job.benchmark,
        options=config.plain(benchmark.options),
        items=len(items),
        digest=digest_of(items),
        model=_decisive(job, benchmark, asking=any(item.boxes is None for item in items)),
        shard=job.shard,
        data=str(job.data),
        command=shlex.join(["fo1", *sys.argv[1:]]),
        versions=versions(),
    )
    mine = [index for index in range(len(items)) if part.holds(index)]
    failed = 0
    path = job.out / part.file_name
    with PredictionFile(path, header, resume=job.resume, fresh=job.fresh) as file:
        if file.finished >= {*mine}:
            return 0
        answer_many = _answer_many(job, header, errors)
        with bars(errors) as progress:
            bar = progress.add_task("asking", total=len(mine), completed=len(file.finished))
            for record in predict(items, answer_many, file, shard=part, data=job.data):
                progress.advance(bar)
                if record.error:
                    failed += 1
                    said = Text(f"item {record.id}: {record.error}", style="red")
                    progress.console.print(said, soft_wrap=True)
    return failed


def _items(job: Job, benchmark: "Benchmark", errors: Console) -> "list[Item]":
    from vlm_fo1.eval.run import items_of

    assert job.data is not None
    with errors.status(Text(f"reading {job.data}")):
        items = items_of(benchmark, job.data, job.limit)
        if job.boxes is None:
            return items
        from vlm_fo1.formats.boxes import by_image, read_boxes

        given = by_image(read_boxes(job.boxes))
    return [item if item.boxes is not None else replace(item, boxes=given) for item in items]


def _decisive(job: Job, benchmark: "Benchmark", *, asking: bool) -> dict[str, Any]:
    """What decides the answers, with what stands for what was not typed.

    Args:
        job: What was typed.
        benchmark: What is asked.
        asking: Whether an item needs the proposer.

    Raises:
        ConfigError: Tiles that cannot be.
    """
    from vlm_fo1.cli.ask import tile_of
    from vlm_fo1.proposers.base import default_proposer

    model = dict(job.model)
    if asking and model["proposer"] is None:
        model["proposer"] = default_proposer(model["model"])
    if model["tile"] is None:
        model["tile"] = "auto" if benchmark.card.tiled else "none"
    tile_of(model["tile"])
    return model


def _answer_many(job: Job, header: "Header", errors: Console) -> "AnswerMany":
    """The model with its options.

    Raises:
        ConfigError: Thresholds of a proposer that is not there.
    """
    from vlm_fo1.cli.ask import tile_of

    model = header.model
    fo1 = load_fo1(
        model["model"],
        errors,
        proposer=job.model["proposer"],
        revision=model["revision"],
        dtype=model["dtype"],
        **job.loading,
    )
    if model["image_size"] is not None:
        fo1 = fo1.seeing(model["image_size"])
    changed = {"min_score": model["min_score"], "nms_iou": model["nms"]}
    changed = {name: value for name, value in changed.items() if value is not None}
    if changed:
        if fo1.proposer is None:
            raise ConfigError("--min-score and --nms need a proposer: pass --proposer NAME:ARG")
        fo1 = fo1.selecting(replace(fo1.selection, **changed))
    tile = tile_of(model["tile"])
    return lambda asked: fo1.answer_many(
        asked, batch_size=job.batch_size, tile=tile, max_new_tokens=model["max_new_tokens"]
    )


def _all_parts(job: Job) -> bool:
    """Whether there is a file of each part."""
    from vlm_fo1.eval.run import Shard

    count = Shard.parse(job.shard).count
    names = [Shard(number, count).file_name for number in range(1, count + 1)]
    return all((job.out / name).is_file() for name in names)


def _score(job: Job, errors: Console) -> int:
    """Score the predictions of a folder, and return how many items failed.

    Raises:
        EvaluationError: They are not whole, or of another benchmark than was named.
    """
    from vlm_fo1.eval.benchmarks import load_benchmark
    from vlm_fo1.eval.files import read_run
    from vlm_fo1.eval.report import make_report, write_report

    with errors.status(Text(f"scoring {job.out}")):
        header, records = read_run(job.out)
        if job.benchmark and job.benchmark != header.benchmark:
            raise EvaluationError(
                f"{job.out} holds predictions of {header.benchmark}, not of {job.benchmark}"
            )
        benchmark = load_benchmark(header.benchmark, header.options)
        report = make_report(benchmark, header, records, samples=job.samples)
        data = job.data or (Path(header.data) if header.data else None)
        files = write_report(report, job.out, data)
    _print(report, files, errors)
    return len(report.failures)


def _print(report: "Report", files: list[Path], errors: Console) -> None:
    from vlm_fo1.eval.report.tables import tables_of

    console = Console()
    scores, *_ = tables_of(report)
    table = Table(*scores.columns, box=None, pad_edge=False, title=report.card.title)
    for row in scores.rows:
        table.add_row(*(Text(cell.strip("*"), "bold" * ("*" in cell)) for cell in row))
    console.print(table)
    for note in report.notes:
        errors.print(Text(note, style="yellow"), soft_wrap=True)
    line = f"{report.items} items, {len(report.failures)} failed"
    if report.failures:
        line += f" and count as wrong: {', '.join(r.id for r in report.failures[:5])}"
        line += ", ..." if len(report.failures) > 5 else ""
    errors.print(Text(f"{line}; {', '.join(map(str, files))}"), soft_wrap=True)


def _show_list() -> None:
    from vlm_fo1.eval.benchmarks import BENCHMARKS, load_benchmark

    console = Console()
    for name in BENCHMARKS:
        benchmark = load_benchmark(name)
        card = benchmark.card
        console.print(Text(f"{name}: {card.title}", style="bold"), soft_wrap=True)
        for title, text in (
            ("protocol", card.protocol),
            ("files", f"{card.layout}; from: {card.source}"),
            ("licence", card.licence),
            ("options", ", ".join(_choices(benchmark.options))),
        ):
            if text:
                console.print(Text(f"  {title}: {text}"), soft_wrap=True)


def _choices(chosen: Any) -> Iterator[str]:
    """Each option with its default and what else it may be."""
    hints = get_type_hints(type(chosen))
    for field in fields(chosen):
        others = [str(value) for value in get_args(hints[field.name]) if value != field.default]
        yield f"{field.name}={field.default}" + (f" (or {', '.join(others)})" if others else "")
