"""Ferret-Bench: questions about boxes in free words, rated beside a reference by a language model.

The rating is not ours: requests for a judge are written beside the report, and its replies are read
back with ``--option replies=FILE --score-only``.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlm_fo1.config import read_object
from vlm_fo1.errors import EvaluationError
from vlm_fo1.eval.benchmark import Card, Item
from vlm_fo1.eval.coco import find_image
from vlm_fo1.eval.lines import read_lines
from vlm_fo1.eval.metrics import ferret_score
from vlm_fo1.eval.predictions import Record
from vlm_fo1.eval.scores import Part, Scores
from vlm_fo1.images import image_size
from vlm_fo1.tasks import Request

_NUMBER = r"\s*([0-9]*\.?[0-9]+)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_RATINGS = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)[ ,]+([0-9]+(?:\.[0-9]+)?)\s*$")
REQUESTS = "judge_requests.jsonl"
SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."


@dataclass(frozen=True, kw_only=True)
class FerretOptions:
    """What a user may choose."""

    part: Literal["refer_reason", "refer_caption", "ground_conv"] = "refer_reason"
    """Which folder; FO1 prints refer_reason."""
    replies: str = ""
    """JSON Lines of a judge, ``{"id", "reply"}``: the first line of a reply is two ratings."""


@dataclass(frozen=True, kw_only=True)
class Ferret:
    """Forty questions of a folder."""

    card: Card
    options: FerretOptions = FerretOptions()

    def items(self, data: Path) -> Iterator[Item]:
        """Each question, its boxes in brackets turned into regions.

        Raises:
            EvaluationError: A file is missing, the three do not fit, or an image is not there.
        """
        folder = data / self.options.part
        asked = list(read_lines(folder / "question.jsonl", ("question_id", "image", "text")))
        answers = [row for _, row in read_lines(folder / "answer.jsonl", ("text",))]
        contexts = [row for _, row in read_lines(folder / "context.jsonl", ())]
        if not len(asked) == len(answers) == len(contexts):
            raise EvaluationError(
                f"{folder}: {len(asked)} questions, {len(answers)} answers and {len(contexts)} "
                "contexts: one each is needed"
            )
        rules = read_object(_rule_file(data, folder), EvaluationError)
        for (where, row), answer, context in zip(asked, answers, contexts, strict=True):
            image = find_image(
                str(row["image"]), [data / "val2017", data / "images", data / "val2014", data]
            )
            if not image.is_file():
                raise EvaluationError(f"{where}: {image} is missing: boxes are shares of its size")
            width, height = image_size(image)
            text = str(row["text"])
            shares = [[float(value) for value in match.groups()] for match in _BOX.finditer(text)]
            category = str(row.get("category", self.options.part))
            yield Item(
                id=str(row["question_id"]),
                image=image,
                request=Request(
                    task="free", text=_BOX.sub("{}", text), regions=tuple(range(len(shares)))
                ),
                truth={
                    "question": text,
                    "reference": str(answer["text"]),
                    "context": _context(context),
                    "rule": _rule(rules, category, where),
                    "category": category,
                },
                boxes=[[x1 * width, y1 * height, x2 * width, y2 * height]
                       for x1, y1, x2, y2 in shares],
            )  # fmt: skip

    def judge(self, records: Sequence[Record]) -> Scores:
        """The score where a judge has replied; what it shall be asked in any case.

        Raises:
            EvaluationError: A reply is missing or about something else.
        """
        requests = "".join(json.dumps(_request(r), ensure_ascii=False) + "\n" for r in records
                           if r.answer is not None)  # fmt: skip
        if not self.options.replies:
            note = f"no score yet: have a judge reply to {REQUESTS}, then --option replies=FILE"
            return Scores(parts=(Part({"score": None}),), notes=(note,), files={REQUESTS: requests})
        replies = self._replies(Path(self.options.replies), records)
        pairs = [
            _failed_pair(replies) if record.answer is None else _ratings(replies[record.id])
            for record in records
        ]
        return Scores(parts=(Part(ferret_score(pairs), scale=1),), files={REQUESTS: requests})

    def _replies(self, path: Path, records: Sequence[Record]) -> Mapping[str, str]:
        replies = {str(row["id"]): str(row["reply"])
                   for _, row in read_lines(path, ("id", "reply"))}  # fmt: skip
        wanted = [record.id for record in records if record.answer is not None]
        missing = [id_ for id_ in wanted if id_ not in replies]
        if missing:
            raise EvaluationError(
                f"{path}: {len(missing)} of {len(wanted)} replies are missing, that to "
                f"{missing[0]!r} is the first"
            )
        return replies


def _failed_pair(replies: Mapping[str, str]) -> tuple[float, float]:
    """A failed item: our answer is rated 0, beside the mean of the reference's ratings."""
    known = [pair for pair in map(_ratings, replies.values()) if pair is not None]
    return (sum(pair[0] for pair in known) / len(known) if known else 10.0), 0.0


def _ratings(reply: str) -> tuple[float, float] | None:
    """The ratings of reference and answer in the first line of a reply; None if unreadable."""
    match = _RATINGS.match(reply.strip().partition("\n")[0])
    if match is None:
        return None
    reference, ours = float(match[1]), float(match[2])
    return (reference, ours) if max(reference, ours) <= 10 else None


def _request(record: Record) -> dict[str, Any]:
    """What a judge is asked; brackets with boxes are taken out of answers about given boxes."""
    assert record.answer is not None
    truth = record.truth
    ours = record.answer.plain
    if str(truth["category"]).startswith("refer"):
        ours = _BOX.sub("", ours)
    blocks = (
        ("Context", truth["context"], ""),
        ("Question", truth["question"], ""),
        ("Assistant 1", truth["reference"], "[End of Assistant 1]"),
        ("Assistant 2", ours, "[End of Assistant 2]"),
        ("System", truth["rule"], ""),
    )
    user = "\n\n".join(f"[{head}]\n{text}" + (f"\n\n{end}" if end else "")
                       for head, text, end in blocks)  # fmt: skip
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
    return {"id": record.id, "messages": messages, "temperature": 0.2, "max_tokens": 1024}


def _context(row: Mapping[str, Any]) -> str:
    """The context of a question, whatever its key is called."""
    texts = [value for key, value in row.items() if isinstance(value, str) and "id" not in key]
    return max(texts, key=len, default="")


def _rule_file(data: Path, folder: Path) -> Path:
    return next((f / "rule.json" for f in (folder, data) if (f / "rule.json").is_file()),
                folder / "rule.json")  # fmt: skip


def _rule(rules: Mapping[str, Any], category: str, where: str) -> str:
    """What the judge is told to look at.

    Raises:
        EvaluationError: The file has nothing of the category.
    """
    rule = rules.get(category) or rules.get("default")
    text = rule.get("prompt") if isinstance(rule, Mapping) else rule
    if not isinstance(text, str):
        raise EvaluationError(
            f"{where}: rule.json has no prompt of {category!r}; it has {', '.join(rules)}"
        )
    return text


FERRET_BENCH = Ferret(
    card=Card(
        title="Ferret-Bench",
        protocol="The boxes of a question become regions; a judge (gpt-4-0314 in print, yours "
        "here) rates the reference and our answer. 100 x our mean / the reference's; unreadable "
        "replies are left out and counted.",
        metric="score",
        layout="refer_reason/{question,answer,context}.jsonl, rule.json and val2017/",
        source="github.com/apple/ml-ferret, ferret/eval/ferret_gpt4_data; images: COCO val2017",
        licence="CC BY-NC 4.0",
        size="40 questions a part",
    )
)
