"""What answers are worth, as a report prints it: values by name, with what resampling needs."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from vlm_fo1.eval.metrics import bootstrap
from vlm_fo1.eval.metrics.tally import Resampled, Score

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Part:
    """Some values of a score.

    Args:
        score: What a metric gives: what can be resampled, or only values.
        prefix: Stands before each name, where several parts have the same names.
        scale: What values are multiplied by: shares are printed per cent.
        records: The records that a score to be resampled is about, by position; None for all. Of
            records that are drawn together one may stand for all.
        words: Whether the words of an answer decide it, so that no boxes set it a limit.
    """

    score: Resampled | Mapping[str, float | None]
    prefix: str = ""
    scale: float = 100.0
    records: Sequence[int] | None = None
    words: bool = False

    def values(self) -> Mapping[str, float | None]:
        """The values, as shares."""
        return self.score if isinstance(self.score, Mapping) else self.score.score()

    def name(self, key: str) -> str:
        """The name that a value of this part has in the report."""
        return f"{self.prefix} {key}" if self.prefix else key


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All that a judge says."""

    parts: tuple[Part, ...]
    """In the order in which they are printed."""
    notes: tuple[str, ...] = ()
    """What a reader has to know of this run: "12 answers had several boxes"."""
    errors: Sequence[float] | None = None
    """How wrong each record is, 0 for right, by which the gallery is chosen; None to count the
    boxes that are too many or missing."""
    counts: Sequence[tuple[int, int]] = ()
    """Right and answered number of each record, where things are counted."""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """More that the report writes, by file name: what a judge beside us shall be asked."""

    @property
    def values(self) -> Score:
        """Every value by its name, shares in per cent."""
        result: Score = {}
        for part in self.parts:
            for key, value in part.values().items():
                result[part.name(key)] = None if value is None else value * part.scale
        return result

    @property
    def values_of_boxes(self) -> Score:
        """Those of `values` that boxes decide."""
        words = {p.name(key) for p in self.parts if p.words for key in p.values()}
        return {name: value for name, value in self.values.items() if name not in words}

    def intervals(
        self, groups: Sequence[str], samples: int = 1000, seed: int = 0
    ) -> dict[str, tuple[float, float] | None]:
        """95 % intervals of the values that can be resampled, by name.

        Args:
            groups: What is drawn together, one key a record: their images.
            samples: Number of resamples.
            seed: Equal seeds give equal intervals.
        """
        result: dict[str, tuple[float, float] | None] = {}
        for part in self.parts:
            if not isinstance(part.score, Mapping):
                places = range(len(groups)) if part.records is None else part.records
                own = [groups[place] for place in places]
                ends = bootstrap(part.score.score, len(own), groups=own, samples=samples, seed=seed)
                for key, both in ends.items():
                    scaled = None if both is None else (both[0] * part.scale, both[1] * part.scale)
                    result[part.name(key)] = scaled
        return result


def places_of(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """Where each key stands, in the order in which they occur."""
    found: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return found
