"""Boxes in every form a user has them."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_fo1.errors import BoxError
from vlm_fo1.formats.boxes import Offer, by_image, given_regions, read_boxes
from vlm_fo1.images import Frame
from vlm_fo1.regions import Regions

SIZE = (100, 80)
XYXY = [[1.0, 2.0, 30.0, 40.0], [10.0, 20.0, 90.0, 70.0]]
XYWH = [[1, 2, 29, 38], [10, 20, 80, 50]]
COCO = {
    "images": [
        {"id": 7, "file_name": "day/a.jpg"},
        {"id": 8, "file_name": "night/a.jpg"},
        {"id": 9, "file_name": "b.jpg"},
        {"id": 10, "file_name": "empty.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "bbox": XYWH[0]},
        {"id": 2, "image_id": 7, "bbox": XYWH[1]},
        {"id": 3, "image_id": 9, "bbox": XYWH[1]},
        {"id": 4, "image_id": 8, "bbox": XYWH[0]},
    ],
}
RESULTS = [
    {"image_id": 139, "bbox": XYWH[0], "score": 0.5},
    {"image_id": 285, "bbox": XYWH[1], "score": 0.25},
    {"image_id": 139, "bbox": XYWH[1], "score": 0.75},
]


def regions_of(source, size_wh=SIZE, image=None):
    return given_regions(source, size_wh, image=image).regions


def boxes_of(source, image=None):
    return regions_of(source, SIZE, image=image).xyxy.tolist()


@pytest.mark.parametrize(
    "source",
    [
        XYXY,
        tuple(map(tuple, XYXY)),
        np.array(XYXY),
        np.array(XYXY, np.float16),
        torch.tensor(XYXY),
        [{"xyxy": box} for box in XYXY],
        [{"bbox": box} for box in XYWH],
        [{"bbox": np.array(box)} for box in XYWH],
        [{"bbox": torch.tensor(box)} for box in XYWH],
        {"xyxy": XYXY},
        {"regions": {"xyxy": XYXY}, "task": "detection"},
        {"annotations": COCO["annotations"][::2], "images": COCO["images"][2:3]},
        Regions(np.array(XYXY, np.float32), SIZE),
    ],
    ids=[
        "lists", "tuples", "array", "half", "tensor", "records", "coco boxes",
        "arrays in records", "tensors in records",
        "regions as dict", "answer as dict", "data set of one image", "Regions",
    ],
)  # fmt: skip
def test_the_same_boxes_come_out_of_every_form(source):
    regions = regions_of(source, SIZE)
    assert regions.xyxy.tolist() == XYXY
    assert regions.size_wh == SIZE
    assert regions.scores is None


@pytest.mark.parametrize("source", [[], (), np.zeros((0, 4)), {"xyxy": []}])
def test_nothing_is_no_regions(source):
    assert len(regions_of(source, SIZE)) == 0


@pytest.mark.parametrize(
    "source",
    [
        [{"xyxy": XYXY[0], "score": 0.5}, {"xyxy": XYXY[1], "score": 0.75}],
        [{"bbox": XYWH[0], "score": 0.5}, {"bbox": XYWH[1], "score": 0.75}],
        {"xyxy": XYXY, "scores": [0.5, 0.75]},
        Regions(np.array(XYXY, np.float32), SIZE, np.array([0.5, 0.75], np.float32)),
    ],
)
def test_scores_stay_with_their_boxes(source):
    regions = regions_of(source, SIZE)
    assert regions.scores is not None
    assert regions.scores.tolist() == [0.5, 0.75]
    assert regions.xyxy.tolist() == XYXY


def test_a_score_of_null_is_unknown():
    scores = regions_of({"xyxy": XYXY, "scores": [0.5, None]}, SIZE).scores
    assert scores is not None
    assert scores[0] == 0.5
    assert np.isnan(scores[1])


def test_what_regions_write_is_read_back():
    regions = Regions(
        np.array(XYXY, np.float32), SIZE, np.array([0.5, np.nan], np.float32), labels=("a", "b")
    )
    again = regions_of(json.loads(json.dumps(regions.to_dict())), SIZE)
    assert again.to_dict()["xyxy"] == regions.to_dict()["xyxy"]
    assert again.to_dict()["scores"] == regions.to_dict()["scores"]


def test_regions_keep_their_labels_and_are_clipped_like_all_boxes():
    wide = np.array([[-9, 2, 300, 40]], np.float32)
    regions = regions_of(Regions(wide, SIZE, labels=("cat",)), SIZE)
    assert regions.labels == ("cat",)
    assert regions.xyxy.tolist() == [[0, 2, 100, 40]]
    assert boxes_of(wide) == [[0, 2, 100, 40]]


def test_regions_of_an_image_of_another_size_are_refused():
    other = Regions(np.array(XYXY, np.float32), (200, 160))
    with pytest.raises(BoxError, match=r"of an image of \(200, 160\), this one is \(100, 80\)"):
        regions_of(other, SIZE)


# --- files and collections -----------------------------------------------------------------------


def test_a_file_holds_any_of_these_forms(tmp_path):
    path = tmp_path / "boxes.json"
    for source in (XYXY, {"xyxy": XYXY}, [{"bbox": box} for box in XYWH], {"x.jpg": XYXY}):
        path.write_text(json.dumps(source))
        assert boxes_of(path, "x.jpg") == boxes_of(str(path), Path("x.jpg")) == XYXY


@pytest.mark.parametrize("key", ["photos/a.b.jpg", "a.b.jpg", "a.b"])
def test_a_dict_from_file_name_is_looked_up_by_path_name_or_stem(key):
    assert boxes_of({"other.jpg": [], key: XYXY}, "photos/a.b.jpg") == XYXY


def test_each_file_may_have_its_own_form():
    source = {"a.jpg": [{"bbox": box, "score": 1} for box in XYWH], "b.jpg": {"xyxy": XYXY[:1]}}
    assert boxes_of(source, "a.jpg") == XYXY
    assert boxes_of(source, "b.jpg") == XYXY[:1]


def test_a_file_name_that_is_not_in_the_dict_is_refused_with_those_that_are():
    source = {f"{number}.jpg": XYXY for number in range(7)}
    with pytest.raises(BoxError) as caught:
        regions_of(source, SIZE, image="photos/x.jpg")
    assert str(caught.value) == (
        "the boxes hold nothing for 'x.jpg'; they are about '0.jpg', '1.jpg', '2.jpg' and 4 more"
    )
    with pytest.raises(BoxError, match=r"nothing for an image without a file name; .* '0\.jpg'"):
        regions_of(source, SIZE)
    with pytest.raises(BoxError, match="they are about no image"):
        regions_of({}, SIZE, image="x.jpg")


def test_a_data_set_gives_the_boxes_of_the_named_image_in_its_order():
    assert boxes_of(COCO, "b.jpg") == boxes_of(COCO, Path("/data/b.jpg")) == XYXY
    assert boxes_of(COCO, 9) == XYXY
    assert boxes_of(COCO, "empty.jpg") == []


def test_a_data_set_tells_images_of_one_name_apart_by_their_folder():
    assert boxes_of(COCO, "photos/day/a.jpg") == [XYXY[1]]
    assert boxes_of(COCO, "photos/night/a.jpg") == [XYXY[0]]
    with pytest.raises(BoxError, match=r"2 images named 'a\.jpg': name each with the folders"):
        regions_of(COCO, SIZE, image="elsewhere/a.jpg")


def test_an_image_that_is_not_in_the_data_set_is_refused_even_if_there_is_only_one():
    with pytest.raises(
        BoxError, match=r"nothing for 'x\.jpg'; they are about 'day/a\.jpg', .* 1 more"
    ):
        regions_of(COCO, SIZE, image="x.jpg")
    one = {"images": COCO["images"][:1], "annotations": COCO["annotations"][1:2]}
    with pytest.raises(BoxError, match=r"nothing for 'x\.jpg'; they are about 'day/a\.jpg'$"):
        regions_of(one, SIZE, image="x.jpg")
    assert boxes_of(one) == [XYXY[1]]


@pytest.mark.parametrize(
    "broken",
    [
        {"images": [{"file_name": "a.jpg"}], "annotations": []},
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"bbox": XYWH[0]}]},
        {"images": 3, "annotations": []},
        {"images": ["a.jpg"], "annotations": []},
        {"images": [], "annotations": None},
    ],
)
def test_a_broken_data_set_is_refused_with_what_it_needs(broken):
    words = "each of 'images' needs an 'id' and a 'file_name', each of 'annotations' an 'image_id'"
    with pytest.raises(BoxError, match=words):
        regions_of(broken, SIZE, image="a.jpg")


@pytest.mark.parametrize("image", ["139.jpg", "coco/000000000139.jpg", 139])
def test_results_about_many_images_are_picked_by_the_id_in_the_file_name(image):
    regions = regions_of(RESULTS, SIZE, image=image)
    assert regions.xyxy.tolist() == XYXY
    assert regions.scores is not None
    assert regions.scores.tolist() == [0.5, 0.75]


def test_results_about_one_image_are_about_the_one_that_is_named_and_it_is_said():
    offer = given_regions(RESULTS[::2], SIZE, image="holiday.jpg")
    assert offer.regions.xyxy.tolist() == XYXY
    assert offer.notes == (
        "the boxes are of image_id 139, which does not say whether that is 'holiday.jpg': they "
        "were taken as its own",
    )
    for image in (139, "139.jpg", "x/000139.png", None):
        assert given_regions(RESULTS[::2], SIZE, image=image).notes == ()


@pytest.mark.parametrize("image", ["140.jpg", "000000000140.jpg", 140])
def test_results_about_one_image_are_not_those_of_another_id(image):
    with pytest.raises(BoxError, match=r"about 1 image, none of them .*e\.g\. 139\.jpg"):
        given_regions(RESULTS[::2], SIZE, image=image)


def test_results_that_state_the_name_of_another_image_are_refused():
    results = [{**RESULTS[0], "image_id": "other"}]
    with pytest.raises(BoxError, match=r"none of them 'holiday\.jpg'.*e\.g\. other\.jpg"):
        given_regions(results, SIZE, image="holiday.jpg")
    assert boxes_of(results, "x/other.png") == XYXY[:1]


def test_of_several_images_only_those_that_an_id_names_get_results_about_one():
    several = by_image(RESULTS[::2])
    assert given_regions(several, SIZE, image="000139.jpg").regions.xyxy.tolist() == XYXY
    with pytest.raises(BoxError, match=r"nothing for 'holiday\.jpg'; they are about '139'$"):
        given_regions(several, SIZE, image="holiday.jpg")
    for source in (XYXY, [], [{"xyxy": XYXY[0]}], {"xyxy": XYXY}, COCO, None):
        assert by_image(source) is source


def test_results_of_which_some_have_no_image_are_refused():
    with pytest.raises(BoxError, match="1 of 2 boxes have an image_id: give all or none"):
        given_regions([RESULTS[0], {"bbox": XYWH[0]}], SIZE, image="139.jpg")


@pytest.mark.parametrize("image", ["holiday.jpg", None, 140])
def test_results_about_other_images_are_refused(image):
    with pytest.raises(BoxError, match=r"about 2 images, none of them .*e\.g\. 139\.jpg"):
        regions_of(RESULTS, SIZE, image=image)


# --- what tensors, detectors and data frames hold ------------------------------------------------


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(XYXY, requires_grad=True),
        torch.tensor(XYXY, dtype=torch.bfloat16),
        torch.tensor(XYXY, dtype=torch.float64, requires_grad=True) * 1,
        torch.tensor(XYXY).long(),
    ],
    ids=["gradient", "bfloat16", "of a graph", "integers"],
)
def test_a_tensor_may_be_of_any_type_and_in_a_graph(tensor):
    assert boxes_of(tensor) == XYXY
    assert boxes_of(list(tensor)) == XYXY
    scores = torch.tensor([0.5, 0.75], dtype=torch.bfloat16, requires_grad=True)
    assert np.array_equal(
        np.asarray(regions_of({"xyxy": tensor, "scores": scores}).scores), [0.5, 0.75]
    )


@pytest.mark.gpu
def test_a_tensor_may_be_on_a_gpu():
    assert boxes_of(torch.tensor(XYXY, device="cuda", dtype=torch.bfloat16)) == XYXY


def test_what_detectors_of_transformers_give_is_read():
    found = {"scores": torch.tensor([0.5, 0.25]), "labels": torch.tensor([3, 1])}
    regions = regions_of({**found, "boxes": torch.tensor(XYXY)})
    assert regions.xyxy.tolist() == XYXY
    assert np.array_equal(np.asarray(regions.scores), [0.5, 0.25])
    corners = [dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)) for box in XYXY]
    piped = [{"score": 0.5, "label": "cat", "box": box} for box in corners]
    regions = regions_of(piped)
    assert regions.xyxy.tolist() == XYXY
    assert regions.labels == ("cat", "cat")
    assert np.array_equal(np.asarray(regions.scores), [0.5, 0.5])


def test_data_frames_with_corners_or_with_four_columns_are_read():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    names = ["xmin", "ymin", "xmax", "ymax"]
    frame = pandas.DataFrame(XYXY, columns=names)
    assert boxes_of(frame) == XYXY
    assert boxes_of(frame.assign(label=["cat", "dog"], score=[0.5, 0.25])) == XYXY
    assert regions_of(frame.assign(label=["cat", "dog"])).labels == ("cat", "dog")
    assert boxes_of(pandas.DataFrame(XYXY)) == XYXY


# --- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        [[0, 0, 1, 1], [0.1, 0.2, 0.5, 0.6]],
        np.array([[0.1, 0.2, 0.5, 0.6]]),
        {"xyxy": [[0.1, 0.2, 0.5, 0.6]]},
        [{"bbox": [0.1, 0.2, 0.4, 0.4]}],
        Regions(np.array([[0.1, 0.2, 0.5, 0.6]], np.float32), SIZE),
    ],
)
def test_boxes_that_look_like_shares_are_taken_as_pixels_and_it_is_said(source):
    offer = given_regions(source, SIZE)
    assert offer.regions.xyxy[-1].tolist() == pytest.approx([0.1, 0.2, 0.5, 0.6])
    assert offer.notes == (
        "all boxes lie between 0 and 1 and were taken as pixels: if they are shares of the image, "
        "multiply them by its width and height",
    )
    assert given_regions(offer, SIZE).notes == offer.notes
    assert given_regions([[0, 0, 1, 1], [0, 0, 2, 1]], SIZE).notes == ()
    assert given_regions([], SIZE).notes == ()


def test_boxes_that_stick_far_out_are_clipped_and_it_is_said():
    mixed_up = [{"bbox": box} for box in XYXY]  # corners where width and height belong
    offer = given_regions(mixed_up, SIZE)
    assert offer.regions.xyxy.tolist() == [[1, 2, 31, 42], [10, 20, 100, 80]]
    assert offer.notes[0].startswith("1 of 2 boxes stick far out of the image and were clipped")
    assert given_regions([[-4, -3, 104, 83]], SIZE).notes == ()


# --- what cannot be used -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([[1, 2, 3]], r"shape \(N, 4\), got \(1, 3\)"),
        ([[1, 2, 3, 4], [1, 2]], "rows of four numbers"),
        ("nothing.json", r"nothing\.json does not exist: check the path"),
        (None, "got object values"),
        (3, r"got \(\)"),
        ([["a", "b", "c", "d"]], "got str"),
        ([XYXY[0], [50, 5, 20, 9]], r"box 1 = \(50, 5, 20, 9\) is reversed"),
        ([{"xyxy": XYXY[0]}, {"box": XYXY[0]}], "box 1 has neither 'xyxy' .* it has 'box'"),
        ([{"xyxy": XYXY[0]}, {}], "box 1 has neither .* it has nothing"),
        ([{"xyxy": XYXY[0]}, XYXY[1]], r"box 1 is \[10.* but box 0 is a dict: give all in one"),
        ([{"bbox": XYWH[0]}, {"bbox": []}], r"box 1 is \[\]: four numbers are needed"),
        ([{"bbox": XYWH}], r"box 0 is \[\[1, 2, 29, 38\].*: four numbers are needed"),
        ([{"bbox": "1234"}], "box 0 is '1234': four numbers are needed"),
        ([{"xyxy": None}], "box 0 is None: four numbers are needed"),
        ([{"xyxy": [1, 2, 3]}], r"box 0 is \[1, 2, 3\]: four numbers are needed"),
        (
            [{"xyxy": XYXY[0], "score": 1}, {"xyxy": XYXY[1]}],
            "1 of 2 boxes have a score: give all or none",
        ),
        ([{"xyxy": XYXY[0], "score": "high"}], "scores must be numbers, one per box"),
        ({"xyxy": XYXY, "scores": [0.5]}, r"scores has shape \(1,\) for 2 boxes"),
        ({"xyxy": XYXY, "scores": ["x", "y"]}, "scores must be numbers, one per box"),
        ({"xyxy": XYXY, "scores": [0.5, float("inf")]}, "scores of box 1 is infinite"),
        ({"xyxy": XYXY, "scores": [0.5, 10**400]}, "scores of box 1 is infinite"),
        ({"xyxy": XYXY, "scores": [0.5, "0.5"]}, "score of box 1 is '0.5': scores must be numbers"),
        ({"xyxy": XYXY, "labels": "ab"}, "labels are 'ab': a list with one text a box"),
        ({"xyxy": XYXY, "labels": ["a", None]}, "label of box 1 is None: a text is needed"),
        ({"xyxy": XYXY, "labels": ["a", "\ud83d"]}, "label of box 1 is .*half of a character"),
        ([{"xyxy": XYXY[0], "label": "\ud83d"}], "label of box 0 is .*half of a character"),
        ([{"bbox": [1, 2, 3, 4, 5]}], r"box 0 is \[1, 2, 3, 4, 5\]: four numbers are needed"),
        ([{"bbox": ["1", "2", "3", "4"]}], r"box 0 is \['1', .*\]: four numbers are needed"),
        ([{"bbox": [1, 2, True, 4]}], "four numbers are needed"),
        ([{"bbox": [1, 2, float("nan"), 4]}], "holds NaN or infinity"),
        ([{"bbox": [1, 2, 10**400, 4]}], "holds NaN or infinity"),
        ([{"bbox": None, "segmentation": [[1, 2, 3]]}], "box 0 is None: four numbers are needed"),
        ({"regions": 5}, "'regions' holds no boxes"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_index(source, words):
    with pytest.raises(BoxError, match=words):
        regions_of(source, SIZE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[[1, 2,", r"b\.json is not JSON"),
        (b"", r"b\.json is empty"),
        (b"\xff\xfe", "cannot be read as UTF-8 text"),
        (b"null", "holds None: a list or a dict is needed"),
        (b'"other.json"', "holds 'other.json': a list or a dict is needed"),
    ],
)
def test_a_file_that_holds_no_boxes_is_refused_by_name(tmp_path, content, words):
    path = tmp_path / "b.json"
    path.write_bytes(content)
    with pytest.raises(BoxError, match=words):
        read_boxes(path)


@pytest.mark.parametrize("name", ["boxes.json", "boxes.jsonl", "a.txt"])
def test_a_file_may_begin_with_a_mark_that_says_it_is_utf8(tmp_path, name):
    text = {
        "boxes.json": json.dumps(XYXY[:1]),
        "boxes.jsonl": json.dumps({"file": "a.jpg", "regions": {"xyxy": XYXY[:1]}}),
        "a.txt": "0 0.155 0.2625 0.29 0.475",
    }[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8-sig")
    assert boxes_of(path, "a.jpg") == pytest.approx(np.array(XYXY[:1]))


def test_what_is_wrong_in_a_file_is_said_with_its_name(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text('[{"bbox": [1, 2, "3", 4]}]')
    with pytest.raises(BoxError, match=r"boxes\.json: box 0 is \[1, 2, '3', 4\]: four numbers"):
        given_regions(path, SIZE)


# --- anything ------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-5, 120), st.floats(width=32), st.sampled_from([1e39, 10**400, True, None, "1"])
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=4), st.just("\ud800"))
FOURS = st.just([1, 2, 30, 40]) | st.lists(NUMBERS, min_size=3, max_size=5)
KEYS = st.sampled_from(
    [
        *("xyxy", "bbox", "boxes", "box", "scores", "score", "labels", "label", "masks", "size"),
        *("segmentation", "counts", "images", "annotations", "categories", "id", "image_id"),
        *("category_id", "file_name", "name", "width", "height", "regions", "image", "file"),
        *("shapes", "points", "shape_type", "imagePath", "imageWidth", "imageHeight", "a", "a.jpg"),
    ]
)
JSON = st.recursive(
    LEAVES | FOURS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries({}, optional={"id": LEAVES, "file_name": LEAVES, "width": NUMBERS})
RECORDS = st.fixed_dictionaries(
    {"bbox": FOURS | LEAVES},
    optional={
        "image_id": LEAVES,
        "id": LEAVES,
        "category_id": LEAVES,
        "score": NUMBERS,
        "label": LEAVES,
        "segmentation": JSON,
    },
)
DATA_SETS = st.fixed_dictionaries(
    {
        "images": st.lists(ENTRIES, max_size=2) | LEAVES,
        "annotations": st.lists(RECORDS, max_size=3),
    },
    optional={"categories": JSON},
)
SHAPES = st.fixed_dictionaries({"points": st.lists(FOURS | LEAVES, max_size=3) | JSON})
ANSWERS = st.fixed_dictionaries(
    {"xyxy": st.lists(FOURS, max_size=2) | JSON},
    optional={"scores": st.lists(NUMBERS, max_size=2), "labels": JSON, "masks": JSON},
)


@settings(max_examples=300)
@given(
    source=st.one_of(
        JSON,
        DATA_SETS,
        st.lists(RECORDS, max_size=3),
        st.fixed_dictionaries({"shapes": st.lists(SHAPES, max_size=2), "imageWidth": NUMBERS}),
        st.fixed_dictionaries({"regions": ANSWERS, "image": JSON}),
        ANSWERS,
    ).filter(lambda source: not isinstance(source, str)),
    image=st.sampled_from([None, "a.jpg", "1.jpg", 1, ""]),
)
def test_any_value_gives_regions_or_says_why_not(source, image):
    try:
        offer = given_regions(source, Frame((80, 100), (100, 80), 6), image=image)
    except BoxError as error:
        said = [str(error)]
    else:
        assert isinstance(offer, Offer)
        assert offer.regions.size_wh == (80, 100)
        said = [json.dumps(offer.regions.to_dict(masks=True), allow_nan=False), *offer.notes]
    assert all(text.encode() for text in said)  # can be printed and saved


@settings(max_examples=100)
@given(rows=st.lists(st.lists(st.floats() | st.floats(0, 1), min_size=1, max_size=12), max_size=3))
def test_any_rows_of_numbers_give_regions_or_say_why_not(rows):
    with contextlib.suppress(BoxError):
        assert len(given_regions({"yolo": rows}, SIZE).regions) == len(rows)
