"""What the sections measure with: the model, images, boxes, prompts, and a clock."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from benchmarks.gpu_parts.made import Size, make_fo1, make_folder
from benchmarks.gpu_parts.official import OfficialWay
from benchmarks.gpu_parts.timing import Clock
from vlm_fo1 import FO1
from vlm_fo1.engine import LocalEngine, Prompt
from vlm_fo1.model.modeling import EncodedImages
from vlm_fo1.tasks import TASKS, Task

QUESTION = "Briefly describe this image and detect all mentioned objects."


@dataclass
class Lab:
    """One process's bench; what it makes is kept for the sections after."""

    size: Size
    device: torch.device
    dtype: torch.dtype
    work: Path
    """A folder for what is written."""
    made: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """A clock for whoever starts none."""
        self.start_clock(60)

    def start_clock(self, seconds: float) -> None:
        """Begin to measure something that may take so long."""
        repeats = self.size.repeats
        warm_ups = 2 if repeats > 1 else 0
        self.clock = Clock(self.device, seconds, repeats=repeats, warm_ups=warm_ups)

    @cached_property
    def folder(self) -> Path:
        """What a released folder holds, but for the weights."""
        return make_folder(self.size, self.work / "made")

    @property
    def fo1(self) -> FO1:
        """The model, made when it is first needed."""
        if "fo1" not in self.made:
            self.made["fo1"] = make_fo1(self.folder, self.device, self.dtype)
        return self.made["fo1"]

    @fo1.setter
    def fo1(self, fo1: FO1) -> None:
        self.made["fo1"] = fo1

    @property
    def official(self) -> OfficialWay:
        """The official way with the same weights."""
        if "official" not in self.made:
            self.made["official"] = OfficialWay(self.fo1)
        return self.made["official"]

    @property
    def engine(self) -> LocalEngine:
        """What runs prompts."""
        return self.fo1.engine

    def release(self) -> None:
        """Let go of the models."""
        self.made.clear()
        self.clock.free()

    def image(self, size_wh: tuple[int, int] | None = None, seed: int = 0) -> Image.Image:
        """Noise."""
        width, height = size_wh or self.size.image_wh
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        return Image.fromarray(pixels)

    def boxes(self, size_wh: tuple[int, int] | None = None) -> npt.NDArray[np.float32]:
        """Boxes of all sizes up to half the image, in its pixels."""
        rng = np.random.default_rng(0)
        wh = np.array(size_wh or self.size.image_wh)
        sides = 16 * (wh / 2 / 16) ** rng.random((self.size.boxes, 2))
        corners = rng.random((self.size.boxes, 2)) * (wh - sides)
        return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)

    def inputs(self, size_wh: tuple[int, int] | None = None, images: int = 1) -> dict[str, Any]:
        """Prepared images with boxes, on the device: keywords of ``encode_images``."""
        prepared = self.fo1.processor.image_processor(
            [self.image(size_wh, seed) for seed in range(images)], [self.boxes(size_wh)] * images
        )
        device = self.device
        return {
            key: [item.to(device) for item in value]
            if isinstance(value, list)
            else value.to(device)
            for key, value in prepared.items()
        }

    def prefix_ids(self, encoded: EncodedImages) -> list[int]:
        """The shared start of all prompts on one encoded image."""
        regions, tokens = len(encoded.region_tokens[0]), len(encoded.image_tokens[0])
        return self.fo1.processor.encode_prefix(regions, tokens)

    def question_ids(self, question: str) -> list[int]:
        """What comes after it."""
        return self.fo1.processor.encode_question(question, self.size.boxes)

    def prompt_ids(self, encoded: EncodedImages, question: str) -> Tensor:
        """A whole prompt, (1, T) on the device."""
        ids = [*self.prefix_ids(encoded), *self.question_ids(question)]
        return torch.tensor([ids], device=self.device)

    def prompts(
        self, encoded: EncodedImages, questions: list[str], new_tokens: int
    ) -> list[Prompt]:
        """Questions on one encoded image that nothing has been asked about yet."""
        prefix = self.engine.prefix(encoded, self.prefix_ids(encoded))
        return [
            Prompt(prefix, tuple(self.question_ids(question)), new_tokens) for question in questions
        ]


def detection_of(label: str) -> str:
    """The question for one label."""
    return TASKS[Task.DETECTION].template.format(label)
