"""`fo1 segment`."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from vlm_fo1.cli import options
from vlm_fo1.cli.images import check_apart, check_words
from vlm_fo1.cli.running import Files, answer_images, load_fo1, load_offering, one_by_one, shown
from vlm_fo1.tasks import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from vlm_fo1.answer import Answer
    from vlm_fo1.cli.running import Answers


def command(
    image: options.Image,
    phrase: options.Phrase,
    proposer: options.Offering,
    query: options.OneQuery = None,
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
        check_apart(out, save)
        check_words([phrase])

        def load(_: bool) -> "Callable[[Sequence[Path]], Answers]":
            from vlm_fo1.proposals import ON_IMAGES

            how = {"device": device, "dtype": dtype, "token": token}
            least = ON_IMAGES.unsure_min_score
            offering = load_offering(proposer, errors, least=least, **how)
            fo1 = load_fo1(model, errors, revision=revision, strict=strict, **how)
            ask = partial(
                fo1.segment,
                phrase=phrase,
                proposer=offering,
                query=query,
                max_new_tokens=max_new_tokens,
            )
            return one_by_one(ask)

        question = {"task": "segment", "phrase": phrase, "query": query, "tokens": max_new_tokens}
        answer_images(
            Files(image, out, save, unchosen, as_json, fresh),
            [question, proposer, model, revision, dtype],
            load,
            errors,
            doing="segmenting",
            columns=("label", "box (x1, y1, x2, y2)", "score", "pixels"),
            rows=_rows,
            record=lambda answer: {"segments": _segments(answer)},
        )


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


def _rows(answer: "Answer") -> Iterator[tuple[str, ...]]:
    chosen = answer.chosen
    for index, box in enumerate(chosen.xyxy.tolist()):
        yield (
            chosen.labels[index] if chosen.labels else "",
            ", ".join(f"{value:.1f}" for value in box),
            "" if chosen.scores is None else f"{chosen.scores[index]:.2f}",
            "" if chosen.masks is None else str(int(chosen.masks[index].sum())),
        )
