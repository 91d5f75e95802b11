"""A line of a file for each frame."""

import json

from tests.helpers.video import SquareTracker, choose_all, frames_of, same, scene

from vlm_fo1.video.follow import Follower
from vlm_fo1.video.records import FrameRecord


def test_a_record_comes_back_from_its_line():
    follower = Follower(choose_all, SquareTracker(), every=3)
    record = follower.step(frames_of([scene(0, 2)])[0])
    again = FrameRecord.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again.to_dict() == record.to_dict()
    assert again.regions is not None
    assert record.regions is not None
    assert same(again.regions.masks, record.regions.masks)
