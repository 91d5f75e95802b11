"""Region pooling at released sizes: separable matrix products against resize, join and sample.

Both ways get the same maps (four DaViT-large stages of a 768-pixel image, the last full-attention
map's four pyramid levels) and the same 100 boxes, and give 5888 numbers a box. Each runs in a
process of its own, so that peak memory is its own. Run: ``python -m benchmarks.region_encoder``.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlm_fo1.model.region_pooling import axis_weights, pool_mean

IMAGE = 768
STAGES = [(256, 4), (512, 8), (1024, 16), (2048, 32)]
LEVELS = [(512, 3.5), (512, 7.0), (512, 14.0), (512, 28.0)]
BOXES = 100
BINS = 7


def make_inputs() -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Random maps and boxes of mixed sizes, 16 to 400 pixels a side."""
    torch.manual_seed(0)
    stages = [
        torch.randn(channels, IMAGE // stride, IMAGE // stride) for channels, stride in STAGES
    ]
    grid = IMAGE // 28 * 28  # what the Qwen2-VL processor makes of 768 pixels
    levels = [torch.randn(c, round(grid / stride), round(grid / stride)) for c, stride in LEVELS]
    sides = 16 * (400 / 16) ** torch.rand(BOXES, 2)
    corners = torch.rand(BOXES, 2) * (IMAGE - sides)
    return stages, levels, torch.cat([corners, corners + sides], dim=1)


def separable(stages: list[Tensor], levels: list[Tensor], boxes: Tensor) -> Tensor:
    """Ours."""
    finest = (stages[0].shape[1], stages[0].shape[2])
    auxiliary = pool_mean(
        [stage[None] for stage in stages],
        boxes[None],
        [1 / STAGES[0][1]] * len(stages),
        resized_hw=finest,
    )
    primary = pool_mean(
        [level[None] for level in levels], boxes[None], [1 / stride for _, stride in LEVELS]
    )
    return torch.cat([auxiliary, primary], dim=-1)[0]


def _sample_points(low: float, high: float, per_bin: int) -> Tensor:
    extent = max(high - low, 1.0)
    return low + (torch.arange(BINS * per_bin) + 0.5) * extent / (BINS * per_bin)


def roi_mean(feature: Tensor, boxes: Tensor, scale: float, adaptive: bool) -> Tensor:
    """RoIAlign by `grid_sample`, box after box, then the mean over its bins."""
    _, height, width = feature.shape
    rows = []
    for x1, y1, x2, y2 in (boxes * scale).tolist():
        per_bin = (1, 1)
        if adaptive:
            per_bin = tuple(int(-(-max(side, 1.0) // BINS)) for side in (y2 - y1, x2 - x1))
        y, x = _sample_points(y1, y2, per_bin[0]), _sample_points(x1, x2, per_bin[1])
        inside = ((y >= -1) & (y <= height))[:, None] & ((x >= -1) & (x <= width))[None]
        grid = torch.stack(
            torch.broadcast_tensors(
                (x / (width - 1) * 2 - 1)[None, :], (y / (height - 1) * 2 - 1)[:, None]
            ),
            dim=-1,
        )
        sampled = F.grid_sample(feature[None], grid[None], "bilinear", "border", align_corners=True)
        rows.append((sampled[0] * inside).mean((1, 2)))
    return torch.stack(rows)


def _direct(stages: list[Tensor], levels: list[Tensor], boxes: Tensor, adaptive: bool) -> Tensor:
    size = stages[0].shape[1:]
    joined = torch.cat(
        [F.interpolate(stage[None], size=size, mode="bilinear")[0] for stage in stages]
    )
    parts = [roi_mean(joined, boxes, 1 / STAGES[0][1], adaptive)]
    parts += [
        roi_mean(level, boxes, 1 / stride, adaptive)
        for level, (_, stride) in zip(levels, LEVELS, strict=True)
    ]
    return torch.cat(parts, dim=1)


def direct(stages: list[Tensor], levels: list[Tensor], boxes: Tensor) -> Tensor:
    """Resize, join, sample every bin adaptively (as RoIAlign does), mean: the same numbers."""
    return _direct(stages, levels, boxes, adaptive=True)


def coarse(stages: list[Tensor], levels: list[Tensor], boxes: Tensor) -> Tensor:
    """Resize, join, one sample a bin (a bare 7x7 grid), mean: cheaper and not the same numbers."""
    return _direct(stages, levels, boxes, adaptive=False)


def weights_only(stages: list[Tensor], levels: list[Tensor], boxes: Tensor) -> Tensor:
    """The floor: every map is read once (summed), and the weights are made."""
    sums = [feature.sum((1, 2)) for feature in (*stages, *levels)]
    for _, stride in (*STAGES, *LEVELS):
        length = round(IMAGE / stride)
        low_2M, high_2M = (boxes.T / stride).split(2)
        axis_weights(low_2M, high_2M, [length, length], BINS)
    return torch.cat(sums)


WAYS: dict[str, Callable[[list[Tensor], list[Tensor], Tensor], Tensor]] = {
    "separable": separable,
    "direct": direct,
    "coarse": coarse,
    "read once": weights_only,
}


def measure(way: str, runs: int, threads: int, save: Path) -> dict[str, float]:
    """Median seconds and peak extra memory of one way, in this process."""
    torch.set_num_threads(threads)
    inputs = make_inputs()
    with torch.no_grad():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = WAYS[way](*inputs)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            WAYS[way](*inputs)
            times.append(time.perf_counter() - start)
    save_file({"result": result}, save)
    return {"seconds": statistics.median(times), "extra_mb": (peak - before) / 1024}


def main() -> None:
    """Measure every way in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="the fastest round counts")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.runs, options.threads, options.save)))
        return
    figures: dict[str, dict[str, float]] = {}
    results: dict[str, Tensor] = {}
    with TemporaryDirectory() as folder:
        for way in [*WAYS] * options.rounds:  # in turn, so that a busy moment hits all of them
            save = Path(folder) / "result.safetensors"
            runs = 1 if way == "direct" else options.runs
            command = [sys.executable, __file__, "--way", way, "--save", str(save)]
            command += ["--threads", str(options.threads), "--runs", str(runs)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            figure = json.loads(output.splitlines()[-1])
            best = figures.setdefault(way, figure)
            best["seconds"] = min(best["seconds"], figure["seconds"])
            results[way] = load_file(save)["result"]
    stages, levels, _ = make_inputs()
    read_mb = sum(feature.nbytes for feature in (*stages, *levels)) / 2**20
    difference = (results["separable"] - results["direct"]).abs().max().item()
    ours, theirs = figures["separable"], figures["direct"]
    print(f"{IMAGE} px, {BOXES} boxes, fp32, {options.threads} threads, maps {read_mb:.0f} MB")
    for way, figure in figures.items():
        print(f"{way:10} {figure['seconds']:8.3f} s  {figure['extra_mb']:8.0f} MB extra at peak")
    print(f"speed: {theirs['seconds'] / ours['seconds']:.0f}x the direct way, ", end="")
    print(f"{figures['coarse']['seconds'] / ours['seconds']:.1f}x the bare 7x7 grid")
    print(f"memory: 1/{theirs['extra_mb'] / max(ours['extra_mb'], 1e-9):.0f} of the direct way")
    print(f"largest difference to the direct way: {difference:.1e}")
    floor = figures["read once"]["seconds"]
    print(f"floor: reading the maps once {floor:.3f} s, so {ours['seconds'] / floor:.1f}x above it")
    cells = sum(feature[0].numel() * feature.shape[0] for feature in (*stages, *levels))
    rate = 2 * BOXES * cells / ours["seconds"] / 1e9
    print(f"arithmetic: {2 * BOXES * cells / 1e9:.1f} GFLOP, so {rate:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
