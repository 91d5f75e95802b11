"""`fo1 propose`: the boxes that a proposer offers, drawn, saved, measured."""

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_fo1.cli import options
from vlm_fo1.cli.images import find_images, plan_drawings, save_drawing
from vlm_fo1.cli.running import Failed, Outcome, shown, with_progress
from vlm_fo1.cli.saving import AnswerFile
from vlm_fo1.errors import FO1Error
from vlm_fo1.jsonl import check_writable, line_of, write_whole

if TYPE_CHECKING:
    from vlm_fo1.eval.recall import CocoTruth, RecallMeter
    from vlm_fo1.proposers.base import Proposer, Selection
    from vlm_fo1.regions import Regions

logger = logging.getLogger(__name__)


def command(
    image: options.Image,
    proposer: Annotated[
        str,
        typer.Option(
            metavar="NAME:ARG",
            help="What offers boxes, and after a colon what it loads: upn:PATH, hf:zero-shot, "
            "hf:ID, sam3:facebook/sam3, ocr, selective, tiny. See docs/proposers.",
        ),
    ] = "tiny",
    queries: Annotated[
        list[str] | None,
        typer.Option(
            "--queries",
            "--query",
            help="What to look for, for proposers that look for named things: names with commas "
            "between them; may be repeated.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that remembers proposals: no image is looked at twice."),
    ] = None,
    cache_size: Annotated[
        float, typer.Option(min=0.001, help="Greatest size of that folder, in GiB.")
    ] = 2.0,
    min_score: Annotated[float, typer.Option(help="Drop boxes with a lower score.")] = 0.0,
    nms: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Drop boxes that overlap a better one more than this IoU.",
            show_default="keep them",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Keep at most so many of the best.", show_default="all"),
    ] = None,
    recall: Annotated[
        Path | None,
        typer.Option(help="COCO file of what is there: say how much of it the boxes cover."),
    ] = None,
    out: options.Out = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the boxes of each image as one line of JSON.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            help="File of boxes, for --boxes of the other commands: .jsonl gets one line an image "
            "as they come; .json is made from such a file beside it when all are done. Run the "
            "same command again to go on where it stopped."
        ),
    ] = None,
    fresh: options.Fresh = False,
    revision: options.Revision = None,
    token: options.Token = None,
    strict: options.Strict = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Offer boxes of things that may be there, without asking what they are.

    fo1 propose photos --proposer hf:PekingU/rtdetr_v2_r50vd --limit 100 --save boxes.jsonl
    """
    job = Job(
        image=image,
        proposer=proposer,
        queries=_names(queries),
        cache=cache,
        cache_bytes=int(cache_size * 2**30),
        min_score=min_score,
        nms=nms,
        limit=limit,
        recall=recall,
        out=out,
        as_json=as_json,
        save=save,
        fresh=fresh,
        loading={
            "revision": revision,
            "token": token,
            "strict": strict or None,
            "device": device,
            "dtype": dtype,
        },
    )
    _run(job)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the user typed."""

    image: str
    proposer: str
    queries: list[str] | None
    cache: Path | None
    cache_bytes: int
    min_score: float
    nms: float | None
    limit: int | None
    recall: Path | None
    out: Path | None
    as_json: bool
    save: Path | None
    fresh: bool
    loading: dict[str, Any]
    """For `load_proposer`; what is None was not said."""

    @property
    def lines(self) -> Path | None:
        """The file that boxes are written to one line an image."""
        return None if self.save is None else self.save.with_suffix(".jsonl")


@dataclass(frozen=True)
class _Tools:
    proposer: "Proposer"
    queries: list[str] | None
    selection: "Selection"
    file: AnswerFile
    truth: "CocoTruth | None"
    meter: "RecallMeter"


def _run(job: Job) -> None:
    """Propose for every image.

    Raises:
        typer.Exit: Code 2 when nothing could start or be saved, 1 when some images failed.
    """
    errors = Console(stderr=True)
    with shown(errors):
        images = find_images(job.image, errors, aside=job.out)
        drawings = plan_drawings(job.out, images)
        _check_save(job.save)
        tools = _prepare(job, errors)
        with tools.file:
            outcome = _propose_all(job, tools, images, drawings, errors)
        _conclude(job, tools, outcome, errors, len(images))


def _propose_all(
    job: Job, tools: _Tools, images: list[Path], drawings: dict[Path, Path], errors: Console
) -> Outcome:
    todo = [path for path in images if str(path) not in tools.file.finished]
    outcome = Outcome(skipped=len(images) - len(todo))
    if outcome.skipped and job.recall:
        _count_finished(job, tools, {str(path) for path in images} - set(map(str, todo)))

    def propose(path: Path) -> "tuple[dict[str, Any], Regions]":
        from vlm_fo1.draw import draw_regions

        record, regions = _propose(path, tools)
        if path in drawings:
            save_drawing(draw_regions(path, regions, show_scores=True), drawings[path])
        return record, regions

    for path in with_progress(todo, errors, "proposing"):
        result = outcome.attempt(path, propose, errors)
        record = result.record if isinstance(result, Failed) else result[0]
        tools.file.append(record)
        if not isinstance(result, Failed):
            _print(job, *result)
    _write_whole(job)
    return outcome


def _names(queries: list[str] | None) -> list[str] | None:
    if queries is None:
        return None
    return [name.strip() for text in queries for name in text.split(",") if name.strip()]


