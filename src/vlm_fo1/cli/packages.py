"""What is installed, and the one command that adds what is not.

Nothing heavy is imported into this process: a package that is broken enough to crash on import is
what a doctor has to survive, so imports are tried in a process of their own.
"""

import importlib.metadata
import importlib.resources
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vlm_fo1._extras import untested_transformers

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "vlm-fo1"
PYTHON_NEEDED = (3, 11)
PROBE_TIMEOUT_S = 120

Group = Literal["machine", "package", "extra", "option"]
"""What a check is about: things of one group that are in order are told in one line."""

_TRANSFORMERS_PROBE = "from transformers import Qwen2_5_VLForConditionalGeneration"
_TORCH_PROBE = "import torch"
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
    group: Group = "machine"


def package_checks() -> Iterator[Check]:
    """Python, the packages that inference needs, and those it can use."""
    yield _python()
    core, extras = _requirements()
    if not core:
        yield Check(
            name=PACKAGE,
            ok=False,
            detail="not installed, so its requirements are unknown",
            remedy="pip install -e .",
            required=True,
            group="package",
        )
        return
    torchvision = _torchvision()
    probes = {"torch": _TORCH_PROBE}
    if torchvision.ok:  # a broken one breaks transformers, and reinstalling that would not help
        probes["transformers"] = _TRANSFORMERS_PROBE
    for requirement in core:
        yield _dependency(requirement, probes.get(requirement.name))
    yield torchvision
    yield _bundled_model()
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
        group="package",
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
    if requirement.name == "transformers":
        detail = untested_transformers() or detail
    if not fault and probe:
        imported, said = run_probe(probe)
        if not imported:
            fault = f"{version}, but it cannot be imported: {said}"
            remedy = remedy.replace("install", "install --force-reinstall", 1)
    return Check(
        name=requirement.name,
        ok=not fault,
        detail=fault or detail,
        remedy=remedy if fault else "",
        required=True,
        group="package",
    )


def _torchvision() -> Check:
    """It is not needed, but a broken one takes transformers down with it."""
    version = _version("torchvision")
    ok, said = (True, "") if version is None else run_probe(_TORCHVISION_PROBE)
    detail = "not installed, and not needed" if version is None else f"{version}, not needed"
    if not ok:
        detail = f"{version} does not fit this torch, and transformers fails with it: {said}"
    return Check(
        name="torchvision",
        ok=ok,
        detail=detail,
        remedy="" if ok else "pip uninstall -y torchvision",
        required=True,
        group="package",
    )


def _bundled_model() -> Check:
    folder = importlib.resources.files("vlm_fo1") / "assets" / "tiny"
    ok = (folder / "config.json").is_file()
    return Check(
        name="bundled model",
        ok=ok,
        detail="'tiny' is there" if ok else "'tiny' is missing; other checkpoints still load",
        remedy="" if ok else f"pip install --force-reinstall --no-deps {PACKAGE}",
        group="package",
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
        group="extra",
    )


def _optional(name: str, purpose: str, remedy: str) -> Check:
    """A package that is used when it is there."""
    version = _version(name)
    return Check(
        name=name,
        ok=version is not None,
        detail=version or f"not installed; {purpose}",
        remedy="" if version else remedy,
        group="option",
    )


def run_probe(code: str) -> tuple[bool, str]:
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
