"""`fo1 doctor`: what is installed, which weights fit here, and what to do about the rest."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_fo1.cli.fitting import BUNDLED, MODELS, RELEASED, Fit, fit
from vlm_fo1.cli.machine import look_at_machine
from vlm_fo1.cli.packages import Check, package_checks

_DEVICES = {"cpu": "the CPU", "cuda": "the GPU"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was looked at."""

    checks: tuple[Check, ...]
    """Packages first, then the machine, then what is optional."""
    fits: tuple[Fit, ...]
    """One a known model."""

    @property
    def can_run(self) -> bool:
        """True when no required check failed."""
        return all(check.ok for check in self.checks if check.required)

    def ok(self, model: str | None = None) -> bool:
        """Whether something runs here, or one model does.

        Args:
            model: Its name in `MODELS`; any of them if left out.
        """
        fitting = [found for found in self.fits if model in {None, found.model}]
        return self.can_run and any(found.runs for found in fitting)


def doctor() -> Report:
    """Look at everything that inference needs or can use."""
    machine = look_at_machine()
    checks = [*package_checks(), *machine.checks]
    order = ("package", "machine", "extra", "option")
    return Report(
        checks=tuple(sorted(checks, key=lambda check: order.index(check.group))),
        fits=tuple(fit(model, machine.places, machine.around) for model in MODELS),
    )


def command(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Let the exit code tell of this model alone: "
            f"{', '.join(known.name for known in MODELS)}.",
            show_default="any of them",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all of it as JSON, for a program to read.")
    ] = False,
) -> None:
    """Say what is installed, which weights fit this machine, and what to do about the rest.

    Exit code 0: the packages are in order and a model runs here, the bundled one at least; with
    --model, that one: it fits, and its weights are here or can be fetched. Exit code 1: not so.

    fo1 doctor --model omlab/VLM-FO1_Qwen2.5-VL-3B-v01
    """
    wanted = None if model is None else _known(model)
    with Console(stderr=True).status("looking around"):
        report = doctor()
    ok = report.ok(wanted)
    if as_json:
        told = {"ok": ok, **asdict(report)}
        told["fits"] = [{**asdict(found), "runs": found.runs} for found in report.fits]
        typer.echo(json.dumps(told, indent=2))
    else:
        _show(report, wanted, Console())
    _end(ok)


def _known(model: str) -> str:
    """The name in `MODELS` of what a user calls by that or by its repository.

    Raises:
        typer.BadParameter: None of them.
    """
    for known in MODELS:
        if model in {known.name, *known.repositories}:
            return known.name
    names = ", ".join(known.name for known in MODELS)
    raise typer.BadParameter(f"{model!r} is none of {names}", param_hint="--model")


def _end(ok: bool) -> None:
    """Leave with the exit code.

    Raises:
        typer.Exit: Not everything is in order.
    """
    if not ok:
        raise typer.Exit(code=1)


def _show(report: Report, model: str | None, console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    for check in _in_short(report.checks):
        mark = ("ok", "green") if check.ok else ("FAIL", "red") if check.required else ("-", "dim")
        table.add_row(Text(*mark), Text(check.name), Text(check.detail))
    console.print(table)
    console.print()
    console.print(_table_of(report.fits))
    failed = [check for check in report.checks if not check.ok and check.remedy]
    needed = [(check.name, check.remedy) for check in failed if check.required]
    useful = [(check.name, check.remedy) for check in failed if not check.required]
    useful += [(found.title, found.problem) for found in report.fits if found.problem]
    for title, remedies in (("To make it run:", needed), ("If you want it:", useful)):
        if remedies:
            console.print(f"\n{title}")
        width = max((len(name) for name, _ in remedies), default=0)
        for name, remedy in remedies:  # never wrapped: a command has to survive copying
            console.print(Text(f"  {name:{width}}  {remedy}"), soft_wrap=True)
    console.print()
    for line in _verdict(report, model):
        console.print(Text(line), soft_wrap=True)


def _in_short(checks: Iterable[Check]) -> list[Check]:
    """The checks with those of a group that are in order told in one row."""
    rows: list[Check] = []
    heads = {"package": "packages", "extra": "extras"}
    for group in ("package", "machine", "extra", "option"):
        these = [check for check in checks if check.group == group]
        good = [check for check in these if check.ok]
        if group in heads and good:
            named = [
                f"{check.name} {check.detail}"
                for check in good
                if check.name in {"Python", "torch", "transformers"}
            ]
            names = [check.name.removeprefix("extra ") for check in good]
            detail = ", ".join(named) + f", {len(good) - len(named)} more" if named else ""
            rows.append(Check(name=heads[group], ok=True, detail=detail or ", ".join(names)))
            these = [check for check in these if not check.ok]
        rows += these
    return rows


def _table_of(fits: Iterable[Fit]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "model", "runs here on", "memory", "weights"):
        table.add_column(title, overflow="fold")
    for found in fits:
        mark = ("ok", "green") if found.runs else ("-", "dim")
        where = f"{found.device}, {found.dtype}" if found.device else "nothing"
        download = next(known.download_gb for known in MODELS if known.name == found.model)
        size = f", {download:g} GB" if download and found.weights != "downloaded" else ""
        table.add_row(
            Text(*mark),
            Text(found.title),
            Text(where),
            Text(f"{found.needs_gb:g} GB"),
            Text(found.weights + size),
        )
    return table


def _verdict(report: Report, model: str | None) -> list[str]:
    """What it all means, and the command to go on with."""
    if not report.can_run:
        return ["Inference cannot run yet."]
    by_name = {found.model: found for found in report.fits}
    wanted = by_name[model or RELEASED]
    if not wanted.runs:
        lines = [f"{wanted.title} does not run here: {wanted.problem}."]
        if wanted.model != BUNDLED and by_name[BUNDLED].runs:
            lines.append("Inference can run, with the bundled model.")
        return lines
    device = _DEVICES[wanted.device.split(":")[0]]
    lines = [f"Inference can run. {wanted.title} fits in {wanted.dtype} on {device}."]
    if wanted.model == RELEASED:
        options = f"--model {RELEASED} --device {wanted.device} --dtype {wanted.dtype}"
        lines.append(f"  fo1 detect photo.jpg orange --boxes boxes.json {options}")
    return lines
