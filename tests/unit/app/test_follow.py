"""Things in frames are followed without a tracking network too."""

import numpy as np
from tests.helpers.page_answer import BOXES, IMAGE

from vlm_fo1.app.follow import StillTracker
from vlm_fo1.regions import Regions


def test_without_sam3_things_stay_where_they_were():
    track = StillTracker().start(IMAGE, Regions(np.array(BOXES[:2], np.float32), IMAGE.size))
    masks, scores = track.follow(IMAGE)
    assert masks.shape == (2, 84, 112)
    assert masks[0].sum() == 38 * 47
    np.testing.assert_array_equal(scores, [1, 1])
    np.testing.assert_array_equal(track.follow(IMAGE)[0], masks)