def _check_save(save: Path | None) -> None:
    if save is None:
        return
    if save.suffix.lower() not in {".json", ".jsonl"}:
        raise FO1Error(f"--save {save}: a name that ends in .json or .jsonl is needed")
    check_writable(save)


def _prepare(job: Job, errors: Console) -> _Tools:
    with errors.status(Text(f"loading {job.proposer}")):
        from vlm_fo1.eval.recall import CocoTruth, RecallMeter
        from vlm_fo1.proposers.base import Selection, check_queries, load_proposer
        from vlm_fo1.proposers.cache import CachedProposer

        selection = Selection(min_score=job.min_score, nms_iou=job.nms, limit=job.limit)
        truth = CocoTruth(job.recall) if job.recall else None
        if truth is not None and truth.strays:
            errors.print(Text(f"{job.recall}: {truth.strays}", style="yellow"), soft_wrap=True)
        said = {key: value for key, value in job.loading.items() if value is not None}
        proposer = load_proposer(job.proposer, **said)
        check_queries(proposer.name, job.queries, needed=proposer.requires_labels)
        if job.cache is not None:
            proposer = CachedProposer(proposer, job.cache, max_bytes=job.cache_bytes)
        about = [proposer.name, proposer.fingerprint, job.queries, asdict(selection)]
        file = AnswerFile(job.lines, ["propose", *about], fresh=job.fresh)
    return _Tools(proposer, job.queries, selection, file, truth, RecallMeter())


def _propose(path: Path, tools: _Tools) -> "tuple[dict[str, Any], Regions]":
    """The line about one image, and its regions; what is known of it is counted."""
    from vlm_fo1.images import read_framed
    from vlm_fo1.proposers.base import select

    image, frame = read_framed(path)
    objects = tools.truth.objects(path, frame) if tools.truth else None
    asked = getattr(tools.proposer, "misses", None)
    start = time.perf_counter()
    (offered,) = tools.proposer.propose([image], queries=tools.queries)
    seconds: float | None = time.perf_counter() - start
    if asked is not None and asked == getattr(tools.proposer, "misses", None):
        seconds = None  # it was in the cache
    regions = select(offered, tools.selection)
    if objects is not None:
        tools.meter.add(regions, objects.xyxy, objects.areas, latency_s=seconds)
        if objects.note:
            logger.warning("%s: %s", path, objects.note)
    width, height = image.size
    record = {
        "file": str(path),
        "proposer": tools.proposer.name,
        "image": {"width": width, "height": height},
        "offered": len(offered),
        "seconds": None if seconds is None else round(seconds, 4),
        "regions": regions.to_dict(masks=True),
    }
    return record, regions


def _count_finished(job: Job, tools: _Tools, names: set[str]) -> None:
    """Count images of an earlier run, from their lines."""
    from vlm_fo1.formats.boxes import given_regions, read_boxes
    from vlm_fo1.images import image_frame

    assert job.lines is not None
    assert tools.truth is not None
    for name, record in read_boxes(job.lines).items():
        if name in names:
            frame = image_frame(name)
            objects = tools.truth.objects(name, frame)
            regions = given_regions(record, frame).regions
            tools.meter.add(regions, objects.xyxy, objects.areas, latency_s=record.get("seconds"))


def _print(job: Job, record: dict[str, Any], regions: "Regions") -> None:
    if job.as_json:
        typer.echo(line_of(record))
        return
    best = ""
    if regions.scores is not None and len(regions):
        best = f", scores {regions.scores[0]:.2f} to {regions.scores[-1]:.2f}"
    kept = f" of {record['offered']}" if record["offered"] != len(regions) else ""
    took = "cached" if record["seconds"] is None else f"{record['seconds']:.2f} s"
    typer.echo(f"{record['file']}: {len(regions)}{kept} boxes{best}, {took}")


def _write_whole(job: Job) -> None:
    """The ``.json`` file, one value for all images."""
    if job.save is None or job.lines is None or job.save == job.lines or not job.lines.exists():
        return
    from vlm_fo1.formats.boxes import read_boxes

    write_whole(job.save, json.dumps(read_boxes(job.lines)).encode())


def _conclude(job: Job, tools: _Tools, outcome: Outcome, errors: Console, images: int) -> None:
    if job.recall is not None:
        report = tools.meter.report()
        if job.as_json:
            typer.echo(line_of({"recall": report.to_dict()}))
        else:
            _show_recall(report.to_dict())
    verb = "done"
    if job.cache is not None:
        verb += f", {getattr(tools.proposer, 'hits', 0)} of them from the cache"
    outcome.conclude(verb, job.lines, errors, several=images > 1)


def _show_recall(report: dict[str, Any]) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False)
    for title in ("objects", "number"):
        table.add_column(title)
    limits = list(report["average_recall"]["all"])
    for limit in limits:
        table.add_column(f"AR@{limit}", justify="right")
    for limit in limits:
        table.add_column(f"R50@{limit}", justify="right")
    for size, number in report["objects"].items():
        cells = [
            *report["average_recall"][size].values(),
            *report["recall_at_iou_50"][size].values(),
        ]
        table.add_row(
            size, str(number), *("-" if cell is None else f"{cell:.3f}" for cell in cells)
        )
    console.print(table)
    if report["images"]:
        line = (
            f"{report['images']} images, {report['boxes_per_image']:.1f} boxes each, "
            f"{report['images_without']:.1%} without a box"
        )
        if report["latency_s"] is not None:
            line += f", {report['latency_s']:.3f} s each (median)"
        console.print(Text(line), soft_wrap=True)
