"""UPN-large on one image: our network against the same one written the direct way.

Direct: transformers' layers as they come, every mask built and applied although nothing is padded,
attention written out, samples taken level after level, whole maps at once. Both have the same
random weights. Each way runs in a process of its own, so that peak memory is its own.
Run: ``python -m benchmarks.upn`` on a machine that does nothing else; it writes
``benchmarks/results/upn.json``. ``--small`` only checks that it works, and writes where
``--out`` says.
"""

import argparse
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import (
    MultiScaleDeformableAttention,
)
from transformers.models.swin.modeling_swin import SwinRelativePositionBias

from vlm_fo1.proposers.upn import UPN, UPNConfig
from vlm_fo1.proposers.upn.levels import Geometry
from vlm_fo1.proposers.upn.selection import Chosen, propose_cells

SMALL = UPNConfig(
    embed_dim=24, depths=(2, 2, 2, 2), window=6, encoder_layers=2, decoder_layers=2, ffn_dim=256,
    queries=100,
)  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "upn.json"
PARTS = ("backbone", "levels", "encoder", "selection", "decoder")


def make_network(small: bool) -> UPN:
    """Random weights, with sampling points spread as deformable attention starts out."""
    torch.manual_seed(0)
    upn = UPN(SMALL if small else UPNConfig()).eval().requires_grad_(False)
    for module in upn.modules():
        if isinstance(module, SwinRelativePositionBias):
            module.relative_position_bias_table.normal_(std=0.5)
    angles = torch.arange(upn.config.heads) * (2 * math.pi / upn.config.heads)
    rays = torch.stack([angles.cos(), angles.sin()], -1)
    rays = (rays / rays.abs().amax(-1, keepdim=True))[:, None, None]
    far = torch.arange(1, upn.config.points + 1)[:, None]
    ring = (rays * far).expand(-1, 5, -1, -1).flatten()
    for layer in upn.encoder.layers:
        layer.get_submodule("self_attn.sampling_offsets").bias.copy_(ring)
    for layer in upn.decoder.layers:
        layer.get_submodule("encoder_attn.sampling_offsets").bias.copy_(ring)
    return upn


Way = dict[str, Callable[..., object]]


def our_way(upn: UPN) -> Way:
    """The parts as `UPN.forward` runs them."""
    prompt = upn.prompts["fine_grained"][0]
    return {
        "backbone": upn.backbone,
        "levels": lambda maps: (levels := upn.levels(maps), Geometry.of(levels, None)),
        "encoder": upn.encoder,
        "selection": lambda memory, geometry: upn.selection(memory, geometry, prompt),
        "decoder": upn.decoder,
    }


def direct_way(upn: UPN) -> Way:
    """The parts from transformers' own layers; changes the network's sampling."""
    prompt = upn.prompts["fine_grained"][0]
    for layer in [*upn.encoder.layers, *upn.decoder.layers]:
        attention = getattr(layer, "encoder_attn", layer.self_attn)
        attention.attn = MultiScaleDeformableAttention()

    def backbone(pixels: Tensor) -> list[Tensor]:
        hidden, (height, width) = upn.backbone.embeddings(pixels)
        maps = []
        for index, stage in enumerate(upn.backbone.stages):
            for layer in stage:
                hidden, _ = layer(hidden, (height, width), always_partition=True)
            rows = upn.backbone.norms[index](hidden).unflatten(1, (height, width))
            maps.append(rows.permute(0, 3, 1, 2).contiguous())
            if index < len(upn.backbone.merges):
                hidden = upn.backbone.merges[index](hidden, (height, width))
                height, width = (height + 1) // 2, (width + 1) // 2
        return maps

    def levels(maps: list[Tensor]) -> tuple[list[Tensor], Geometry]:
        projected = upn.levels(maps)
        full = torch.ones(1, maps[0].shape[2] * 4, maps[0].shape[3] * 4, dtype=torch.bool)
        return projected, Geometry.of(projected, full)

    def encoder(maps: list[Tensor], geometry: Geometry) -> Tensor:
        rows = torch.cat([map_.flatten(2).transpose(1, 2) for map_ in maps], 1)
        references = geometry.centres()[:, :, None] * geometry.ratios[:, None]
        for layer in upn.encoder.layers:
            rows = layer(
                rows,
                geometry.valid_BS,
                spatial_position_embeddings=upn.encoder.positions(geometry),
                reference_points=references,
                **geometry.of_detr,
            )
        return rows

    def selection(memory: Tensor, geometry: Geometry) -> Chosen:
        proposals, allowed = propose_cells(geometry)
        rows = upn.selection.rows(memory, allowed)
        scores, indices = (rows @ prompt).topk(min(upn.config.queries, rows.shape[1]), dim=1)
        boxes = upn.selection.box_head(rows) + proposals
        return Chosen(indices, scores, boxes.gather(1, indices[..., None].expand(-1, -1, 4)))

    return {
        "backbone": backbone, "levels": levels, "encoder": encoder, "selection": selection,
        "decoder": upn.decoder,
    }  # fmt: skip


