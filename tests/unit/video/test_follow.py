"""Things keep their numbers from frame to frame, also where something fails."""

from typing import Any

import numpy as np
import pytest
from tests.helpers.video import (
    SIDE,
    WH,
    SquareTracker,
    choose_all,
    frames_of,
    same,
    scene,
    squares_of,
)

from vlm_fo1.answer import Answer
from vlm_fo1.errors import BoxError
from vlm_fo1.masks import mask_boxes
from vlm_fo1.regions import Regions
from vlm_fo1.video.follow import Follower


def test_the_same_thing_keeps_its_number_over_key_frames():
    tracker = SquareTracker()
    follower = Follower(choose_all, tracker, every=4)
    records = [follower.step(frame) for frame in frames_of(scene(i, 2) for i in range(10))]
    assert [record.key for record in records] == [i % 4 == 0 for i in range(10)]
    assert tracker.starts == 3
    for index, record in enumerate(records):
        assert record.ids == (0, 1)
        assert record.regions is not None
        assert record.regions.labels == ("square", "square")
        assert same(record.regions.masks, squares_of(scene(index, 2)))
        left = 2 + 2 * index
        assert record.regions.xyxy.tolist() == [
            [left, 4, left + SIDE, 4 + SIDE],
            [left, 28, left + SIDE, 28 + SIDE],
        ]


def test_a_new_thing_gets_a_new_number_and_a_lost_one_leaves():
    follower = Follower(choose_all, SquareTracker(), every=2)
    images = [scene(0), scene(1), scene(2, 2), scene(3, 2), scene(4, 0), scene(5, 0), scene(6)]
    records = [follower.step(frame) for frame in frames_of(images)]
    assert [record.ids for record in records] == [(0,), (0,), (0, 1), (0, 1), (), (), (2,)]


def test_a_thing_out_of_sight_between_key_frames_is_left_out_there():
    follower = Follower(choose_all, SquareTracker(), every=4)
    images = [scene(0, 2), scene(1, 1), scene(2, 2)]
    records = [follower.step(frame) for frame in frames_of(images)]
    assert [record.ids for record in records] == [(0, 1), (0,), (0, 1)]


def test_boxes_become_masks_by_the_tracker():
    follower = Follower(lambda image: choose_all(image, masks=False), SquareTracker(), every=4)
    record = follower.step(frames_of([scene(0)])[0])
    assert record.regions is not None
    assert same(record.regions.masks, squares_of(scene(0)))


def test_a_chosen_thing_without_a_mask_is_followed_by_its_box_or_takes_no_number():
    def choose(image):
        answer = choose_all(scene(0, 2))
        assert answer.regions.masks is not None
        hollow = np.array(answer.regions.masks)
        hollow[0] = False
        regions = Regions(answer.regions.xyxy, WH, masks=hollow)
        return Answer("", regions, answer.mentions)

    follower = Follower(choose, SquareTracker(), every=4)
    seen = [follower.step(frame) for frame in frames_of([scene(0, 2), scene(1, 2)])]
    assert [record.ids for record in seen] == [(0, 1), (0, 1)]
    lower = scene(0, 2)
    lower.paste((60, 60, 60), (0, 0, 64, 24))  # the upper square is not to be seen
    follower = Follower(choose, SquareTracker(), every=4)
    seen = [follower.step(frame) for frame in frames_of([lower, scene(1, 2)])]
    assert [record.ids for record in seen] == [(0,), (0,)]
    assert seen[1].regions is not None
    assert seen[1].regions.xyxy[0, 1] == 28


OURS = BoxError("sam3 returned 12 of 12 things that are no numbers")


def failing_at(failures, error: Exception = OURS):
    """Chooses as `choose_all`, but raises on some of the images it is shown."""
    shown = []

    def choose(image):
        shown.append(image)
        if len(shown) - 1 in failures:
            raise error
        return choose_all(image)

    return choose


@pytest.mark.parametrize("error", [OURS, RuntimeError("no numbers")])
def test_where_choosing_fails_the_masks_of_the_frame_before_are_carried_on(error):
    follower = Follower(failing_at({1}, error), SquareTracker(), every=3)
    records = [follower.step(frame) for frame in frames_of(scene(i) for i in range(9))]
    assert [record.ids for record in records] == [(0,)] * 9
    assert "no numbers; the masks of the frame before are carried on" in records[3].error
    assert not any(record.error for record in records if record.index != 3)
    assert records[4].regions is not None
    assert same(records[4].regions.masks, squares_of(scene(4)))


def test_where_choosing_fails_at_once_later_key_frames_still_work():
    follower = Follower(failing_at({0}), SquareTracker(), every=2)
    records = [follower.step(frame) for frame in frames_of(scene(i) for i in range(4))]
    assert [record.ids for record in records] == [(), (), (0,), (0,)]
    assert "nothing could be chosen here" in records[0].error


class LosingTracker(SquareTracker):
    error: Exception

    def follow(self, image: Any) -> tuple[Any, Any]:
        if mask_boxes(squares_of(image))[0, 0] == 2 + 2 * 1:
            raise self.error
        return super().follow(image)


@pytest.mark.parametrize("error", [BoxError("no number"), IndexError("a fault of the tracker")])
def test_where_the_tracker_fails_nothing_is_claimed_until_the_next_key_frame(error):
    tracker = LosingTracker()
    tracker.error = error
    follower = Follower(choose_all, tracker, every=3)
    records = [follower.step(frame) for frame in frames_of(scene(i) for i in range(4))]
    assert [record.ids for record in records] == [(0,), (), (), (1,)]
    assert "nothing is followed" in records[1].error


def test_a_frame_of_another_size_is_left_out():
    follower = Follower(choose_all, SquareTracker(), every=3)
    records = [
        follower.step(frame) for frame in frames_of([scene(0), scene(1).resize((32, 24)), scene(2)])
    ]
    assert "the frame has (32, 24) pixels, those before (64, 48)" in records[1].error
    assert records[2].ids == (0,)
