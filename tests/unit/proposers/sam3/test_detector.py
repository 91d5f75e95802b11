"""SAM 3 at tiny random size: what the network says is what comes out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers.sam3 import GUESSES, SIDE, photo, save_tiny_sam3

from vlm_fo1.errors import BoxError, CheckpointError, ConfigError, PromptError
from vlm_fo1.proposers.base import Proposer, load_proposer
from vlm_fo1.proposers.sam3 import SAM3Proposer, SAM3Tracker
from vlm_fo1.proposers.sam3.loading import pixels_of

# --- one image ----------------------------------------------------------------------------------


def test_it_is_known_by_name(sam3_folder):
    found = load_proposer(f"sam3:{sam3_folder}", device="cpu")
    assert isinstance(found, SAM3Proposer)
    assert isinstance(found, Proposer)


def test_the_image_is_stretched_to_a_square_from_minus_one_to_one():
    white = pixels_of(Image.new("RGB", (30, 10), "white"), SIDE)
    assert white.shape == (3, SIDE, SIDE)
    assert white.min() == white.max() == 1
    halves = Image.new("RGB", (100, 50))
    halves.paste((255, 0, 0), (50, 0, 100, 50))
    seen = pixels_of(halves, SIDE)
    assert seen[0, :, : SIDE // 2 - 1].max() == -1
    assert seen[0, :, SIDE // 2 + 1 :].min() == 1
    assert seen[1:].max() == -1


@torch.inference_mode()
def test_boxes_scores_and_masks_are_those_of_the_network(sam3):
    image = photo()
    tokens = sam3.tokenizer("cat", padding="max_length", max_length=32, return_tensors="pt")
    found = sam3.model(
        pixel_values=pixels_of(image, SIDE)[None],
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
    )
    scores = (found.pred_logits.sigmoid() * found.presence_logits.sigmoid())[0]
    order = scores.argsort(descending=True)
    boxes = found.pred_boxes[0, order] * torch.tensor([96.0, 64.0, 96.0, 64.0])
    maps = found.pred_masks[:, order].sigmoid()
    masks = torch.nn.functional.interpolate(maps, (64, 96), mode="bilinear")[0] > 0.5
    regions = sam3.propose([image], queries=["cat"])[0]
    assert len(regions) == GUESSES
    np.testing.assert_allclose(regions.scores, scores[order], atol=1e-6)
    np.testing.assert_allclose(regions.xyxy, np.clip(boxes.numpy(), 0, [96, 64, 96, 64]), atol=1e-4)
    assert regions.masks is not None
    assert np.array_equal(regions.masks, masks.numpy())
    assert 0 < regions.masks.mean() < 1


def test_several_queries_are_merged_best_first_with_their_names(sam3):
    image = photo()
    both = sam3.propose([image], queries=["cat", "a dog", "cat"])[0]
    alone = [sam3.propose([image], queries=[query])[0] for query in ("cat", "a dog")]
    assert len(both) == sum(map(len, alone))
    assert both.scores is not None
    assert (np.diff(both.scores) <= 0).all()
    for query, regions in zip(("cat", "a dog"), alone, strict=True):
        mine = both[[i for i, label in enumerate(both.labels or ()) if label == query]]
        np.testing.assert_allclose(mine.xyxy, regions.xyxy, atol=1e-4)
        assert np.array_equal(mine.masks, regions.masks)


def test_low_scores_can_be_left_out_before_masks_are_made(sam3_folder, sam3):
    image = photo()
    everything = sam3.propose([image], queries=["cat"])[0]
    assert everything.scores is not None
    least = float(np.median(everything.scores))
    fewer = SAM3Proposer.from_pretrained(str(sam3_folder), device="cpu", min_score=least)
    assert len(fewer.propose([image], queries=["cat"])[0]) == (everything.scores >= least).sum()
    assert fewer.fingerprint != sam3.fingerprint
    with pytest.raises(ConfigError, match=r"min_score = 2\.0 must be a score"):
        SAM3Proposer(sam3.model, sam3.tokenizer, min_score=2.0)


def test_bfloat16_gives_about_the_same(sam3_folder, sam3):
    half = SAM3Proposer.from_pretrained(str(sam3_folder), device="cpu", dtype="bfloat16")
    mine, theirs = (it.propose([photo()], queries=["cat"])[0] for it in (half, sam3))
    assert mine.scores is not None
    assert theirs.scores is not None
    assert mine.scores[0] == pytest.approx(theirs.scores[0], abs=0.02)


def test_a_query_that_is_too_long_is_refused(sam3):
    with pytest.raises(PromptError, match="takes 40 tokens, SAM 3 reads 32"):
        sam3.propose([photo()], queries=["c" * 40])


@pytest.mark.parametrize("part", ["detr_decoder.output_layer_norm", "mask_decoder"])
def test_a_network_that_returns_nan_is_an_error_that_says_so(sam3_folder, part):
    broken = SAM3Proposer.from_pretrained(str(sam3_folder), device="cpu")
    with torch.no_grad():
        next(broken.model.get_submodule(part).parameters()).fill_(float("nan"))
    with pytest.raises(BoxError, match=r"sam3 returned 12 of 12 .* no numbers.*dtype='float32'"):
        broken.propose([photo()], queries=["cat"])


# --- loading --------------------------------------------------------------------------------------


def test_something_to_load_has_to_be_named():
    with pytest.raises(ConfigError, match=r"sam3:facebook/sam3 \(a gated repository"):
        load_proposer("sam3")


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be loaded as SAM 3"):
        SAM3Proposer.from_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr"}))
    with pytest.raises(CheckpointError, match=r"of type 'detr': one of sam3_video, sam3 is needed"):
        SAM3Proposer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("network", [SAM3Proposer, SAM3Tracker])
def test_weights_of_another_network_are_refused(network, tmp_path):
    path = save_tiny_sam3(tmp_path) / "model.safetensors"
    weights = load_file(path)
    kept = {name: tensor for name, tensor in weights.items() if "mask_decoder" not in name}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"another network: \d+ of \d+ tensors .*mask_decod"):
        network.from_pretrained(str(tmp_path), device="cpu")
