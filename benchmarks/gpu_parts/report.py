"""What was measured, as rows, and as the tables and the file that they are told in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure."""

    name: str
    value: float
    unit: str
    """What ends in ``/s`` is better when larger, all else when smaller."""
    official: float | None = None
    """The same done in the official way in the same process; None where it has no such thing."""
    bar: float | None = None
    """What `value` is to reach at the released sizes on a GPU."""
    bar_ratio: float | None = None
    """How many times better than the official way it is to be."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better than the official way."""
        if self.official is None:
            return None
        return self.value / self.official if self._is_rate else self.official / self.value

    @property
    def met(self) -> bool | None:
        """Whether the bars are reached; None without one."""
        found: list[bool] = []
        if self.bar is not None:
            found.append(self.value >= self.bar if self._is_rate else self.value <= self.bar)
        if self.bar_ratio is not None and self.ratio is not None:
            found.append(self.ratio >= self.bar_ratio)
        return all(found) if found else None

    @property
    def _is_rate(self) -> bool:
        return self.unit.endswith("/s")


@dataclass
class Section:
    """What became of one section."""

    name: str
    rows: list[Row] = field(default_factory=list[Row])
    problem: str = ""
    """Why it did not come to its end; its rows up to there stand."""
    seconds: float = 0.0
    began_s: float = 0.0
    """As `time.time` tells it."""
    over: bool = False


def write(path: Path, about: Mapping[str, Any], sections: Sequence[Section], *, bars: bool) -> None:
    """Write the figures as JSON and, beside it, as Markdown.

    Args:
        path: The JSON file; its folder is made if needed.
        about: The machine, the versions and the sizes.
        sections: In order.
        bars: Whether the sizes are those that the bars are for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    told = [
        {
            **asdict(section),
            "rows": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in section.rows],
        }
        for section in sections
    ]
    text = json.dumps({**about, "sections": told}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(about, sections, bars=bars), encoding="utf-8")


def markdown(about: Mapping[str, Any], sections: Sequence[Section], *, bars: bool) -> str:
    """The same for people."""
    lines = [f"{', '.join(f'{key} {value}' for key, value in about.items())}.", ""]
    lines += [f"| section | figure | ours | official way | times better |{' bar |' * bars} note |"]
    lines += ["| --- " * (6 + bars) + "|"]
    for section in sections:
        lines += [_line(section.name, row, bars=bars) for row in section.rows]
    lines += [
        f"\n`{section.name}` did not come to its end after {section.seconds:.0f} s: "
        f"{section.problem}"
        for section in sections
        if section.problem
    ]
    return "\n".join(lines) + "\n"


def _line(section: str, row: Row, *, bars: bool) -> str:
    official = "" if row.official is None else f"{_short(row.official)} {row.unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.1f}x"
    cells = [section, row.name, f"{_short(row.value)} {row.unit}", official, ratio]
    if bars:
        wanted = [f"{_short(row.bar)} {row.unit}"] if row.bar is not None else []
        wanted += [f"{_short(row.bar_ratio)}x"] if row.bar_ratio is not None else []
        said = {True: ", met", False: ", **missed**", None: ""}[row.met]
        cells.append(" and ".join(wanted) + said)
    return f"| {' | '.join([*cells, row.note])} |"


def _short(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
