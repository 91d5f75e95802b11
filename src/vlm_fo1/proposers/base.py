"""What a proposer is, which ones there are by name, and how their boxes are thinned.

A proposer offers everything it found, best first; `select` alone drops boxes.
"""

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlm_fo1.boxes import nms
from vlm_fo1.errors import BoxError, ConfigError, PromptError
from vlm_fo1.regions import Regions

ENTRY_POINTS = "vlm_fo1.proposers"
"""Entry-point group where other packages register proposers."""

_CLASSES = {
    "tiny": "vlm_fo1.proposers.bundled:BundledProposer",
    "upn": "vlm_fo1.proposers.upn:UPNProposer",
    "hf": "vlm_fo1.proposers.hf.proposer:DetectorProposer",
    "sam3": "vlm_fo1.proposers.sam3:SAM3Proposer",
    "ocr": "vlm_fo1.proposers.ocr:TextProposer",
    "selective": "vlm_fo1.proposers.selective_search:SelectiveSearch",
}
"""Name to ``module:Class``; the class has ``from_pretrained(argument, **options)``."""


@runtime_checkable
class Proposer(Protocol):
    """Offers regions of images; safe to use from several threads.

    One whose scores need other thresholds than most has an attribute ``selection`` in place of
    `DEFAULT_SELECTION`: `vlm_fo1.FO1` goes by it unless told otherwise.
    """

    @property
    def name(self) -> str:
        """What stands before the colon in `load_proposer`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same image may get other regions: weights, versions, settings."""
        ...

    @property
    def requires_labels(self) -> bool:
        """Whether it looks for named things: then queries are needed, else they are refused."""
        ...

    def propose(
        self, images: Sequence[Image.Image], *, queries: Sequence[str] | None = None
    ) -> list[Regions]:
        """Regions of each image.

        Args:
            images: Upright RGB images of any sizes; not changed.
            queries: Names of what to look for, the same for all images.

        Returns:
            One `Regions` per image: float32 xyxy in pixels of that image, within it, best first,
            with scores where the proposer has some; empty where nothing was found. Nothing is
            dropped by score, overlap or number: `select` does that.

        Raises:
            PromptError: Queries are missing, or given to a proposer that takes none.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of the offered boxes go to the model."""

    min_score: float = 0.0
    """Boxes with a lower score are dropped; boxes without scores stay."""
    nms_iou: float | None = None
    """Boxes that overlap a better one more than this are dropped; None keeps them."""
    limit: int | None = None
    """Greatest number of boxes; None keeps all."""
    whole_pixels: bool = False
    """Cut coordinates to whole pixels and round scores to two decimals, as the released UPN
    pipeline hands them on; boxes that vanish by it are dropped."""

    def __post_init__(self) -> None:
        """Refuse thresholds that cannot be.

        Raises:
            ConfigError: An overlap outside [0, 1], or a limit below 1.
        """
        if self.nms_iou is not None and not 0 <= self.nms_iou <= 1:
            raise ConfigError(f"nms_iou = {self.nms_iou} must be an IoU: from 0 to 1, or None")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit = {self.limit}: at least 1 box, or None for all")


DEFAULT_SELECTION = Selection(min_score=0.3, nms_iou=0.8, limit=300)
"""What `vlm_fo1.FO1` uses of the boxes of a proposer that says nothing else: score and overlap as
the authors filter UPN's, and as many as three questions hold."""


def selection_of(proposer: Proposer) -> Selection:
    """Which of a proposer's boxes are used unless the user says otherwise."""
    own = getattr(proposer, "selection", None)
    return own if isinstance(own, Selection) else DEFAULT_SELECTION


def select(regions: Regions, selection: Selection) -> Regions:
    """Drop boxes by score, overlap and number, in that order.

    Args:
        regions: As a proposer gave them. Without scores their order counts as the ranking.
        selection: What to keep.

    Returns:
        The rest, best first.
    """
    if regions.scores is not None:
        order = regions.order()
        regions = regions[order[regions.scores[order] >= selection.min_score]]
    if selection.nms_iou is not None and len(regions):
        ranks = -np.arange(len(regions), dtype=np.float64)  # already best first
        regions = regions[nms(regions.xyxy, ranks, selection.nms_iou)]
    if selection.limit is not None:
        regions = regions[: selection.limit]
    return _whole(regions) if selection.whole_pixels else regions


def _whole(regions: Regions) -> Regions:
    xyxy = np.trunc(regions.xyxy)
    scores = None if regions.scores is None else np.round(regions.scores, 2)
    there = np.flatnonzero((xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1]))
    whole = Regions(xyxy, regions.size_wh, scores, None, regions.labels, regions.masks)
    return whole[there]


