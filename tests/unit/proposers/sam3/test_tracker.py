"""SAM 3's tracker at tiny random size carries masks and boxes from frame to frame."""

import numpy as np
import pytest
import torch
from tests.helpers.sam3 import photo

from vlm_fo1.errors import BoxError
from vlm_fo1.proposers.sam3 import SAM3Tracker
from vlm_fo1.regions import Regions


@pytest.fixture(scope="module")
def tracker(sam3):
    return SAM3Tracker.beside(sam3)


def test_the_tracker_shares_the_image_encoder(sam3, tracker, sam3_folder):
    assert tracker.model.vision_encoder.backbone is sam3.model.vision_encoder.backbone
    alone = SAM3Tracker.from_pretrained(str(sam3_folder), device="cpu")
    mine, theirs = alone.model.state_dict(), tracker.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


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


def test_a_tracker_that_returns_nan_is_an_error_that_says_so(sam3_folder, sam3):
    broken = SAM3Tracker.from_pretrained(str(sam3_folder), device="cpu")
    with torch.no_grad():
        next(broken.model.memory_attention.parameters()).fill_(float("nan"))
    track = broken.start(photo(), sam3.propose([photo()], queries=["cat"])[0][:1])
    track.follow(photo())
    with pytest.raises(BoxError, match="the tracker of sam3 returned what is no number"):
        track.follow(photo(1))
