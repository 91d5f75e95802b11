"""What answers to held-out questions are worth: counts an answer adds, and figures from their sums.

A figure is a formula of sums, so processes add up what each counted and all get the same figures.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from types import MappingProxyType

from vlm_fo1.answer import Answer
from vlm_fo1.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What answers to questions of one task come to; sums over the questions."""

    questions: float | int = 0
    exact: float | int = 0
    """Answers that are right in every respect."""
    hits: float | int = 0
    """Regions that were pointed at and should be; of a detection question, with their label."""
    pointed: float | int = 0
    """Regions that were pointed at."""
    wanted: float | int = 0
    """Regions that should be."""
    absent: float | int = 0
    """Labels that were asked for and have no region."""
    silent: float | int = 0
    """Those of them that the answer gives no region."""
    off: float | int = 0
    """By how much counts are wrong, without sign."""
    words: float | int = 0
    """What two texts share: 2 x common words / words of both."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts.of([a + b for a, b in zip(astuple(self), astuple(other), strict=True)])

    @classmethod
    def of(cls, values: Sequence[float | int]) -> "Counts":
        """From one number a field, in their order."""
        return cls(**dict(zip(cls.__dataclass_fields__, values, strict=True)))


Formula = Callable[[Counts], float | None]

FORMULAS: Mapping[str, Formula] = MappingProxyType(
    {
        "f1": lambda c: _share(2 * c.hits, c.pointed + c.wanted),
        "precision": lambda c: _share(c.hits, c.pointed),
        "recall": lambda c: _share(c.hits, c.wanted),
        "absent": lambda c: _share(c.silent, c.absent),
        "exact": lambda c: _share(c.exact, c.questions),
        "error": lambda c: _share(c.off, c.questions),
        "words": lambda c: _share(c.words, c.questions),
    }
)
"""Figure to its formula, None where there is nothing to measure.

- ``f1`` = 2 hits / (pointed + wanted), ``precision`` = hits / pointed, ``recall`` = hits / wanted,
  over the regions of all questions together;
- ``absent`` = absent labels answered with nothing / absent labels;
- ``exact`` = answers right in every respect / questions: the same regions for every label, the
  same number, the same text (`normalised`);
- ``error`` = mean of |number said - number right|, where less is better;
- ``words`` = mean over questions of 2 x common words / words of both texts.
"""

FIGURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        Task.DETECTION: ("f1", "precision", "recall", "absent"),
        Task.COUNTING: ("exact", "error", "f1"),
        Task.REFERRING: ("f1", "exact"),
        Task.VISUAL_PROMPT: ("f1", "exact"),
        Task.BRIEF_CAPTION: ("exact", "words"),
        Task.DETAILED_CAPTION: ("words", "exact"),
        Task.REGION_OCR: ("exact",),
    }
)
"""Task to its figures, the main one first. Tasks that are not here have many right answers: of them
the loss alone is measured."""

MEAN = "answers"
"""Name of the mean of the tasks' main figures."""

_SHORT = MappingProxyType(
    {
        "detection.f1": "F1",
        "counting.exact": "count",
        "detection.absent": "absent",
        "referring.f1": "refer",
        "visual_prompt.f1": "match",
        "brief_caption.exact": "caption",
        "region_ocr.exact": "OCR",
    }
)


def judge(truth: Answer, said: Answer) -> Counts:
    """What one answer adds.

    Args:
        truth: The answer of the record.
        said: That of the model, about the same regions.

    Returns:
        The counts of one question; ``exact`` says whether it is right.
    """
    task = truth.task
    if task in (Task.BRIEF_CAPTION, Task.DETAILED_CAPTION, Task.REGION_OCR):
        ours, theirs = normalised(said.plain), normalised(truth.plain)
        return Counts(questions=1, exact=ours == theirs, words=_common(ours, theirs))
    labelled = task == Task.DETECTION
    pointed, wanted = _pointed(said, labelled=labelled), _pointed(truth, labelled=labelled)
    right, off = pointed == wanted, 0.0
    if said.count is not None and truth.count is not None:
        right, off = said.count == truth.count, abs(said.count - truth.count)
    absent = set(truth.labels) - {label for label, _ in wanted} if labelled else set[str]()
    return Counts(
        questions=1,
        exact=right,
        hits=len(pointed & wanted),
        pointed=len(pointed),
        wanted=len(wanted),
        absent=len(absent),
        silent=len(absent - {label for label, _ in pointed}),
        off=off,
    )


def figures_of(counts: Mapping[str, Counts]) -> dict[str, float]:
    """Figures by name (``detection.f1``) and their mean (`MEAN`).

    Args:
        counts: Of each task; one without questions gives nothing.

    Returns:
        What can be measured; empty without questions.
    """
    found: dict[str, float] = {}
    main: list[float] = []
    for task, names in FIGURES.items():
        values = {name: FORMULAS[name](counts.get(task, Counts())) for name in names}
        found |= {f"{task}.{name}": v for name, v in values.items() if v is not None}
        first = values[names[0]]
        main += [] if first is None else [first]
    return found | ({MEAN: sum(main) / len(main)} if main else {})


def summary(figures: Mapping[str, float]) -> str:
    """The figures that people look at first, short: ``F1 0.83 count 0.75 absent 0.98``."""
    return " ".join(
        f"{short} {figures[name]:.2f}" for name, short in _SHORT.items() if name in figures
    )


def normalised(text: str) -> str:
    """A text as it is compared: without regard to case, white space and a full stop at its end."""
    return " ".join(text.casefold().split()).removesuffix(".")


def _pointed(answer: Answer, *, labelled: bool) -> set[tuple[str, int]]:
    """Regions an answer points at, each with its label if that matters."""
    return {
        (mention.label if labelled else "", index)
        for mention in answer.mentions
        for index in mention.indices
    }


def _common(a: str, b: str) -> float:
    """2 x common words / words of both; of two empty texts 1."""
    ours, theirs = Counter(a.split()), Counter(b.split())
    both = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / both if both else 1.0


def _share(part: float | int, whole: float | int) -> float | None:
    return part / whole if whole else None


def flat(counts: Mapping[str, Counts]) -> list[float]:
    """The counts of every task as one list, the same length whatever was asked."""
    return [float(value) for task in FIGURES for value in astuple(counts.get(task, Counts()))]


def from_flat(values: Iterable[float]) -> dict[str, Counts]:
    """Inverse of `flat`."""
    numbers, width = list(values), len(Counts.__dataclass_fields__)
    return {
        task: Counts.of(numbers[at * width : (at + 1) * width]) for at, task in enumerate(FIGURES)
    }