def load_proposer(
    name: "str | Path | Proposer",
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    strict: bool | None = None,
    **options: Any,
) -> Proposer:
    """Make a proposer by name.

    Args:
        name: ``"upn:resources/upn_large.pth"``, ``"hf:PekingU/rtdetr_v2_r50vd"``, ``"ocr"``, ...: a
            name of `names()` and, after a colon, what that proposer loads; a Hub id may be followed
            by ``@`` and a revision. A proposer is returned as it is.
        revision: Branch, tag or commit, for what comes from the Hub.
        token: Access token of the Hub; proposers that load nothing from there do without.
        strict: Refuse weights with tensors that are not used, where the proposer can tell.
        **options: ``device``, ``dtype`` and what the proposer's ``from_pretrained`` takes.

    Raises:
        ConfigError: No such proposer (the message has the nearest name), two revisions, or one for
            a proposer that takes none.
        MissingExtraError: It needs a package that is not installed.
    """
    if isinstance(name, Proposer):
        return name
    kind, _, argument = str(name).partition(":")
    known = _known()
    if kind not in known:
        near = get_close_matches(kind, known, n=1, cutoff=0.0)
        raise ConfigError(
            f"there is no proposer {kind!r}{f', did you mean {near[0]!r}?' if near else ''} "
            f"Known: {', '.join(sorted(known))}; what it loads follows a colon, e.g. upn:PATH"
        )
    module, _, attribute = known[kind].partition(":")
    load = getattr(importlib.import_module(module), attribute).from_pretrained
    argument, revision = _revised(argument, revision)
    taken = inspect.signature(load).parameters
    if revision is not None and "revision" not in taken:
        raise ConfigError(f"the proposer {kind} takes no revision, got {revision!r}: leave it out")
    offered = {"revision": revision, "token": token, "strict": strict}
    options |= {key: value for key, value in offered.items() if value is not None and key in taken}
    return load(argument, **options)


def _revised(argument: str, revision: str | None) -> tuple[str, str | None]:
    """A Hub id without its ``@revision``, and the revision.

    Raises:
        ConfigError: Another one was given as well.
    """
    hub_id, at, own = argument.rpartition("@")
    if not at:
        return argument, revision
    from vlm_fo1.hub import is_hub_id  # takes a while to import

    if not is_hub_id(hub_id) or Path(argument).exists():
        return argument, revision
    if revision not in {None, own}:
        raise ConfigError(f"{argument} and revision = {revision!r}: name one revision")
    return hub_id, own


def default_proposer(model: str | Path) -> str | None:
    """The proposer that comes with a model, None for models that have none.

    Args:
        model: What `FO1.from_pretrained` loads: the bundled ``"tiny"`` has the bundled proposer.
    """
    module = _CLASSES["tiny"].partition(":")[0]
    return "tiny" if str(model) == "tiny" and find_spec(module) is not None else None


def names() -> list[str]:
    """Names that `load_proposer` knows, those of other packages included."""
    return sorted(_known())


def _known() -> dict[str, str]:
    found = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
    return {**found, **_CLASSES}


def check_queries(name: str, queries: Sequence[str] | None, *, needed: bool) -> list[str]:
    """The queries as a list, or a clear refusal.

    Raises:
        PromptError: None where some are needed, some where none are taken, or an empty one.
    """
    if isinstance(queries, str):
        queries = [queries]
    if not needed:
        if queries is not None:
            raise PromptError(
                f"{name} finds things whatever they are called: leave out queries={list(queries)}"
            )
        return []
    if not queries:
        raise PromptError(f"{name} looks for named things: pass queries=['orange', ...]")
    for index, query in enumerate(queries):
        if not isinstance(query, str) or not query.strip():
            raise PromptError(f"query {index} is {query!r}: name the thing to look for")
    return [query.strip() for query in queries]


def ranked(
    boxes_xyxy: Any,
    scores: Any,
    size_wh: tuple[int, int],
    *,
    name: str,
    labels: Sequence[str] | None = None,
    masks: npt.NDArray[np.bool_] | None = None,
) -> Regions:
    """Boxes of a detector as `Regions`: within the image, best first, empty ones dropped.

    Args:
        boxes_xyxy: (N, 4) pixels, perhaps beyond the image.
        scores: (N,).
        size_wh: Width and height of the image in pixels.
        name: Of the proposer, for the message.
        labels: N names, or None.
        masks: (N, H, W) bool, or None.

    Raises:
        BoxError: A box or a score is not a finite number: broken weights, or an overflow.
    """
    xyxy = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    values = np.asarray(scores, np.float32).reshape(-1)
    bad = np.flatnonzero(~(np.isfinite(xyxy).all(1) & np.isfinite(values)))
    if len(bad):
        raise BoxError(
            f"{name} returned {len(bad)} of {len(xyxy)} boxes that are no numbers: its weights are "
            "broken or overflowed; try dtype='float32'"
        )
    width, height = size_wh
    xyxy = np.clip(xyxy, 0, np.array([width, height, width, height], np.float32))
    order = np.argsort(-values, kind="stable")
    has_area = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    order = order[has_area[order]]
    return Regions(
        xyxy[order],
        size_wh,
        values[order],
        labels=None if labels is None else tuple(labels[int(i)] for i in order),
        masks=None if masks is None else masks[order],
    )
