"""`FO1.segment`: a proposer offers masks, and the model chooses among them."""

import numpy as np
import pytest
from tests.helpers.regions import scored
from tests.helpers.sam3 import photo
from tests.helpers.scripted_model import say

from vlm_fo1.proposals import ON_IMAGES, worth_offering
from vlm_fo1.proposers.base import Selection


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
