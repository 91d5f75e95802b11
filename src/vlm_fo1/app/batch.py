"""One question of many images: rows as they come, then a table, JSON Lines and COCO."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlm_fo1.answer import Answer
from vlm_fo1.app.context import BROKEN, told
from vlm_fo1.app.limits import Limits
from vlm_fo1.app.question import check_boxes, queries_of
from vlm_fo1.errors import FO1Error, ItemError, item_errors
from vlm_fo1.fo1 import FO1
from vlm_fo1.formats.boxes import given_regions
from vlm_fo1.formats.coco import data_set
from vlm_fo1.images import image_frame
from vlm_fo1.tasks import MAX_NEW_TOKENS, Request

logger = logging.getLogger(__name__)

TITLES = ("Image", "Answer", "Count", "Regions", "Problems")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one image."""

    file: str
    answer: Answer | None = None
    error: str = ""

    def cells(self) -> list[str]:
        """The row as plain text, in the order of `TITLES`."""
        if self.answer is None:
            return [self.file, "", "", "", self.error]
        answer = self.answer
        found = [
            f"{mention.label}: {', '.join(map(str, mention.indices)) or 'none'}"
            for mention in answer.mentions
        ]
        count = "" if answer.count is None else str(answer.count)
        plain = answer.plain if len(answer.plain) <= 200 else answer.plain[:199] + "…"
        return [self.file, plain, count, "; ".join(found), "; ".join(answer.problems)]


def ask_all(
    fo1: FO1,
    images: Sequence[Path],
    request: Request,
    limits: Limits,
    *,
    boxes: Any = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    report: Callable[[Row | str], None],
) -> None:
    """Ask the same of every image; one that fails is a row with its reason.

    Args:
        fo1: With the proposer to be used, if boxes are not given.
        images: Uploaded files.
        request: The question.
        limits: Of every image.
        boxes: What `given_regions` finds an image in, by file name; None asks the proposer.
        max_new_tokens: Length limit of each answer.
        report: Gets each row, and an empty text now and then meanwhile; it may raise to stop.
    """

    def item(path: Path) -> tuple[Any, Request, Any]:
        with item_errors(path.name):
            image, given = limits.image(path), None
            if boxes is not None:
                given = given_regions(boxes, image_frame(path), image=path.name)
            check_boxes(fo1, given, request)
            return image, request, given

    answers = fo1.answer_many(
        (partial(item, path) for path in images),
        queries=queries_of(request),
        max_new_tokens=max_new_tokens,
        on_step=lambda: report(""),
    )
    with closing(answers):
        for path, answer in zip(images, answers, strict=True):
            report(_row(path.name, answer))


def _row(name: str, answer: Answer | FO1Error) -> Row:
    if isinstance(answer, Answer):
        return Row(file=name, answer=answer)
    cause = answer.__cause__ if isinstance(answer, ItemError) else answer
    if cause is not answer:
        logger.warning("%s: %s", name, answer)
    return Row(file=name, error=(cause and told(cause)) or BROKEN)


def write(rows: Sequence[Row], folder: Path) -> tuple[Path, Path]:
    """The rows as files.

    Args:
        rows: Finished ones.
        folder: An existing folder.

    Returns:
        ``answers.jsonl``, one line an image, and ``coco.json``, a COCO data set with scores that
        leaves out images that failed.
    """
    lines = folder / "answers.jsonl"
    with lines.open("w", encoding="utf-8") as file:
        for row in rows:
            said = {"error": row.error} if row.answer is None else row.answer.to_dict()
            file.write(json.dumps({"file": row.file, **said}, ensure_ascii=False) + "\n")
    coco = folder / "coco.json"
    answers = [(row.file, row.answer) for row in rows if row.answer is not None]
    coco.write_text(json.dumps(data_set(answers), ensure_ascii=False), encoding="utf-8")
    return lines, coco
