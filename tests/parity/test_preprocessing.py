"""Preprocessing and prompts against what the official code computed (`tests/data/preprocess`).

Reached with Pillow 12.3: pixel rows and auxiliary pixels bit for bit (0 grey levels), boxes, grids
and prompts identical. The tolerance below leaves room for another order of float32 operations only.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.helpers.tokenizer import CONTROL, char_tokenizer

from vlm_fo1.markup import RELEASED
from vlm_fo1.processing import FO1ImageProcessor, FO1Processor

DATA = Path(__file__).parents[1] / "data" / "preprocess"
CASES: list[dict[str, Any]] = json.loads((DATA / "cases.json").read_text())["cases"]
GREY_LEVELS = 1e-3
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_STD = (0.229, 0.224, 0.225)


def photo(case: dict[str, Any]) -> Image.Image:
    """The formula of cases.json."""
    seed = case["seed"]
    y, x = np.mgrid[0 : case["height"], 0 : case["width"]].astype(np.float64)
    red = 127.5 + 127.5 * np.sin(x / (7 + seed) + seed)
    green = 127.5 + 127.5 * np.cos(y / (5 + seed))
    blue = (3 * x + 5 * y + 17 * seed) % 256
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def recorded_tokens(ids: list[int]) -> list[str]:
    """What the recorder's stand-in tokenizer saw, as a tokenizer that knows every token splits it.

    There each character is its code point, -200 the image and -300 a region. Control tokens are one
    id each (151644, 151645) in the system turn and the assistant's header, but spelt out in the
    user's turn: the official code writes those two control tokens by id and hands only the text in
    between, and the whole user turn, to the tokenizer. A real one turns the spelt ones into the
    same ids, so both spellings are read as one token here.
    """
    marks = {151644: "<|im_start|>", 151645: "<|im_end|>", -200: "\0", -300: "\1"}
    text = "".join(marks.get(token) or chr(token) for token in ids)
    known = [*CONTROL, *RELEASED.special_tokens()]
    return re.findall("|".join([*map(re.escape, known), r"[\s\S]"]), text)


@pytest.fixture(scope="module", params=range(len(CASES)), ids=lambda index: f"case{index}")
def trial(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, torch.Tensor], Any]:
    case = CASES[request.param]
    processor = FO1ImageProcessor(aux_image_aspect_ratio=case["aux_mode"])
    batch = processor(photo(case), case["boxes"])
    return case, load_file(DATA / f"case{request.param}.safetensors"), batch


def test_grids_and_auxiliary_sizes_are_identical(trial):
    _, recorded, batch = trial
    assert batch["image_grid_thw"].tolist() == recorded["image_grid_thw"].tolist()
    assert list(batch["aux_pixel_values"][0].shape) == [3, *recorded["aux.size"].tolist()]
    assert len(batch["pixel_values"]) == recorded["image_grid_thw"].prod()


def test_boxes_are_identical(trial):
    _, recorded, batch = trial
    assert torch.equal(batch["region_boxes"][0], recorded["aux.boxes"])


def test_primary_rows_agree(trial):
    case, recorded, batch = trial
    rows = batch["pixel_values"][:: case["row_step"]]
    error = (rows - recorded["pixel_values.rows"]).reshape(len(rows), 3, -1).abs()
    levels = error.amax(dim=(0, 2)) * torch.tensor(CLIP_STD) * 255
    assert levels.max() <= GREY_LEVELS


def test_auxiliary_pixels_agree(trial):
    case, recorded, batch = trial
    down, across = case["aux_steps"]
    error = (batch["aux_pixel_values"][0][:, ::down, ::across] - recorded["aux.grid"]).abs()
    levels = error.amax(dim=(1, 2)) * torch.tensor(IMAGENET_STD) * 255
    assert levels.max() <= GREY_LEVELS


def test_prompt_text_and_tokens_are_identical(trial):
    case, recorded, _ = trial
    processor = FO1Processor(FO1ImageProcessor(), char_tokenizer())
    question = case["prompt"].split("\n")[-3].removesuffix("<|im_end|>")
    count = len(case["boxes"])
    assert processor.prompt(question, count) == case["prompt"]
    stand_ins = {processor.image_token_id: "\0", processor.region_token_id: "\1"}
    ours = [
        stand_ins.get(token) or processor.tokenizer.convert_ids_to_tokens(token)
        for token in processor.encode_prompt(question, count, image_tokens=1)
    ]
    assert ours == recorded_tokens(recorded["input_ids"].tolist())
