"""What holds for proposers as such: found by name, asked the right way, thinned in one place."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from tests.helpers.stub_proposer import Stub

from vlm_fo1.errors import BoxError, ConfigError, PromptError
from vlm_fo1.proposers import base
from vlm_fo1.proposers.base import (
    DEFAULT_SELECTION,
    Selection,
    check_queries,
    load_proposer,
    names,
    ranked,
    select,
    selection_of,
)
from vlm_fo1.proposers.hf.load import Family
from vlm_fo1.regions import Regions

SIZE = (100, 80)
BOXES = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 90, 70]]


@pytest.mark.parametrize(
    ("name", "near"), [("hff:x", "hf"), ("upm:x.pth", "upn"), ("sam", "sam3"), ("OCR", "ocr")]
)
def test_an_unknown_name_is_refused_with_the_nearest(name, near):
    kind = name.partition(":")[0]
    with pytest.raises(ConfigError, match=f"no proposer '{kind}'.*(did you mean|Known)") as caught:
        load_proposer(name)
    assert f"did you mean {near!r}" in str(caught.value) or kind.isupper()
    assert all(known in str(caught.value) for known in names())


def test_boxes_that_are_no_numbers_are_refused_whoever_made_them():
    for boxes, scores in (
        ([[0, 0, np.nan, 5], [0, 0, 5, 5]], [0.5, 0.5]),
        ([[0, 0, 5, 5], [0, 0, 5, 5]], [0.5, np.nan]),
        ([[0, 0, np.inf, 5], [0, 0, 5, 5]], [0.5, 0.5]),
    ):
        with pytest.raises(BoxError, match=r"hf returned 1 of 2 boxes .*dtype='float32'"):
            ranked(boxes, scores, SIZE, name="hf")


def test_ranked_boxes_are_clipped_sorted_and_have_an_area():
    regions = ranked(
        [[-5, -5, 20, 20], [50, 50, 300, 70], [200, 5, 300, 50], [7, 7, 7, 9]],
        [0.25, 0.75, 0.9, 0.8],
        SIZE,
        name="x",
        labels=["a", "b", "c", "d"],
        masks=np.arange(4)[:, None, None] * np.ones((4, 80, 100)) == 1,
    )
    assert regions.xyxy.tolist() == [[50, 50, 100, 70], [0, 0, 20, 20]]
    assert regions.scores is not None
    assert regions.scores.tolist() == [0.75, 0.25]
    assert regions.labels == ("b", "a")
    assert regions.masks is not None
    assert regions.masks.all((1, 2)).tolist() == [True, False]


def test_a_selection_drops_by_score_then_overlap_then_number():
    regions = Regions(np.array(BOXES, np.float32), SIZE, np.array([0.9, 0.8, 0.3], np.float32))
    assert select(regions, Selection(min_score=0.5)).xyxy.tolist() == BOXES[:2]
    assert select(regions, Selection(nms_iou=0.5)).xyxy.tolist() == [BOXES[0], BOXES[2]]
    assert select(regions, Selection(limit=1)).xyxy.tolist() == BOXES[:1]
    assert len(select(regions, Selection())) == 3


@pytest.mark.parametrize("values", [{"nms_iou": 1.5}, {"nms_iou": -0.1}, {"limit": 0}])
def test_a_selection_that_cannot_be_is_refused(values):
    with pytest.raises(ConfigError):
        Selection(**values)


def test_queries_are_cleaned_needed_or_refused():
    assert check_queries("x", [" cat ", "dog"], needed=True) == ["cat", "dog"]
    assert check_queries("x", "cat", needed=True) == ["cat"]
    assert check_queries("x", None, needed=False) == []
    with pytest.raises(PromptError, match="x finds things whatever they are called"):
        check_queries("x", ["cat"], needed=False)
    with pytest.raises(PromptError, match="query 0 is ' '"):
        check_queries("x", [" "], needed=True)


def test_a_proposer_without_a_selection_of_its_own_gets_the_usual_one():
    class Bare:
        name, fingerprint, requires_labels = "bare", "1", False

        def propose(self, images, *, queries=None):
            return [Regions.empty(image.size) for image in images]

    class Odd(Bare):
        selection = "all"

    class Own(Bare):
        selection = Selection(min_score=0.9)

    assert selection_of(Bare()) == selection_of(Odd()) == DEFAULT_SELECTION
    assert selection_of(Own()) == Selection(min_score=0.9)


def test_detectors_that_score_low_are_not_cut_off_at_the_usual_score():
    least = [Family.of(kind).min_score for kind in ("rt_detr_v2", "grounding-dino", "owlv2")]
    assert least == sorted(least, reverse=True)
    assert least[0] == DEFAULT_SELECTION.min_score > least[1] > least[2] > 0


# What reaches a proposer of the Hub


class Fetched:
    """Loads a stub; remembers what it was asked."""

    asked: ClassVar[list] = []

    @classmethod
    def from_pretrained(cls, argument, *, device=None, revision=None, token=None):
        cls.asked.append((argument, device, revision, token))
        return Stub()


class Plain:
    """The same, with nothing on the Hub."""

    @classmethod
    def from_pretrained(cls, argument, *, device=None):
        Fetched.asked.append((argument, device))
        return Stub()


@pytest.fixture
def proposers(monkeypatch):
    Fetched.asked.clear()
    monkeypatch.setitem(base._CLASSES, "fetched", "made_here:Fetched")
    monkeypatch.setitem(base._CLASSES, "plain", "made_here:Plain")
    here = SimpleNamespace(Fetched=Fetched, Plain=Plain)
    monkeypatch.setitem(sys.modules, "made_here", here)


def test_revision_and_token_reach_a_proposer_and_a_revision_may_stand_in_its_name(proposers):
    load_proposer("fetched:facebook/sam3@v2", token="hf_x", device="cpu", strict=True)
    load_proposer("fetched:facebook/sam3", revision="v1")
    load_proposer("fetched:facebook/sam3@v1", revision="v1")
    assert Fetched.asked == [
        ("facebook/sam3", "cpu", "v2", "hf_x"),
        ("facebook/sam3", None, "v1", None),
        ("facebook/sam3", None, "v1", None),
    ]


def test_a_path_with_an_at_sign_is_a_path(proposers, tmp_path):
    load_proposer(f"fetched:{tmp_path}/weights@2.pth")
    load_proposer("fetched:one/two/three@v1")
    assert [asked[0] for asked in Fetched.asked] == [
        f"{tmp_path}/weights@2.pth",
        "one/two/three@v1",
    ]


def test_a_proposer_without_the_hub_gets_no_token_and_refuses_a_revision(proposers):
    load_proposer("plain:x", token="hf_x", device="cpu")
    assert Fetched.asked == [("x", "cpu")]
    with pytest.raises(ConfigError, match="the proposer plain takes no revision, got 'v1'"):
        load_proposer("plain:x", revision="v1")


def test_two_revisions_are_refused(proposers):
    with pytest.raises(ConfigError, match=r"sam3@v2 and revision = 'v1': name one"):
        load_proposer("fetched:facebook/sam3@v2", revision="v1")
