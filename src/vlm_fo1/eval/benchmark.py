"""What a benchmark is: a card of facts, items that are asked, and a judge of what was answered.

To add one, write a file in `vlm_fo1.eval.benchmarks` and a row of its table. The judge sees records
alone: no model, no image, no data folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlm_fo1.eval.predictions import Record
from vlm_fo1.eval.scores import Scores
from vlm_fo1.tasks import Request


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question of a benchmark."""

    id: str
    """Its name, unlike that of any other item."""
    image: Path
    request: Request
    """With the official words as its template, where those differ from the task's."""
    truth: Mapping[str, Any]
    """What is right, as plain JSON; no model sees it. ``boxes`` are objects by label, each
    (x1, y1, x2, y2) in pixels of the image; ``crowd`` are areas by label where any number of
    answers is neither right nor wrong; ``areas``, ``negative`` and ``not_exhaustive`` are what
    `average_precision` takes. The report measures proposals, sizes and the best answer that the
    proposals allow by ``boxes``. Other keys are the judge's own."""
    boxes: Any = None
    """What the model may point at, where the protocol gives boxes: anything `given_regions` takes.
    Without them the proposer of the run is asked."""
    size_wh: tuple[int, int] | None = None
    """Size of the image that the boxes are about, where a file states it: an image of another size
    is refused, and boxes of a photo as stored are turned upright with it."""
    group: str = ""
    """What is drawn together when intervals are estimated; by default the image."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Figures in print, which the report shows beside ours."""

    source: str
    """Who printed them, and what a reader must know to compare."""
    columns: tuple[str, ...]
    """Names of `Scores.values`; a name that no score has is only printed."""
    rows: Mapping[str, tuple[float | None, ...]]
    """By model, one figure a column, in the unit of `Scores.values`; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What people need to know of a benchmark."""

    title: str
    protocol: str
    """In one line: what is asked, with which boxes, how it is judged."""
    metric: str
    """The name of the main score in `Scores.values`."""
    layout: str
    """What has to stand in the data folder, in one line."""
    source: str
    """Where that comes from."""
    licence: str
    size: str = ""
    """Items, and megabytes of the download, as far as they are known."""
    needs: tuple[str, ...] = ()
    """Packages of the extra ``eval`` that the judge imports, so that they are missed before
    anything is asked rather than after."""
    tiled: bool = False
    """Whether large images are looked at in tiles; most protocols look once."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a benchmark that has none."""


NO_OPTIONS = NoOptions()


class Benchmark(Protocol):
    """A frozen dataclass; several benchmarks of one kind are values of one class."""

    @property
    def card(self) -> Card:
        """The facts."""
        ...

    @property
    def options(self) -> Any:
        """A frozen dataclass of what a user may choose, each field with a default and a doc.

        `vlm_fo1.eval.benchmarks.load_benchmark` fills it strictly from ``key=value``.
        """
        ...

    def items(self, data: Path) -> Iterator[Item]:
        """The questions, always in the same order.

        Args:
            data: The folder of the layout that the card names.

        Raises:
            EvaluationError: A file is missing or is of another form; says which is needed and from
                where. That images are there is checked by the run, for all items at once.
        """
        ...

    def judge(self, records: Sequence[Record]) -> Scores:
        """What the answers are worth; one that failed is wrong in every value.

        Args:
            records: All items with what was answered, in the order of `items`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A benchmark as somebody chose it."""

    name: str
    benchmark: Benchmark
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """All options as plain values."""
