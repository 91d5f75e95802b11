"""The speed of everything on a GPU at the released sizes, beside the official way in the same run.

Weights are random and drawn on the device, images are noise: nothing is downloaded. Needed are
torch, transformers and what else the library's core needs (peft too for ``stage2-lora``), and the
sources on the path::

    PYTHONPATH=src python -m benchmarks.gpu                            # one GPU, 8 minutes at most
    PYTHONPATH=src python -m benchmarks.gpu --sections encode,decode,compiled
    PYTHONPATH=src python -m benchmarks.gpu --size tiny --device cpu --out gpu.json

It prints a table and writes it beside the JSON file of the figures, after every section. A section
that fails is told in it; its figures up to there stand, and the others go on.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.gpu_parts.processes import Budgets, Told, supervise
from benchmarks.gpu_parts.report import markdown, write

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
CHILD = "benchmarks.gpu_parts.child"

BUDGETS_S = {
    "device": 15.0, "load": 60.0, "encode": 70.0, "decode": 90.0, "compiled": 110.0,
    "labels": 45.0, "batches": 75.0, "upn": 30.0,
    "stage1": 70.0, "stage2": 70.0, "stage2-lora": 70.0,
}  # fmt: skip
"""Sections, and the seconds that each may take."""
ASKED_FOR = frozenset({"compiled"})
"""Sections that run only where they are named."""
DEFAULT_S = {name: budget for name, budget in BUDGETS_S.items() if name not in ASKED_FOR}
ALONE = frozenset({"stage1", "stage2", "stage2-lora"})
"""Sections that need all of the device's memory: none but their own process may hold some."""
GRACE_S = 45.0
"""Start and end of a process, and what cannot be interrupted."""


def _sections(text: str) -> dict[str, float]:
    names = text.split(",")
    unknown = [name for name in names if name not in BUDGETS_S]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no section {unknown[0]!r}: there are {', '.join(BUDGETS_S)}"
        )
    return {name: budget for name, budget in BUDGETS_S.items() if name in names}


def _commit() -> str:
    """What is measured; empty outside of a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; the exit code is 1 if a section failed, 2 without a device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("3b", "tiny"), default="3b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--sections",
        type=_sections,
        default=DEFAULT_S,
        help=f"of {','.join(BUDGETS_S)}; by default all but {','.join(ASKED_FOR)}",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it")
    parser.add_argument("--out", type=Path, help=f"JSON file; {RESULTS.name} at the size 3b")
    options = parser.parse_args(arguments)
    out = options.out or (RESULTS if options.size == "3b" else None)
    start_s = time.time()
    # What is begun last should come to its end too.
    end_s = start_s + 60 * options.minutes - min(GRACE_S, 6 * options.minutes)
    about = {"size": options.size, "commit": _commit() or "unknown"}

    def command_of(budgets_s: Budgets, events: Path) -> list[str]:
        command = [sys.executable, "-m", CHILD, str(events), "--work", str(events.parent)]
        command += ["--size", options.size, "--device", options.device, "--end", str(end_s)]
        return [*command, "--budgets", json.dumps(dict(budgets_s))]

    def watch(told: Told) -> None:
        if out is not None and told.sections:
            write(out, {**told.about, **about}, told.sections, bars=options.size == "3b")

    with TemporaryDirectory(prefix="gpu-") as folder:
        told = supervise(
            options.sections, command_of, alone=ALONE, grace_s=GRACE_S, end_s=end_s,
            folder=Path(folder), watch=watch,
        )  # fmt: skip
    if told.problem:
        print(f"{told.problem}: try --size tiny --device cpu", file=sys.stderr)
        return 2
    print(markdown({**told.about, **about}, told.sections, bars=options.size == "3b"))
    print(f"{time.time() - start_s:.0f} s")
    return int(any(section.problem for section in told.sections))


if __name__ == "__main__":
    sys.exit(main())
