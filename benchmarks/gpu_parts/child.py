"""One process of `benchmarks.gpu`: runs sections, and tells in a file what it has as it goes."""

import argparse
import json
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.gpu_parts import measures
from benchmarks.gpu_parts.lab import Lab
from benchmarks.gpu_parts.made import SIZES
from benchmarks.gpu_parts.report import Row
from benchmarks.gpu_parts.training import STAGES, stage_of

Measure = Callable[[Lab], Iterator[Row]]

MEASURES: dict[str, Measure] = {
    "device": measures.device,
    "load": measures.load,
    "encode": measures.encode,
    "decode": measures.decode,
    "compiled": measures.compiled,
    "labels": measures.many_labels,
    "batches": measures.batches,
    "upn": measures.upn,
    **{name: stage_of(name) for name in STAGES},
}


def run(lab: Lab, budgets_s: Mapping[str, float], end_s: float) -> Iterator[dict[str, Any]]:
    """Run sections until one fails.

    Args:
        lab: What they measure with.
        budgets_s: Names of sections, in order, and the seconds that each may take.
        end_s: When all of them must be over, as `time.time` tells it.

    Yields:
        Events as `processes.collect` reads them.
    """
    for name, budget_s in budgets_s.items():
        start_s = time.time()
        lab.start_clock(min(budget_s, end_s - start_s))
        yield {"kind": "begin", "name": name, "at": start_s}
        problem = ""
        try:
            for row in MEASURES[name](lab):
                yield {"kind": "row", **asdict(row)}
        except Exception as error:  # noqa: BLE001 - whatever a section raises is its result
            traceback.print_exc()
            problem = f"{type(error).__name__}: {error}"
        yield {"kind": "end", "problem": problem, "seconds": time.time() - start_s}
        if problem:
            return  # the device may be unusable in this process


def about(lab: Lab) -> dict[str, Any]:
    """The machine and the versions."""
    device, name = lab.device, platform.machine()
    if device.type == "cuda":
        memory_gb = torch.cuda.get_device_properties(device).total_memory / 2**30
        name = f"{torch.cuda.get_device_name(device)} ({memory_gb:.0f} GiB)"
    return {
        "device": name,
        "dtype": str(lab.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def lab_of(size: str, device: str, work: Path) -> Lab:
    """What sections measure with; bfloat16 on a GPU, float32 on a CPU."""
    where = torch.device(device)
    dtype = torch.float32 if where.type == "cpu" else torch.bfloat16
    return Lab(SIZES[size], where, dtype, work)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run some sections; started by `benchmarks.gpu`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("events", type=Path)
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--end", type=float, required=True, help="seconds since the epoch")
    parser.add_argument("--budgets", type=json.loads, required=True, help="seconds of each section")
    options = parser.parse_args(arguments)
    with options.events.open("a", encoding="utf-8", buffering=1) as file:

        def tell(event: Mapping[str, Any]) -> None:
            file.write(json.dumps(event) + "\n")

        if options.device == "cuda" and not torch.cuda.is_available():
            tell({"kind": "none", "problem": "there is no CUDA device here"})
            return
        lab = lab_of(options.size, options.device, options.work)
        tell({"kind": "about", **about(lab)})
        for event in run(lab, options.budgets, options.end):
            tell(event)


if __name__ == "__main__":
    main()
