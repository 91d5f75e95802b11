"""UPN against what the official code computed: every case, every recorded stage, both prompts.

The recording in `tests/data/upn` is cut down to fit; with `UPN_REFERENCE` set to a folder with the
full one (weights included) every stage of every case is compared.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from vlm_fo1.proposers.base import Selection, select
from vlm_fo1.proposers.upn import OFFICIAL_FILTER, PROMPTS, UPN, UPNConfig, UPNOutput, regions_of
from vlm_fo1.proposers.upn.decoder import Decoded
from vlm_fo1.proposers.upn.levels import Geometry
from vlm_fo1.proposers.upn.preprocessing import collate, resized_wh, to_pixels
from vlm_fo1.proposers.upn.sampling import RowSampling, sample
from vlm_fo1.proposers.upn.selection import Chosen, propose_cells
from vlm_fo1.proposers.upn.weights import released_names

KEPT = Path(__file__).parents[1] / "data" / "upn"
FULL = Path(os.environ["UPN_REFERENCE"]) if "UPN_REFERENCE" in os.environ else None
DATA = FULL or KEPT
CASES: dict[str, Any] = json.loads((DATA / "cases.json").read_text())
RUNS = [(case, prompt) for case in CASES for prompt in PROMPTS]

OF_LARGEST = 1e-5
"""Of the largest value. Asked for is 1e-4; what is reached is 2e-6 at most."""
BOX_TOLERANCE = 2e-6
"""Of boxes from 0 to 1. Asked for is 1e-5; what is reached is 5e-7 at most."""


@cache
def model() -> UPN:
    return UPN.from_pretrained(DATA)


@cache
def recorded(case: str) -> dict[str, Tensor]:
    return load_file(DATA / f"{case}.safetensors")


@cache
def inputs(case: str) -> tuple[Tensor, Tensor]:
    count = len(CASES[case]["sizes_hw"])
    return collate([recorded(case)[f"image.{index}"] for index in range(count)])


@cache
def encoded(case: str) -> tuple[dict[str, Tensor], Geometry, Tensor]:
    """Every stage up to the memory, under the recorded names."""
    upn, (pixel_values, pixel_mask) = model(), inputs(case)
    with torch.inference_mode():
        maps = upn.backbone(pixel_values)
        projected = upn.levels(maps)
        geometry = Geometry.of(projected, None if pixel_mask.all() else pixel_mask)
        memory = upn.encoder(projected, geometry)
        stages = {f"backbone.{index}": value for index, value in enumerate(maps)}
        stages |= {f"projected.{index}": value for index, value in enumerate(projected)}
        stages["lvl_pos"] = upn.encoder.positions(geometry).expand_as(memory)
        stages["encoder.reference_points"] = (
            geometry.centres()[:, :, None] * geometry.ratios[:, None]
        )
        stages["memory"] = memory
        proposals, allowed = propose_cells(geometry)
        rows = upn.selection.rows(memory, allowed)
        stages["enc.output_memory"] = rows
        stages["enc.delta"] = upn.selection.box_head(rows)
        stages["enc.proposals_unsigmoid"] = proposals
    return stages, geometry, memory


@cache
def decoded(case: str, prompt: str) -> tuple[Chosen, list[Decoded], Tensor]:
    _, geometry, memory = encoded(case)
    upn = model()
    vector = upn.prompts[prompt][0]
    with torch.inference_mode():
        chosen = upn.selection(memory, geometry, vector)
        return chosen, upn.decoder.trace(memory, geometry, chosen.references_BQ4), vector


@cache
def output(case: str, prompt: Any) -> UPNOutput:
    with torch.inference_mode():
        return model()(*inputs(case), prompt=prompt)


def close(ours: Tensor, theirs: Tensor, tolerance: float = OF_LARGEST) -> None:
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


def of_prompt(case: str, prompt: str) -> dict[str, Tensor]:
    start = f"{prompt}_prompt."
    return {k.removeprefix(start): v for k, v in recorded(case).items() if k.startswith(start)}


@pytest.mark.parametrize("case", CASES)
def test_every_map_is_the_recorded_one(case):
    stages, _, _ = encoded(case)
    names = [name for name in stages if name.startswith(("backbone", "projected"))]
    for name in set(names) & set(recorded(case)):
        close(stages[name], recorded(case)[name])
    assert case != "tiny" or set(names) <= set(recorded(case))


@pytest.mark.parametrize("case", CASES)
def test_levels_are_as_large_and_as_padded_as_recorded(case):
    record, (_, geometry, _) = recorded(case), encoded(case)
    assert [list(hw) for hw in geometry.shapes_hw] == record["spatial_shapes"].tolist()
    close(geometry.ratios, record["valid_ratios"])
    valid = ~record["mask_flatten"]
    assert valid.all() if geometry.valid_BS is None else torch.equal(geometry.valid_BS, valid)


@pytest.mark.parametrize("case", CASES)
def test_memory_and_what_it_is_made_of_are_the_recorded_ones_where_there_is_image(case):
    record, (stages, _, _) = recorded(case), encoded(case)
    valid = ~record["mask_flatten"]
    names = ("lvl_pos", "encoder.reference_points", "memory", "enc.output_memory", "enc.delta")
    for name in names:
        if name in record:
            close(stages[name][valid], record[name][valid])
    assert case != "tiny" or "memory" in record


@pytest.mark.parametrize("case", CASES)
def test_the_same_cells_may_become_proposals(case):
    ours, theirs = encoded(case)[0]["enc.proposals_unsigmoid"], recorded(case)[
        "enc.proposals_unsigmoid"
    ]  # fmt: skip
    assert torch.equal(ours.isinf(), theirs.isinf())
    allowed = ~theirs.isinf()
    close(ours[allowed], theirs[allowed])


@pytest.mark.parametrize(("case", "prompt"), RUNS)
def test_the_same_cells_are_chosen_in_the_same_order(case, prompt):
    record, (chosen, _, _) = of_prompt(case, prompt), decoded(case, prompt)
    assert torch.equal(chosen.indices_BQ, record["topk.index"])
    close(chosen.scores_BQ, record["topk.logits"])
    close(chosen.references_BQ4, record["topk.refpoint_unsigmoid"])


@pytest.mark.parametrize(("case", "prompt"), RUNS)
def test_every_decoder_layer_gives_the_recorded_rows_and_boxes(case, prompt):
    record, (_, layers, vector) = of_prompt(case, prompt), decoded(case, prompt)
    for index, layer in enumerate(layers):
        start = f"decoder.layer{index}"
        if f"{start}.hs" in record:
            close(layer.hidden_BQD, record[f"{start}.hs"])
        close((layer.hidden_BQD @ vector)[..., None], record[f"{start}.logits"])
        close(layer.boxes_BQ4, record[f"{start}.boxes"], BOX_TOLERANCE)
        following = record[f"decoder.reference.{index + 1}"]
        close(layer.next_references_BQ4, following, BOX_TOLERANCE)


@pytest.mark.parametrize(("case", "prompt"), RUNS)
def test_logits_and_boxes_are_the_recorded_ones(case, prompt):
    record, ours = of_prompt(case, prompt), output(case, prompt)
    close(ours.logits[..., None], record["pred_logits"])
    torch.testing.assert_close(ours.boxes, record["pred_boxes"], rtol=0, atol=BOX_TOLERANCE)


@pytest.mark.parametrize(("case", "prompt"), RUNS)
def test_every_recorded_filter_keeps_the_same_boxes_in_the_same_order(case, prompt):
    record = of_prompt(case, prompt)
    sizes_wh = [(w, h) for h, w in CASES[case]["original_sizes_hw"]]
    found = regions_of(output(case, prompt), sizes_wh)
    for index, regions in enumerate(found):
        all_boxes = record["post.original_xyxy_boxes"][index].numpy()
        np.testing.assert_allclose(regions.xyxy, all_boxes, rtol=0, atol=0.01)
    filters = CASES[case]["prompts"][f"{prompt}_prompt"]["filters"]
    assert len(filters) >= 5
    for number, options in enumerate(filters):
        threshold = options["nms_value"]
        kept = [
            select(
                regions,
                Selection(
                    min_score=options["min_score"],
                    nms_iou=threshold if threshold > 0 else None,
                    whole_pixels=True,
                ),
            )
            for regions in found
        ]
        # The official code ends at the first image that is left with nothing; we give it nothing.
        returned = options["images_returned"]
        assert all(len(regions) == 0 for regions in kept[returned : returned + 1])
        for index, regions in enumerate(kept[:returned]):
            theirs = record[f"filter{number}.{index}.boxes"]
            np.testing.assert_array_equal(regions.xyxy, theirs.numpy())
            assert regions.scores is not None
            np.testing.assert_array_equal(regions.scores, record[f"filter{number}.{index}.scores"])


def test_the_official_filter_is_the_first_recorded_one():
    options = CASES["square"]["prompts"]["fine_grained_prompt"]["filters"][0]
    assert OFFICIAL_FILTER.min_score == options["min_score"]
    assert OFFICIAL_FILTER.nms_iou == options["nms_value"]
    assert OFFICIAL_FILTER.whole_pixels


@pytest.mark.parametrize("case", ["tiny", "batch2"])
def test_in_bfloat16_most_chosen_boxes_stay_where_they_are(case):
    upn = UPN.from_pretrained(DATA, dtype="bfloat16")
    with torch.inference_mode():
        ours = upn(*inputs(case))
    assert ours.logits.dtype == ours.boxes.dtype == torch.float32
    theirs = output(case, "fine_grained")
    # The first stage may choose in another order: compare each box with the nearest recorded one.
    nearest = (ours.boxes[:, :, None] - theirs.boxes[:, None]).abs().amax(-1).amin(-1)
    assert nearest.median() < 0.05


def test_sampling_is_the_recorded_operator_inside_and_far_outside_the_maps():
    record = load_file(DATA / "msda_op.safetensors")
    shapes = [(h, w) for h, w in record["spatial_shapes"].tolist()]
    at, weights = record["sampling_locations"], record["attention_weights"]
    close(sample(record["value"], shapes, at, weights), record["output"], 2e-6)
    shapes_L2 = record["spatial_shapes"]
    exported = super(RowSampling, RowSampling()).forward(
        record["value"], shapes_L2, shapes, shapes_L2[:, 0], at, weights, 64
    )
    close(exported, record["output"], 2e-6)


@cache
def large() -> dict[str, Any]:
    name = "upn_large_tensors.json"
    return json.loads((KEPT / name).read_text())


def test_every_tensor_of_the_full_size_model_has_its_place_and_nothing_is_left_over():
    table = released_names(large()["tensors"])
    with torch.device("meta"):
        upn = UPN(UPNConfig())
    expected = {name: tuple(value.shape) for name, value in upn.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    not_needed = []
    for name, shape in large()["tensors"].items():
        new = table[name]
        not_needed += [] if new else [name]
        for ours in new:
            part = (shape[0] // len(new), *shape[1:])
            assert found.setdefault(ours, part) == part
    assert found == expected
    zeroed = [name for name in not_needed if "ref_point_head_point" in name]
    assert sorted(set(not_needed) - set(zeroed)) == sorted(large()["int64_buffers"])
    unused = sum(int(np.prod(large()["tensors"][name])) for name in zeroed)
    assert sum(p.numel() for p in upn.parameters()) == large()["parameters"] - unused


def test_only_the_shared_box_head_is_listed_more_than_once():
    table = released_names(large()["tensors"])
    makers: dict[str, list[str]] = {}
    for name, new in table.items():
        for ours in new:
            makers.setdefault(ours, []).append(name)
    shared = {ours: names for ours, names in makers.items() if len(names) > 1}
    assert all(ours.startswith("decoder.box_head.") for ours in shared)
    assert sum(len(names) - 1 for names in shared.values()) == len(large()["same_storage_as"])


TRANSFORM = json.loads((KEPT / "transform.json").read_text())


@pytest.mark.parametrize("row", TRANSFORM["resize_table"], ids=lambda row: str(row["input_wh"]))
def test_images_get_the_recorded_sizes(row):
    height, width = row["output_hw"]
    assert resized_wh(tuple(row["input_wh"])) == (width, height)


@pytest.mark.parametrize("name", TRANSFORM["small_cases"])
def test_pixels_are_the_recorded_ones(name):
    """To the bit, unless Pillow takes its two 8-bit passes in the other order.

    Newer releases begin with the one that leaves less to do, which for `tall` is down: then some
    pixels differ by one grey level.
    """
    record = load_file(KEPT / "transform_small.safetensors")
    case = TRANSFORM["small_cases"][name]
    image = Image.fromarray(record[f"{name}.input"].numpy())
    ours = to_pixels(image, case["shorter"], case["longer_max"])
    grey_level = 1 / 255 / 0.224 if name == "tall" else 0.0
    torch.testing.assert_close(ours, record[f"{name}.output"], rtol=0, atol=grey_level + 1e-6)
