"""Sections in processes that may fail, hang or be ended, each of which costs one section alone."""

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.report import Row, Section

_LOOK_S = 0.2

Budgets = Mapping[str, float]
"""Sections in order, and the seconds that each may take."""
CommandOf = Callable[[Budgets, Path], list[str]]
"""The command of a process that runs some sections and tells of them in a file."""


@dataclass
class Told:
    """What processes have told."""

    about: dict[str, Any] = field(default_factory=dict[str, Any])
    """The machine and the versions."""
    sections: list[Section] = field(default_factory=list[Section])
    """In order; the last one may still be running."""
    problem: str = ""
    """Why nothing can be measured here at all."""


def supervise(
    budgets_s: Budgets,
    command_of: CommandOf,
    *,
    alone: AbstractSet[str],
    grace_s: float,
    end_s: float,
    folder: Path,
    watch: Callable[[Told], None],
) -> Told:
    """Run all sections; one that fails ends its process, and the others go on in a new one.

    Args:
        budgets_s: What is to be run.
        command_of: See `CommandOf`.
        alone: Sections that get a process of their own.
        grace_s: A process that needs so much longer than it may is ended.
        end_s: When all must be over, as `time.time` tells it; sections left then are not begun.
        folder: For the files of events.
        watch: Called with all that is known whenever there is more.
    """
    told, waiting = Told(), dict(budgets_s)
    while waiting and not told.problem:
        if time.time() >= end_s:
            told.sections += [_not_run(name, "no time was left") for name in waiting]
            break
        some = _together(waiting, alone)
        events = folder / f"events-{len(waiting)}.jsonl"
        before = told
        for found in _follow(command_of(some, events), some, events, end_s, grace_s):
            sections = [*before.sections, *found.sections]
            told = Told(found.about or before.about, sections, found.problem)
            watch(told)
        for section in told.sections:
            waiting.pop(section.name, None)
    watch(told)
    return told


def collect(lines: Iterable[str]) -> Told:
    """Events of one process, a JSON object a line.

    ``about`` brings the machine, ``none`` why nothing can be measured; ``begin`` a section, ``row``
    a figure of it, ``end`` its problem (empty where all went well) and seconds.
    """
    told = Told()
    for line in lines:
        event = json.loads(line)
        kind = event.pop("kind")
        if kind == "about":
            told.about = event
        elif kind == "none":
            told.problem = event["problem"]
        elif kind == "begin":
            told.sections.append(Section(event["name"], began_s=event["at"]))
        elif kind == "row":
            told.sections[-1].rows.append(Row(**event))
        else:
            section = told.sections[-1]
            section.problem, section.seconds = event["problem"], event["seconds"]
            section.over = True
    return told


def _together(waiting: Budgets, alone: AbstractSet[str]) -> dict[str, float]:
    """The next sections that may share a process."""
    some: dict[str, float] = {}
    for name, budget_s in waiting.items():
        if some and (name in alone or not alone.isdisjoint(some)):
            break
        some[name] = budget_s
    return some


def _follow(
    command: list[str], some: Budgets, events: Path, end_s: float, grace_s: float
) -> Iterable[Told]:
    """What one process has told, again and again until it is over."""
    events.touch()
    process = subprocess.Popen(command)
    known, since_s, ended = "", time.time(), ""
    try:
        while process.poll() is None:
            time.sleep(_LOOK_S)
            text = events.read_text(encoding="utf-8").rpartition("\n")[0]
            if text != known:
                known, since_s = text, time.time()
                yield collect(known.splitlines())
            running = _running(collect(known.splitlines()))
            budget_s, begun_s = 0.0, since_s
            if running is not None:
                budget_s, begun_s = some[running.name], running.began_s
            if time.time() > min(begun_s + budget_s, end_s) + grace_s:
                ended = f"it was ended after {time.time() - begun_s:.0f} s"
                process.kill()
                break
    finally:
        process.kill()
        process.wait()
    told = collect(events.read_text(encoding="utf-8").rpartition("\n")[0].splitlines())
    problem = ended or f"its process ended with code {process.returncode}"
    running = _running(told)
    if running is not None:
        running.problem, running.over = problem, True
        running.seconds = time.time() - running.began_s
    elif not told.sections and not told.problem:
        told.sections.append(_not_run(next(iter(some)), problem))
    yield told


def _running(told: Told) -> Section | None:
    return told.sections[-1] if told.sections and not told.sections[-1].over else None


def _not_run(name: str, problem: str) -> Section:
    return Section(name, problem=problem, over=True)
