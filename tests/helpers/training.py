"""Small stand-ins for the data side: examples of plain token ids and a network of few weights."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig

from vlm_fo1.errors import ImageError
from vlm_fo1.model.configuration import FO1Config
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.train.config import (
    DataConfig,
    DistributedConfig,
    ModelConfig,
    OutputConfig,
    StageConfig,
    TrainConfig,
    TrainRule,
)
from vlm_fo1.train.parts import Parts

IMAGE, REGION, NEW = 60, 63, (61, 62, 63)
GRID = (4, 4)


def tiny_config(vocabulary_size: int = 64, **options: Any) -> FO1Config:
    host = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2,
            "patch_size": 14, "spatial_merge_size": 2, "window_size": 56, "in_channels": 3,
            "fullatt_block_indexes": [1], "out_hidden_size": 24, "temporal_patch_size": 2,
        },
        text_config={
            "vocab_size": vocabulary_size, "bos_token_id": 0, "eos_token_id": 0,
            "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
            "rope_scaling": {"type": "default", "mrope_section": [2, 2, 2], "rope_type": "default"},
        },
        tie_word_embeddings=options.get("tie_word_embeddings", False),
    )  # fmt: skip
    auxiliary = {
        "depths": [1, 1, 1, 1], "embed_dim": [8, 8, 8, 8], "num_heads": [1, 1, 1, 1],
        "num_groups": [1, 1, 1, 1], "window_size": 4, "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2], "patch_padding": [3, 1, 1, 1],
        "patch_prenorm": [False, True, True, True], "drop_path_rate": 0.0,
    }  # fmt: skip
    return FO1Config(
        host_config=host,
        auxiliary_config=auxiliary,
        region_config={"pyramid_channels": 8, "pyramid_strides": [7.0, 14.0]},
        **{"image_token_id": IMAGE, "region_token_id": REGION, **options},
    )


def tiny_model(seed: int = 0, **options: Any) -> FO1ForConditionalGeneration:
    torch.manual_seed(seed)
    return FO1ForConditionalGeneration(tiny_config(**options))


@dataclass
class TokenExample:
    """Words, an answer, and how many regions an image shows; 0 means text alone."""

    words: list[int]
    answer: list[int]
    regions_xyxy: list[list[float]] = field(default_factory=list)
    source: str = "made.jsonl"
    id: str = ""

    @property
    def length(self) -> int:
        image = 4 if self.regions_xyxy else 0
        return image + len(self.regions_xyxy) + len(self.words) + len(self.answer)


class TokenSource:
    """Endless seeded examples; shard i of n takes every n-th."""

    def __init__(self, shard=0, shards=1, *, longest=12, bad_every=0, regions=True, skew=""):
        self.shard, self.shards, self.at = shard, shards, 0
        self.longest, self.bad_every = longest, bad_every
        self.regions, self.skew = regions, skew

    def example(self, number: int) -> TokenExample:
        draw = torch.Generator().manual_seed(number)

        def below(high: int) -> int:
            return int(torch.randint(high, (1,), generator=draw))

        if self.skew == "lognormal":  # most are short, a few are very long
            words = int(20 + 40 * torch.randn(1, generator=draw).exp().item())
        elif self.skew == "pareto":  # worse: the longest few hold most of the tokens
            words = min(2000, int(8 + 12 * torch.rand(1, generator=draw).item() ** -0.7))
        else:
            words = 3 + below(self.longest)
        count = below(4) if self.regions else 0
        boxes = [[4.0 * k, 4.0, 4.0 * k + 20, 30.0] for k in range(count)]
        ids = [1 + below(50) for _ in range(words)]
        example = TokenExample(ids, [1 + ids[-1] % 4] * (1 + below(4)), boxes)
        example.id = str(number)
        if self.bad_every and number % self.bad_every == self.bad_every - 1:
            example.words = []
        return example

    def __iter__(self):
        while True:
            number = self.at * self.shards + self.shard
            self.at += 1
            yield self.example(number)

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def collate(examples: Sequence[TokenExample]) -> dict[str, Any]:
    rows: list[list[int]] = []
    labels: list[list[int]] = []
    images: list[TokenExample] = []
    for example in examples:
        if not example.words:
            raise ImageError("photo.jpg is broken")
        ids = list(example.words)
        if example.regions_xyxy:
            images.append(example)
            ids = [IMAGE] * 4 + [REGION] * len(example.regions_xyxy) + ids
        rows.append(ids + example.answer)
        labels.append([-100] * len(ids) + example.answer)
    longest = max(map(len, rows))
    batch: dict[str, Any] = {
        "input_ids": _pad(rows, longest, 0),
        "attention_mask": _pad([[1] * len(row) for row in rows], longest, 0),
        "labels": _pad(labels, longest, -100),
    }
    if images:
        height, width = GRID
        shades = [example.words[0] / 50 for example in images]
        batch |= {
            "pixel_values": torch.cat([torch.full((16, 3 * 2 * 14 * 14), s) for s in shades]),
            "image_grid_thw": torch.tensor([[1, height, width]] * len(images)),
            "aux_pixel_values": [torch.full((3, 32, 32), shade) for shade in shades],
            "region_boxes": [torch.tensor(example.regions_xyxy) for example in images],
        }
    return batch


def _pad(rows: list[list[int]], longest: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def length(example: TokenExample) -> int:
    return example.length


def parts(model_seed: int = 0, **options: Any) -> Parts:
    source_options = {
        k: options.pop(k) for k in ("longest", "bad_every", "regions") if k in options
    }

    def load(folder: Path | None) -> FO1ForConditionalGeneration:
        if folder is None:
            return tiny_model(model_seed)
        return FO1ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)

    return Parts(
        load_model=load,
        make_source=lambda mixture, shard, shards: TokenSource(shard, shards, **source_options),
        collate=collate,
        length=length,
        new_token_ids=NEW,
        **options,
    )


def run_config(folder: Path, **stage: Any) -> TrainConfig:
    whole = {key: stage.pop(key) for key in ("data", "distributed", "output") if key in stage}
    values: dict[str, Any] = {
        "name": "stage1",
        "train": (
            TrainRule(pattern="region_connector", lr=1e-2),
            TrainRule(pattern="host", lr=1e-3),
        ),
        "steps": 6,
        "batch_size": 2,
        "precision": "fp32",
        "save_every": 0,
    } | stage
    return TrainConfig(
        stages=(StageConfig(**values),),
        model=ModelConfig(path="tiny"),
        output=OutputConfig(
            folder=folder, log_every=1, tensorboard=False, **whole.get("output", {})
        ),
        data=DataConfig(**{"pool_batches": 4, **whole.get("data", {})}),
        distributed=DistributedConfig(device="cpu", **whole.get("distributed", {})),
    )


def first(source: TokenSource, count: int) -> list[TokenExample]:
    return list(itertools.islice(iter(source), count))
