"""The model against what the official code computed: every case, every recorded stage."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vlm_fo1.model.modeling import FO1ForConditionalGeneration

DATA = Path(__file__).parents[1] / "data" / "fo1"
CASES = ["square", "wide", "tall_odd", "no_regions", "many"]
WITH_REGIONS = [case for case in CASES if case != "no_regions"]

STAGE_TOLERANCE = 5e-6
"""Of the largest value. Asked for is 1e-4; what is reached is 2e-6 at most."""
LOGIT_TOLERANCE = 5e-5
"""Absolute. Asked for is 1e-3; what is reached is 6e-6 at most."""


@cache
def model() -> FO1ForConditionalGeneration:
    return FO1ForConditionalGeneration.from_pretrained(DATA, dtype=torch.float32)


@cache
def recorded(case: str) -> dict[str, Tensor]:
    return load_file(DATA / f"{case}.safetensors")


def prompt_ids(case: str) -> Tensor:
    """The recorded placeholders (-200 an image, -300 a region) as the ids our model takes."""
    record, config = recorded(case), model().config
    ids: list[int] = []
    for token in record["input_ids"].tolist():
        if token == -200:
            ids += [config.image_token_id] * len(record["vision.merged"])
        else:
            ids.append(config.region_token_id if token == -300 else token)
    return torch.tensor(ids)


def inputs(*cases: str) -> dict[str, Any]:
    """A left-padded batch of recorded cases."""
    rows = [prompt_ids(case) for case in cases]
    longest = max(map(len, rows))
    input_ids = torch.full((len(rows), longest), 250)
    attention_mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, ids in enumerate(rows):
        input_ids[row, longest - len(ids) :] = ids
        attention_mask[row, longest - len(ids) :] = 1
    records = [recorded(case) for case in cases]
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": torch.cat([record["pixel_values"] for record in records]),
        "image_grid_thw": torch.cat([record["image_grid_thw"] for record in records]),
        "aux_pixel_values": [record["aux_pixel_values"] for record in records],
        "region_boxes": [record["boxes"] for record in records],
    }


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = STAGE_TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("case", CASES)
def test_the_primary_tower_gives_the_recorded_tokens_and_map(case: str) -> None:
    record = recorded(case)
    primary = model().host_adapter.encode_images(
        model().host, record["pixel_values"], record["image_grid_thw"]
    )
    assert_close(primary.tokens[0], record["vision.merged"])
    assert_close(primary.maps[0].map_CHW, record["vision.last_full_attention"])


@pytest.mark.parametrize("case", CASES)
def test_the_auxiliary_tower_gives_the_recorded_stages(case: str) -> None:
    record = recorded(case)
    stages = model().auxiliary(record["aux_pixel_values"][None])
    for stage, (feature_map,) in enumerate(stages):
        assert_close(feature_map, record[f"aux.stage{stage}"])


@pytest.mark.parametrize("case", WITH_REGIONS)
def test_the_region_encoder_gives_the_recorded_levels_and_features(case: str) -> None:
    record = recorded(case)
    primary = model().host_adapter.encode_images(
        model().host, record["pixel_values"], record["image_grid_thw"]
    )
    levels = model().region_encoder.pyramid(primary.maps[0].map_CHW[None])
    for level, (feature_map,) in enumerate(levels):
        assert_close(feature_map, record[f"fpn.level{level}"])
    (features,) = model().region_encoder(
        model().auxiliary.__call__, [record["aux_pixel_values"]], primary.maps, [record["boxes"]]
    )
    assert_close(features, record["region.pooled"])


@pytest.mark.parametrize("case", WITH_REGIONS)
def test_regions_become_the_recorded_tokens(case: str) -> None:
    batch = inputs(case)
    del batch["input_ids"], batch["attention_mask"]
    assert_close(model().get_region_features(**batch)[0], recorded(case)["region.tokens"])


@pytest.mark.parametrize("case", CASES)
def test_the_splice_gives_the_recorded_embeddings_and_positions(case: str) -> None:
    record, batch = recorded(case), inputs(case)
    encoded = model().encode_images(
        batch["pixel_values"],
        batch["image_grid_thw"],
        batch["aux_pixel_values"],
        batch["region_boxes"],
    )
    prompt = model().embed_prompt(batch["input_ids"], None, encoded)
    embeds, positions = prompt["inputs_embeds"], prompt["position_ids"]
    assert_close(embeds[0], record["input.embeds"])
    assert torch.equal(positions[-3:, 0], record["input.position_ids"])


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_recorded_ones(case: str) -> None:
    logits = model()(**inputs(case)).logits[0]
    assert (logits - recorded(case)["logits"]).abs().max() <= LOGIT_TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_greedy_generation_gives_the_recorded_tokens(case: str) -> None:
    batch = inputs(case)
    tokens = model().generate(**batch, max_new_tokens=24, do_sample=False, eos_token_id=None)
    prompt = batch["input_ids"].shape[1]
    assert torch.equal(tokens[0, :prompt], batch["input_ids"][0])
    assert tokens[0, prompt:].tolist() == recorded(case)["generated"].tolist()


def test_a_padded_batch_of_all_cases_equals_the_single_ones() -> None:
    batch = inputs(*CASES)
    logits = model()(**batch).logits
    for row, case in enumerate(CASES):
        theirs = recorded(case)["logits"]
        assert (logits[row, -len(theirs) :] - theirs).abs().max() <= LOGIT_TOLERANCE
    tokens = model().generate(**batch, max_new_tokens=24, do_sample=False, eos_token_id=None)
    for row, case in enumerate(CASES):
        assert tokens[row, -24:].tolist() == recorded(case)["generated"].tolist()


@pytest.mark.parametrize("case", ["square", "many"])
def test_parity_survives_saving_in_our_own_layout(case: str, tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    again = FO1ForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs(case)).logits, model()(**inputs(case)).logits)
