"""What every proposer does, whatever stands behind it: see `tests/helpers/proposer_cases`."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from tests.helpers.proposer_cases import ProposerCase, all_cases, scene

from vlm_fo1.errors import PromptError
from vlm_fo1.proposers.base import Proposer, Selection, names, select, selection_of
from vlm_fo1.regions import Regions

CASES = all_cases()
IMAGES = [scene(0), scene(1, (64, 96)), scene(2, (80, 80))]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request) -> ProposerCase:
    if request.param.needs and importlib.util.find_spec(request.param.needs) is None:
        pytest.skip(f"{request.param.needs} is not installed: {request.param.name} is not tested")
    return request.param


@pytest.fixture(scope="module")
def proposer(case: ProposerCase, tmp_path_factory) -> Proposer:
    return case.build(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def offered(case: ProposerCase, proposer: Proposer) -> list[Regions]:
    """What it offers for `IMAGES` in one call."""
    return proposer.propose(IMAGES, queries=case.queries)


def assert_same(first: Regions, second: Regions, atol: float = 1e-3) -> None:
    """The same regions; those of all but equal score may stand in another order."""
    assert (first.size_wh, len(first)) == (second.size_wh, len(second))
    assert (first.scores is None) == (second.scores is None)
    if not len(first):
        return
    apart_NN = np.abs(first.xyxy[:, None] - second.xyxy).max(2)
    if first.scores is not None and second.scores is not None:
        np.testing.assert_allclose(first.scores, second.scores, rtol=0, atol=atol)
        apart_NN = np.maximum(apart_NN, np.abs(first.scores[:, None] - second.scores))
    assert apart_NN.min(1).max() <= atol
    assert apart_NN.min(0).max() <= atol
    twins = apart_NN.argmin(1)
    if first.labels is not None and second.labels is not None:
        assert sorted(first.labels) == sorted(second.labels)
    assert (first.masks is None) == (second.masks is None)
    if first.masks is not None and second.masks is not None:
        assert (first.masks != second.masks[twins]).mean() < 1e-3


def test_it_is_a_proposer_with_a_known_name(case: ProposerCase, proposer: Proposer) -> None:
    assert isinstance(proposer, Proposer)
    assert proposer.name in names()
    assert proposer.requires_labels == (case.queries is not None)


def test_one_result_an_image_of_its_size(offered: list[Regions]) -> None:
    assert [regions.size_wh for regions in offered] == [image.size for image in IMAGES]


def test_something_is_found(offered: list[Regions]) -> None:
    assert any(len(regions) for regions in offered)


def test_boxes_are_float32_with_an_area_within_the_image(offered: list[Regions]) -> None:
    for regions in offered:
        assert regions.xyxy.dtype == np.float32
        assert regions.xyxy.shape == (len(regions), 4)
        assert (regions.xyxy[:, 2:] > regions.xyxy[:, :2]).all()
        assert (regions.xyxy >= 0).all()
        assert (regions.xyxy <= np.array([*regions.size_wh] * 2)).all()


def test_best_comes_first(offered: list[Regions]) -> None:
    for regions in offered:
        if regions.scores is not None:
            assert regions.scores.dtype == np.float32
            assert (np.diff(regions.scores) <= 0).all()


def test_a_selection_can_be_made(offered: list[Regions]) -> None:
    for regions in offered:
        few = select(regions, Selection(nms_iou=0.5, limit=3))
        assert len(few) <= 3
        assert len(few) == min(1, len(regions)) or len(few) > 1


def test_what_is_used_of_it_fits_into_a_few_questions(
    proposer: Proposer, offered: list[Regions]
) -> None:
    selection = selection_of(proposer)
    assert selection.limit is not None
    assert selection.limit <= 300
    for regions in offered:
        used = select(regions, selection)
        assert len(used) <= min(len(regions), selection.limit)
        if used.scores is not None and len(used):
            assert used.scores.min() >= selection.min_score - 1e-6


def test_no_images_give_no_results(case: ProposerCase, proposer: Proposer) -> None:
    assert proposer.propose([], queries=case.queries) == []


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 300), (300, 1), (3, 50)])
def test_the_smallest_images_are_no_trouble(
    case: ProposerCase, proposer: Proposer, size_wh: tuple[int, int]
) -> None:
    (regions,) = proposer.propose([Image.new("RGB", size_wh, "red")], queries=case.queries)
    assert regions.size_wh == size_wh
    assert (regions.xyxy <= np.array([*size_wh] * 2)).all()


def test_images_in_one_call_get_what_each_gets_alone(
    case: ProposerCase, proposer: Proposer, offered: list[Regions]
) -> None:
    for image, regions in zip(IMAGES, offered, strict=True):
        (alone,) = proposer.propose([image], queries=case.queries)
        assert_same(alone, regions)


def test_the_images_are_not_changed(case: ProposerCase, proposer: Proposer) -> None:
    copies = [image.copy() for image in IMAGES]
    queries = None if case.queries is None else list(case.queries)
    proposer.propose(copies, queries=queries)
    for copy, image in zip(copies, IMAGES, strict=True):
        assert copy.size == image.size
        assert copy.mode == image.mode
        assert copy.tobytes() == image.tobytes()
    assert queries == case.queries


def test_threads_get_what_they_get_alone(
    case: ProposerCase, proposer: Proposer, offered: list[Regions]
) -> None:
    def alone(index: int) -> Regions:
        return proposer.propose([IMAGES[index]], queries=case.queries)[0]

    jobs = [0, 1, 0, 1]
    with ThreadPoolExecutor(2) as pool:
        for index, regions in zip(jobs, pool.map(alone, jobs), strict=True):
            assert_same(regions, offered[index])


def test_queries_are_needed_or_refused(case: ProposerCase, proposer: Proposer) -> None:
    if case.queries is None:
        with pytest.raises(PromptError, match=f"{proposer.name}.*leave out"):
            proposer.propose(IMAGES[:1], queries=["cat"])
        return
    for missing in (None, []):
        with pytest.raises(PromptError, match=f"{proposer.name}.*pass queries"):
            proposer.propose(IMAGES[:1], queries=missing)
    with pytest.raises(PromptError, match="query 1"):
        proposer.propose(IMAGES[:1], queries=["cat", " "])


def test_the_fingerprint_is_stable_and_tells_settings_apart(
    case: ProposerCase, proposer: Proposer, tmp_path_factory
) -> None:
    again = case.build(tmp_path_factory.mktemp("again"))
    assert proposer.fingerprint == proposer.fingerprint == again.fingerprint
    if case.other is not None:
        assert case.other(tmp_path_factory.mktemp("other")).fingerprint != proposer.fingerprint
