"""What is offered to be chosen from depends on how sure the best of it is."""

import numpy as np
import pytest
from tests.helpers.regions import scored

from vlm_fo1.proposals import ON_VIDEO, worth_offering
from vlm_fo1.regions import Regions


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
