"""Encoding images: windows and images all at once against one after another.

A network of the released proportions (patches of 14, windows of 112 pixels, full attention in every
eighth layer, a DaViT of 1/1/9/1 blocks) at a fraction of the released widths, with random weights.
*One after another* is what transformers does out of the box: an attention call a window, and a pass
an image. Both ways run in turn in one process, so that a busy moment hits both, and must agree.
Operators are counted too: on a GPU each is a launch, and launches are what an image waits for.
The bundled model is measured too.
Run: ``python -m benchmarks.encode``.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2_5_VLConfig

from vlm_fo1 import FO1
from vlm_fo1.model.configuration import FO1Config
from vlm_fo1.model.hosts import qwen
from vlm_fo1.model.modeling import EncodedImages, FO1ForConditionalGeneration

ROOT = Path(__file__).parents[1]
PATCH = 14
BUNDLED_WH = (320, 288)


def build(width: int, depth: int) -> FO1ForConditionalGeneration:
    """Random weights; the ViT's width, a multiple of 80, decides the DaViT's and the pyramid's."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": width,
        "intermediate_size": width * 8 // 3,
        "num_heads": max(1, width // 80),
        "depth": depth,
        "fullatt_block_indexes": [*range(7, depth, 8), depth - 1],
        "out_hidden_size": 128,
    }
    text = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "bos_token_id": None,
        "eos_token_id": None,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6]},
    }
    widths = [
        max(8, width // 5 * 2**stage) // 8 * 8 for stage in range(4)
    ]  # of 1280: 256, 512, ...
    config = FO1Config(
        host_config=Qwen2_5_VLConfig(vision_config=vision, text_config=text),
        auxiliary_config={
            "depths": [1, 1, 9, 1],
            "embed_dim": widths,
            "num_heads": [8, 8, 8, 8],
            "num_groups": [8, 8, 8, 8],
        },
        region_config={"pyramid_channels": width * 2 // 5},
        image_token_id=1,
        region_token_id=2,
    )
    return FO1ForConditionalGeneration(config).eval()


def bundled_inputs(
    fo1: FO1, count: int, size_wh: tuple[int, int], boxes: int
) -> list[dict[str, Any]]:
    """The same for the bundled model, cut up by its own processor."""
    random = np.random.default_rng(0)
    shape = (size_wh[1], size_wh[0], 3)
    low = random.uniform(0, 0.7, (boxes, 2))
    xyxy = np.concatenate([low, low + random.uniform(0.05, 0.3, (boxes, 2))], axis=1)
    return [
        dict(
            fo1.processor.image_processor(
                Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)),
                (xyxy * (size_wh * 2)).astype(np.float32),
            )
        )
        for _ in range(count)
    ]


def make_inputs(count: int, size_wh: tuple[int, int], boxes: int) -> list[dict[str, Any]]:
    """Noise in the place of images of one size, and boxes of 16 to 400 pixels a side."""
    torch.manual_seed(0)
    width, height = size_wh
    rows, columns = (round(side / 28) * 2 for side in (height, width))
    made: list[dict[str, Any]] = []
    for _ in range(count):
        sides = 16 * (400 / 16) ** torch.rand(boxes, 2)
        corners = torch.rand(boxes, 2) * (torch.tensor([width, height]) - sides).clamp(min=0)
        made.append(
            {
                "pixel_values": torch.randn(rows * columns, 3 * 2 * PATCH**2),
                "image_grid_thw": torch.tensor([[1, rows, columns]]),
                "aux_pixel_values": [torch.randn(3, height, width)],
                "region_boxes": [torch.cat([corners, corners + sides], dim=1)],
            }
        )
    return made


@contextmanager
def window_after_window(model: FO1ForConditionalGeneration) -> Iterator[None]:
    """The ViT's attention as transformers runs it."""
    vit = model.host.model.visual
    ours = qwen.attend_packed
    qwen.attend_packed = lambda _: None
    for block in vit.blocks:
        block.attn.config = vit.config
    try:
        yield
    finally:
        qwen.attend_packed = ours


def one_after_another(
    model: FO1ForConditionalGeneration, inputs: Sequence[dict[str, Any]]
) -> list[EncodedImages]:
    """A window a call, an image a pass."""
    with window_after_window(model):
        return [model.encode_images(**given) for given in inputs]


def together(
    model: FO1ForConditionalGeneration, inputs: Sequence[dict[str, Any]]
) -> list[EncodedImages]:
    """Ours."""
    return model.encode_images(
        torch.cat([given["pixel_values"] for given in inputs]),
        torch.cat([given["image_grid_thw"] for given in inputs]),
        [given["aux_pixel_values"][0] for given in inputs],
        [given["region_boxes"][0] for given in inputs],
    ).one_by_one()


WAYS = {"one after another": one_after_another, "together": together}


class Operators(TorchDispatchMode):
    """Counts what is dispatched."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and do it."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def difference(one: Sequence[EncodedImages], other: Sequence[EncodedImages]) -> float:
    """The largest, as a share of the largest value."""
    shares: list[float] = []
    for name in ("image_tokens", "region_tokens"):
        mine, theirs = (torch.cat([getattr(e, name)[0] for e in way]) for way in (one, other))
        shares.append(((mine - theirs).abs().max() / theirs.abs().max()).item())
    return max(shares)


@torch.no_grad()
def measure(
    model: FO1ForConditionalGeneration, inputs: Sequence[dict[str, Any]], rounds: int
) -> dict[str, Any]:
    """Seconds of the best round and operators of each way."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    found: dict[str, Any] = {}
    results: dict[str, list[EncodedImages]] = {}
    for way, run in WAYS.items():
        with Operators() as operators:
            results[way] = run(model, inputs)
        found[way] = {"operators": operators.count}
    for _ in range(rounds):
        for way, run in WAYS.items():
            start = time.process_time()
            run(model, inputs)
            seconds[way].append(time.process_time() - start)
    for way, times in seconds.items():
        found[way]["seconds"] = round(min(times), 3)
    plain, ours = (found[way] for way in WAYS)
    return found | {
        "faster": round(plain["seconds"] / ours["seconds"], 2),
        "fewer_operators": round(plain["operators"] / ours["operators"], 1),
        "difference": difference(*(results[way] for way in WAYS)),
    }


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=160, help="of the ViT; released: 1280")
    parser.add_argument("--depth", type=int, default=8, help="of the ViT; released: 32")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 768), metavar=("W", "H"))
    parser.add_argument("--boxes", type=int, default=100)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4], help="at random weights")
    parser.add_argument("--bundled", type=int, nargs="+", default=[1, 16], help="images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "encode.json"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    told: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "settings": {k: v for k, v in vars(options).items() if k != "results"},
    }
    model = build(options.width, options.depth)
    for count in options.images:
        inputs = make_inputs(count, tuple(options.size), options.boxes)
        told[f"random weights, {count}"] = measure(model, inputs, options.rounds)
    fo1 = FO1.from_pretrained("tiny")
    for count in options.bundled:
        inputs = bundled_inputs(fo1, count, BUNDLED_WH, 15)
        told[f"bundled, {count}"] = measure(fo1.model, inputs, options.rounds)
    for name, found in told.items():
        if "faster" in found:
            print(f"| {name} | {found['faster']} | {found['fewer_operators']} | ", end="")
            print(
                " | ".join(f"{found[way]['seconds']} | {found[way]['operators']}" for way in WAYS)
            )
            print(f"difference {found['difference']:.1e}")
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