WAYS: dict[str, Callable[[UPN], Way]] = {"ours": our_way, "direct": direct_way}


def run(way: Way, pixels: Tensor) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Seconds of each part, and what to compare.

    Scores of random weights lie so close that noise reorders them, and the decoder goes by rank:
    so the decoder's result is compared for boxes that are the same in both ways.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, *arguments: object) -> object:
        start = time.perf_counter()
        result = way[name](*arguments)
        seconds[name] = time.perf_counter() - start
        return result

    maps, geometry = timed("levels", timed("backbone", pixels))
    memory = timed("encoder", maps, geometry)
    chosen = timed("selection", memory, geometry)
    timed("decoder", memory, geometry, chosen.references_BQ4)
    proposals, allowed = propose_cells(geometry)
    cells = allowed[0].nonzero()[:, 0]
    picked = cells[torch.linspace(0, len(cells) - 1, chosen.references_BQ4.shape[1]).long()]
    decoded = way["decoder"](memory, geometry, proposals[:, picked])
    results = {"memory": memory, "scores": chosen.scores_BQ, "boxes": decoded.boxes_BQ4}
    return seconds, results


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Fastest seconds of each part and peak extra memory of one way, in this process."""
    torch.set_num_threads(options.threads)
    upn = make_network(options.small)
    width, height = options.size
    pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    way = WAYS[name](upn)
    with torch.inference_mode():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        runs = [run(way, pixels) for _ in range(options.runs)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    save_file({key: value.contiguous() for key, value in runs[-1][1].items()}, options.save)
    seconds = {part: statistics.median(times[part] for times, _ in runs) for part in PARTS}
    return {**seconds, "peak_mb": peak / 1024, "extra_mb": (peak - before) / 1024}


def main() -> None:
    """Measure both ways in their own processes and print the tables; keep them at full size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="the fastest round counts")
    parser.add_argument("--size", type=int, nargs=2, default=(1066, 800), help="width, height")
    parser.add_argument("--small", action="store_true", help="small dimensions, for a check")
    parser.add_argument("--out", type=Path, help="file of the figures")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    best: dict[str, dict[str, float]] = {}
    results: dict[str, dict[str, Tensor]] = {}
    with TemporaryDirectory() as folder:
        for name in [*WAYS] * options.rounds:  # in turn, so that a busy moment hits both
            save = Path(folder) / "result.safetensors"
            command = [sys.executable, __file__, "--way", name, "--save", str(save)]
            command += ["--threads", str(options.threads), "--runs", str(options.runs)]
            command += ["--size", *map(str, options.size), *(["--small"] * options.small)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            figures = json.loads(output.splitlines()[-1])
            known = best.setdefault(name, figures)
            best[name] = {key: min(known[key], figures[key]) for key in figures}
            results[name] = load_file(save)
    summary = summarised(best, results)
    show(options, best, summary)
    out = options.out or (None if options.small else RESULTS)
    if out is not None:
        told = {"size_wh": list(options.size), "threads": options.threads, "small": options.small}
        versions = {"torch": torch.__version__, "machine": platform.machine()}
        out.parent.mkdir(exist_ok=True)
        text = json.dumps({**told, **versions, "ways": best, **summary}, indent=1)
        out.write_text(text + "\n", encoding="utf-8")


def summarised(
    best: dict[str, dict[str, float]], results: dict[str, dict[str, Tensor]]
) -> dict[str, Any]:
    """Seconds of all parts, shares of ours, how many times faster, and largest differences."""
    totals = {name: sum(figures[part] for part in PARTS) for name, figures in best.items()}
    return {
        "seconds": totals,
        "share": {part: best["ours"][part] / totals["ours"] for part in PARTS},
        "faster": totals["direct"] / totals["ours"],
        "difference": {
            key: ((ours - results["direct"][key]).abs().max() / ours.abs().max()).item()
            for key, ours in results["ours"].items()
        },
    }


def show(
    options: argparse.Namespace, best: dict[str, dict[str, float]], summary: dict[str, Any]
) -> None:
    """Print the table of docs/benchmarks.md and what stands below it."""
    print(f"{options.size[0]} x {options.size[1]}, fp32, {options.threads} threads")
    print("| part | ours | share | direct | faster |\n| --- | --- | --- | --- | --- |")
    for part in PARTS:
        ours, theirs = best["ours"][part], best["direct"][part]
        share = summary["share"][part]
        print(f"| {part} | {ours:.2f} s | {share:.0%} | {theirs:.2f} s | {theirs / ours:.1f}x |")
    seconds = summary["seconds"]
    print(
        f"| all | {seconds['ours']:.2f} s | | {seconds['direct']:.2f} s "
        f"| {summary['faster']:.1f}x |"
    )
    for name, figures in best.items():
        print(
            f"{name}: peak {figures['peak_mb']:.0f} MB, {figures['extra_mb']:.0f} MB over weights"
        )
    for key, difference in summary["difference"].items():
        print(f"largest difference of {key}: {difference:.1e} of the largest value")


if __name__ == "__main__":
    main()
