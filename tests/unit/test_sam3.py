"""SAM 3 at tiny random size: what the network says is what comes out, and FO1 chooses from it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers_sam3 import GUESSES, SIDE, save_tiny_sam3
from tests.helpers_script import say

from vlm_fo1 import FO1
from vlm_fo1.errors import BoxError, CheckpointError, ConfigError, PromptError
from vlm_fo1.proposals import ON_IMAGES, ON_VIDEO, worth_offering
from vlm_fo1.proposers.base import Proposer, Selection, load_proposer
from vlm_fo1.proposers.sam3 import SAM3Proposer, SAM3Tracker
from vlm_fo1.proposers.sam3.loading import pixels_of
from vlm_fo1.regions import Regions


def photo(seed=0, size_wh=(96, 64)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def sam3(folder):
    return SAM3Proposer.from_pretrained(str(folder), device="cpu")


@pytest.fixture(scope="module")
def tracker(sam3):
    return SAM3Tracker.beside(sam3)


@pytest.fixture(scope="module")
def fo1():
    return FO1.from_pretrained("tiny")


# --- one image ----------------------------------------------------------------------------------


def test_it_is_known_by_name(folder):
    found = load_proposer(f"sam3:{folder}", device="cpu")
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


def test_low_scores_can_be_left_out_before_masks_are_made(folder, sam3):
    image = photo()
    everything = sam3.propose([image], queries=["cat"])[0]
    assert everything.scores is not None
    least = float(np.median(everything.scores))
    fewer = SAM3Proposer.from_pretrained(str(folder), device="cpu", min_score=least)
    assert len(fewer.propose([image], queries=["cat"])[0]) == (everything.scores >= least).sum()
    assert fewer.fingerprint != sam3.fingerprint
    with pytest.raises(ConfigError, match=r"min_score = 2\.0 must be a score"):
        SAM3Proposer(sam3.model, sam3.tokenizer, min_score=2.0)


def test_bfloat16_gives_about_the_same(folder, sam3):
    half = SAM3Proposer.from_pretrained(str(folder), device="cpu", dtype="bfloat16")
    mine, theirs = (it.propose([photo()], queries=["cat"])[0] for it in (half, sam3))
    assert mine.scores is not None
    assert theirs.scores is not None
    assert mine.scores[0] == pytest.approx(theirs.scores[0], abs=0.02)


def test_a_query_that_is_too_long_is_refused(sam3):
    with pytest.raises(PromptError, match="takes 40 tokens, SAM 3 reads 32"):
        sam3.propose([photo()], queries=["c" * 40])


@pytest.mark.parametrize("part", ["detr_decoder.output_layer_norm", "mask_decoder"])
def test_a_network_that_returns_nan_is_an_error_that_says_so(folder, part):
    broken = SAM3Proposer.from_pretrained(str(folder), device="cpu")
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


def test_the_tracker_shares_the_image_encoder(sam3, tracker, folder):
    assert tracker.model.vision_encoder.backbone is sam3.model.vision_encoder.backbone
    alone = SAM3Tracker.from_pretrained(str(folder), device="cpu")
    mine, theirs = alone.model.state_dict(), tracker.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


# --- following ------------------------------------------------------------------------------------


def test_masks_are_carried_from_frame_to_frame(sam3, tracker):
    things = sam3.propose([photo()], queries=["cat"])[0][:3]
    track = tracker.start(photo(), things)
    first, sure = track.follow(photo())
    assert first.shape == (3, 64, 96)
    assert first.dtype == np.bool_
    assert ((sure >= 0) & (sure <= 1)).all()
    assert things.masks is not None
    agree = (first == things.masks).mean((1, 2))
    assert (agree > 0.9).all()  # the first frame is the one that the masks were given for
    for seed in range(1, 4):
        masks, sure = track.follow(photo(seed))
        assert masks.shape == (3, 64, 96)
        assert sure.shape == (3,)


def test_boxes_are_followed_where_there_are_no_masks(tracker):
    boxes = np.array([[10, 10, 50, 40], [60, 20, 90, 60]], np.float32)
    track = tracker.start(photo(), Regions(boxes, (96, 64)))
    for seed in range(3):
        assert track.follow(photo(seed))[0].shape == (2, 64, 96)


def test_a_long_track_keeps_only_what_later_frames_look_at(sam3, tracker):
    track = tracker.start(photo(), sam3.propose([photo()], queries=["cat"])[0][:1])
    for seed in range(20):
        track.follow(photo(seed))
    assert not track.session.processed_frames
    kept = track.session.output_dict_per_obj[0]
    assert len(kept["non_cond_frame_outputs"]) <= 16
    assert all("high_res_masks" not in out for kind in kept.values() for out in kind.values())


def test_what_was_forgotten_would_not_have_changed_anything(sam3, tracker):
    things = sam3.propose([photo()], queries=["cat"])[0][:2]
    short, full = tracker.start(photo(), things), tracker.start(photo(), things)
    full._forget = lambda: setattr(full, "_next", full._next + 1)
    for seed in range(20):
        for mine, expected in zip(short.follow(photo(seed)), full.follow(photo(seed)), strict=True):
            assert np.array_equal(mine, expected)


def test_nothing_cannot_be_followed(tracker):
    with pytest.raises(BoxError, match="at least one region"):
        tracker.start(photo(), Regions.empty((96, 64)))


def test_a_tracker_that_returns_nan_is_an_error_that_says_so(folder, sam3):
    broken = SAM3Tracker.from_pretrained(str(folder), device="cpu")
    with torch.no_grad():
        next(broken.model.memory_attention.parameters()).fill_(float("nan"))
    track = broken.start(photo(), sam3.propose([photo()], queries=["cat"])[0][:1])
    track.follow(photo())
    with pytest.raises(BoxError, match="the tracker of sam3 returned what is no number"):
        track.follow(photo(1))


# --- behind FO1 -----------------------------------------------------------------------------------


def scored(*scores):
    boxes = np.array([[i, 0, i + 5, 5] for i in range(len(scores))], np.float32).reshape(-1, 4)
    return Regions(boxes, (200, 10), np.array(scores, np.float32))


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.9, 0.31, 0.3, 0.1], 2),  # sure: above 0.3
        ([0.76, 0.2], 1),
        ([0.75, 0.2, 0.06, 0.05], 3),  # unsure: above 0.05
        ([0.04], 0),
        ([np.nan, 0.9], 1),
        ([], 0),
    ],
)
def test_what_is_offered_depends_on_how_sure_the_best_is(scores, kept):
    assert len(worth_offering(scored(*scores))) == kept


def test_at_most_a_hundred_are_offered_the_best_first():
    offered = worth_offering(scored(*np.linspace(0.4, 0.7, 150)))
    assert len(offered) == 100
    assert offered.scores is not None
    assert offered.scores[0] == np.float32(0.7)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ((0.61, 0.31, 0.3, 0.1), 2),  # the detector knows the phrase
        ((0.59, 0.31, 0.002, 0.0005), 3),  # it does not
    ],
)
def test_on_video_less_is_needed_to_know_a_phrase_and_more_is_offered_where_it_is_not(scores, kept):
    assert len(worth_offering(scored(*scores), ON_VIDEO)) == kept
    assert len(worth_offering(scored(*[0.5] * 80), ON_VIDEO)) == 50


def test_regions_without_scores_are_all_offered():
    assert len(worth_offering(Regions(scored(0.1, 0.01).xyxy, (200, 10)))) == 2


def test_fo1_chooses_masks_by_the_counting_question(sam3, fo1, monkeypatch):
    text = "There are 1 <ground>cat</ground><objects><region1></objects> in this image."
    script = say(monkeypatch, fo1, text)
    answer = fo1.segment(photo(), proposer=sam3, phrase="the left cat", query="cat")
    offered = worth_offering(sam3.propose([photo()], queries=["cat"])[0])
    assert offered.masks is not None
    assert answer.regions.masks is not None
    assert answer.chosen.masks is not None
    assert np.array_equal(answer.regions.masks, offered.masks)
    assert np.array_equal(answer.chosen.masks, offered.masks[[1]])
    assert answer.task == "counting"
    assert answer.count == 1
    assert "the left cat" in fo1.processor.tokenizer.decode(script.prompts[-1])
    assert set(answer.timing_s) == {"propose", "encode", "answer"}


def test_the_phrase_is_the_query_unless_another_is_given(sam3, fo1, monkeypatch):
    asked = []
    propose = sam3.propose
    monkeypatch.setattr(
        sam3,
        "propose",
        lambda images, *, queries: asked.append(queries) or propose(images, queries=queries),
    )
    fo1.segment(photo(), proposer=sam3, phrase="cat", max_new_tokens=1)
    fo1.segment(photo(), proposer=sam3, phrase="the cat", query="cat", max_new_tokens=1)
    assert asked == [["cat"], ["cat"]]


class Unasked:
    """A proposer that looks for no names."""

    requires_labels = False
    name = fingerprint = "unasked"

    def __init__(self, scores, selection):
        self.scores, self.selection = scores, selection

    def propose(self, images, *, queries=None):
        assert queries is None
        return [scored(*self.scores)]


def test_a_proposer_that_looks_for_no_names_offers_its_own_selection(fo1):
    scores = (0.9, 0.32, 0.4)  # by SAM 3's thresholds all three
    assert len(worth_offering(scored(*scores))) == 3
    proposer = Unasked(scores, Selection(min_score=0.35))
    image = photo(size_wh=(200, 10))
    answer = fo1.segment(image, "cat", proposer=proposer, max_new_tokens=1)
    assert answer.regions.scores is not None
    assert answer.regions.scores.tolist() == pytest.approx([0.9, 0.4])
    many = Unasked((0.5,) * 150, Selection(limit=300))
    assert (
        len(fo1.segment(image, "cat", proposer=many, max_new_tokens=1).regions) == ON_IMAGES.limit
    )


def test_nothing_offered_is_an_answer_that_says_so(sam3, fo1, monkeypatch):
    monkeypatch.setattr(sam3, "min_score", 1.0)
    answer = fo1.segment(photo(), proposer=sam3, phrase="cat", max_new_tokens=2)
    assert not len(answer.chosen)
    assert any("no regions were offered" in problem for problem in answer.problems)
