"""Boxes from the files that other tools write: YOLO, LabelMe, supervision, folders, JSON Lines."""

import json
import unicodedata

import numpy as np
import pytest

from vlm_fo1.errors import BoxError
from vlm_fo1.formats.boxes import given_regions, read_boxes
from vlm_fo1.images import Frame
from vlm_fo1.masks import encode_rle
from vlm_fo1.regions import Regions

SIZE = (100, 80)
XYXY = [[10.0, 20.0, 30.0, 40.0], [50.0, 0.0, 100.0, 80.0]]
YOLO = "3 0.2 0.375 0.2 0.25\n0 0.75 0.5 0.5 1\n"
SCORED = "3 0.2 0.375 0.2 0.25 0.5\n\n0 0.75 0.5 0.5 1 0.25\n"
LABELME = {
    "shapes": [
        {"label": "cat", "shape_type": "rectangle", "points": [[30, 40], [10, 20]]},
        {"label": "dog", "shape_type": "polygon", "points": [[50, 0], [100, 40], [75, 80]]},
    ],
    "imagePath": "a.jpg",
    "imageWidth": 100,
    "imageHeight": 80,
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def regions_of(source, size_wh=SIZE, image=None):
    return given_regions(source, size_wh, image=image).regions


def near(regions, boxes):
    np.testing.assert_allclose(regions.xyxy, np.reshape(boxes, (-1, 4)), atol=1e-4)
    return True


# --- YOLO ----------------------------------------------------------------------------------------


def test_yolo_shares_become_pixels_of_the_image(tmp_path):
    regions = regions_of(write(tmp_path / "a.txt", YOLO), SIZE)
    assert near(regions, XYXY)
    assert regions.scores is None


def test_yolo_scores_stay_with_their_boxes(tmp_path):
    regions = regions_of(write(tmp_path / "a.txt", SCORED), SIZE)
    assert near(regions, XYXY)
    assert regions.scores is not None
    assert np.array_equal(np.asarray(regions.scores), [0.5, 0.25])


def test_a_yolo_outline_gives_the_box_around_it(tmp_path):
    path = write(tmp_path / "a.txt", "0 0.1 0.25 0.3 0.3 0.2 0.5\n")
    assert near(regions_of(path, SIZE), XYXY[:1])


def test_an_empty_yolo_file_is_an_image_without_boxes(tmp_path):
    assert len(regions_of(write(tmp_path / "a.txt", ""), SIZE)) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0.5 0.5 0.5", "line 1 has 4 numbers"),
        ("0 0.5 0.5 0.5 0.5\n0 0.1", "line 2 has 2 numbers"),
        ("0 10 20 30 40", "hold shares of the image, from 0 to 1, not pixels"),
        ("cat 0.5 0.5 0.5 0.5", "line 1 of .*a.txt is no line of a YOLO file"),
        ("0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5 0.9", "1 of 2 lines have a score"),
        ("0 0.5 0.5 0 0.5", "box 0 .* has no area"),
        ("0 nan 0.5 0.1 0.5", "line 1 holds NaN or infinity"),
        ("0 0.1 0.1 nan 0.2 0.3 0.3", "line 1 holds NaN or infinity"),
        ("0 0.1 0.1 0.2 0.2 0.3 inf", "line 1 holds NaN or infinity"),
    ],
)
def test_a_broken_yolo_file_is_refused_with_its_line(tmp_path, text, words):
    with pytest.raises(BoxError, match=words):
        regions_of(write(tmp_path / "a.txt", text), SIZE)


def yolo_of(tmp_path, text):
    return regions_of(write(tmp_path / "a.txt", text))


def test_a_score_and_the_number_of_a_track_after_it_are_told_apart(tmp_path):
    rows = "3 0.2 0.375 0.2 0.25 0.5 1\n0 0.75 0.5 0.5 1 0.25 12\n"
    regions = yolo_of(tmp_path, rows)
    assert near(regions, XYXY)
    assert np.array_equal(np.asarray(regions.scores), [0.5, 0.25])


def test_an_outline_may_have_a_score_and_a_track_too(tmp_path):
    outline = "0 0.1 0.25 0.3 0.3 0.2 0.5"
    for more in ("", " 0.5 7"):
        regions = yolo_of(tmp_path, f"{outline} 0.25{more and ' 7'}\n{outline} 0.5{more and ' 2'}")
        assert near(regions, [XYXY[0], XYXY[0]])
        assert np.array_equal(np.asarray(regions.scores), [0.25, 0.5])


@pytest.mark.parametrize("last", ["7", "1.5", "-1"])
@pytest.mark.parametrize("box", ["0 0.5 0.5 0.2 0.2", "0 0.1 0.25 0.3 0.3 0.2 0.5"])
def test_a_number_that_is_no_score_is_never_taken_for_one(tmp_path, box, last):
    text = f"{box} 1\n{box} {last}"
    with pytest.raises(BoxError, match=r"line 2 ends in .* a score from 0 to 1 is needed: is it"):
        yolo_of(tmp_path, text)


@pytest.mark.parametrize(
    "row",
    [
        "0 0.5 0.5 0.2 0.2 0.9 0.95 0.05 0.02",
        "0 0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.4 2",
        "0 0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.4 1 0.5 0.6 0",
        "0 0.5 0.5 0.4 0.4 0.42 0.41 0.58 0.43 0.45 0.6 0.57 0.58",
    ],
    ids=["two keypoints", "two with visibility", "three with visibility", "four keypoints"],
)
def test_a_pose_is_refused_by_name(tmp_path, row):
    with pytest.raises(BoxError, match=r"line 1 is a pose .* keep the first five numbers"):
        yolo_of(tmp_path, row)
    with pytest.raises(BoxError, match=r"line 2 is a pose|line 1 is a pose"):
        yolo_of(tmp_path, f"{row}\n{row}")


def test_outlines_that_touch_the_border_are_no_poses(tmp_path):
    whole = "0 0 0 1 0 1 1 0 1 0 0.5"
    assert near(yolo_of(tmp_path, whole), [[0, 0, 100, 80]])
    assert near(yolo_of(tmp_path, "0 0 0 1 0 1 1 0 1"), [[0, 0, 100, 80]])


def test_three_corners_or_a_box_with_a_track_are_not_guessed_at(tmp_path):
    with pytest.raises(BoxError, match="line 1 ends in 1 as its sixth number: a track, or"):
        yolo_of(tmp_path, "0 0.5 0.5 0.2 0.2 0.9 1")


# --- LabelMe and supervision ---------------------------------------------------------------------


def test_labelme_shapes_give_the_boxes_around_them_with_their_labels(tmp_path):
    regions = regions_of(write(tmp_path / "a.json", LABELME), SIZE)
    assert near(regions, XYXY)
    assert regions.labels == ("cat", "dog")


def test_a_labelme_file_of_another_image_is_refused_with_both_names():
    other = {**LABELME, "imagePath": "..\\shots\\other.jpg"}
    with pytest.raises(
        BoxError, match=r"of '\.\..*other\.jpg', not of 'a\.jpg': if that image was"
    ):
        given_regions(other, SIZE, image="x/a.jpg")
    for image in ("x/other.jpg", "other.png", None):
        assert given_regions(other, SIZE, image=image).notes == ()
    for stated in (None, "", 5):
        assert len(given_regions({**LABELME, "imagePath": stated}, SIZE, image="a.jpg")) == 2


def test_a_labelme_file_named_as_its_image_may_state_another_name_which_is_said(tmp_path):
    write(tmp_path / "new.json", LABELME)
    for source in (tmp_path, read_boxes(tmp_path), {"new.jpg": LABELME}):
        offer = given_regions(source, SIZE, image="x/new.jpg")
        assert near(offer.regions, XYXY)
        assert offer.notes == (
            "the boxes found under the name of 'new.jpg' say they are of 'a.jpg'",
        )


def test_a_labelme_file_of_the_stored_size_is_turned_with_its_photo():
    offer = given_regions(LABELME, Frame((80, 100), (100, 80), 8))
    assert near(offer.regions, [[20, 70, 40, 90], [0, 0, 80, 50]])
    assert "turned upright" in offer.notes[0]


def test_a_labelme_circle_is_its_centre_and_a_point_on_it():
    shape = {"label": "sun", "shape_type": "circle", "points": [[20, 30], [20, 40]]}
    assert near(regions_of({"shapes": [shape]}, SIZE), [[10, 20, 30, 40]])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({**LABELME, "imageWidth": 200}, r"an image of \(200, 80\), this one is \(100, 80\)"),
        ({"shapes": [{"label": "a", "points": [[1, 2]]}]}, "shape 0 .* has 1 points"),
        ({"shapes": [{"label": "a", "points": [1, 2]}]}, "shape 0 has no points"),
        ({"shapes": [{"label": "a"}]}, "shape 0 has no points"),
        ({"shapes": ["a"]}, "shape 0 has no points"),
        ({"shapes": {"a": 1}}, "'shapes' is dict: a list of shapes is needed"),
        ({"shapes": [{"points": [[1, 2], [None, 4]]}]}, "shape 0 has no points"),
        ({"shapes": [{"points": [[1, 2], [10**400, 4]]}]}, "shape 0 has no points"),
        ({"shapes": [{"points": [[1, 2], [float("nan"), 4]]}]}, "shape 0 .* holds NaN or infinity"),
        ({**LABELME, "imageWidth": "wide"}, "the size 'wide' x 80 is none"),
    ],
)
def test_a_broken_labelme_file_is_refused_with_the_shape(source, words):
    with pytest.raises(BoxError, match=words):
        regions_of(source, SIZE)


@pytest.mark.filterwarnings("ignore:OpenCV .* is not installed:UserWarning")
def test_detections_of_supervision_keep_scores_names_and_masks():
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    masks = np.zeros((2, 80, 100), np.bool_)
    masks[0, 20:40, 10:30] = True
    detections = supervision.Detections(
        xyxy=np.array(XYXY),
        confidence=np.array([0.5, 0.25]),
        class_id=np.array([1, 0]),
        mask=masks,
        data={"class_name": np.array(["cat", "dog"])},
    )
    regions = regions_of(detections, SIZE)
    assert near(regions, XYXY)
    assert regions.labels == ("cat", "dog")
    assert regions.scores is not None
    assert np.array_equal(np.asarray(regions.scores), [0.5, 0.25])
    assert regions.masks is not None
    np.testing.assert_array_equal(regions.masks, masks)
    bare = regions_of(supervision.Detections(xyxy=np.array(XYXY)), SIZE)
    assert (bare.scores, bare.labels, bare.masks) == (None, None, None)
    assert len(regions_of(supervision.Detections.empty(), SIZE)) == 0


def test_labels_come_along_where_every_box_has_one():
    records = [{"xyxy": box, "label": name} for box, name in zip(XYXY, "ab", strict=True)]
    assert regions_of(records, SIZE).labels == ("a", "b")
    assert regions_of([records[0], {"xyxy": XYXY[1]}], SIZE).labels is None
    assert regions_of({"xyxy": XYXY, "labels": ["a", "b"]}, SIZE).labels == ("a", "b")


# --- folders and JSON Lines ----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "labels" / "day" / "a.txt", YOLO)
    write(tmp_path / "labels" / "night" / "a.json", LABELME)
    write(tmp_path / "labels" / "b.json", {"xyxy": XYXY[:1]})
    write(tmp_path / "labels" / "classes.txt", "cat\ndog\n")
    return tmp_path / "labels"


@pytest.mark.parametrize("read", [lambda folder: folder, read_boxes], ids=["path", "read"])
@pytest.mark.parametrize(
    ("image", "count"), [("photos/day/a.jpg", 2), ("x/night/a.png", 2), ("b.jpg", 1)]
)
def test_a_folder_has_a_file_for_each_image(folder, read, image, count):
    regions = regions_of(read(folder), SIZE, image=image)
    assert near(regions, XYXY[:count])


def test_files_beside_the_photos_are_found(folder):
    assert near(regions_of(folder, SIZE, image=folder / "b.jpg"), XYXY[:1])
    assert near(regions_of(folder, SIZE, image=folder / "day" / "a.jpg"), XYXY)


def test_what_a_folder_holds_is_plain(folder):
    assert json.loads(json.dumps(read_boxes(folder))) == read_boxes(folder)


def test_an_image_without_a_file_in_the_folder_is_refused(folder):
    with pytest.raises(BoxError, match=r"nothing for 'c\.jpg'; .*; c\.txt or c\.json is needed"):
        regions_of(folder, SIZE, image="c.jpg")
    with pytest.raises(BoxError, match=r"hold nothing for 'c\.jpg'"):
        regions_of(read_boxes(folder), SIZE, image="c.jpg")
    with pytest.raises(BoxError, match="the image needs a name"):
        regions_of(folder, SIZE)
    with pytest.raises(BoxError, match=r"2 images named 'a\.jpg': name each with the folders"):
        regions_of(read_boxes(folder), SIZE, image="elsewhere/a.jpg")


def test_a_file_that_holds_no_boxes_is_refused_when_its_image_is_asked_for(folder):
    for source in (folder, read_boxes(folder)):
        with pytest.raises(BoxError, match=r"classes\.txt is no line of a YOLO file"):
            regions_of(source, SIZE, image="classes.jpg")


def test_names_in_a_folder_may_differ_in_accents_and_escapes(tmp_path):
    write(tmp_path / unicodedata.normalize("NFC", "Café.txt"), YOLO)
    write(tmp_path / "my photo.json", {"xyxy": XYXY[:1]})
    write(tmp_path / "._my photo.json", "no JSON")
    for source in (tmp_path, read_boxes(tmp_path)):
        assert len(given_regions(source, SIZE, image=unicodedata.normalize("NFD", "Café.jpg"))) == 2
        assert len(given_regions(source, SIZE, image="my%20photo.jpg")) == 1
    assert set(read_boxes(tmp_path)) == {"Café", "my photo"}


def test_a_line_is_refused_for_an_image_of_another_name_or_size():
    line = {"file": "day/a.jpg", "image": {"width": 100, "height": 80}, "regions": {"xyxy": XYXY}}
    assert near(regions_of(line, image="x/a.jpg"), XYXY)
    with pytest.raises(BoxError, match=r"the boxes are of 'day/a\.jpg', not of 'b\.jpg'"):
        given_regions(line, SIZE, image="b.jpg")
    turned = given_regions(line, Frame((80, 100), (100, 80), 8), image="a.jpg")
    assert near(turned.regions, [[20, 70, 40, 90], [0, 0, 80, 50]])
    assert "turned upright" in turned.notes[0]


def test_a_folder_without_box_files_is_refused(tmp_path):
    with pytest.raises(BoxError, match="holds no boxes"):
        read_boxes(tmp_path)


def test_lines_of_answers_or_proposals_are_found_by_image(tmp_path):
    image = {"width": 100, "height": 80}
    lines = [
        {"run": "1", "file": "day/a.jpg", "image": image, "regions": {"xyxy": XYXY}},
        {"run": "1", "file": "night/a.jpg", "image": image, "regions": {"xyxy": XYXY[:1]}},
        {"run": "1", "file": "b.jpg", "error": "it is broken"},
    ]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    assert near(regions_of(path, SIZE, image="/photos/day/a.jpg"), XYXY)
    assert near(regions_of(read_boxes(path), SIZE, image="night/a.jpg"), XYXY[:1])
    with pytest.raises(BoxError, match=r"hold nothing for 'b\.jpg'"):
        regions_of(path, SIZE, image="b.jpg")
    with pytest.raises(BoxError, match=r"image of \(100, 80\), this one is \(50, 40\)"):
        regions_of(path, (50, 40), image="day/a.jpg")
    with pytest.raises(BoxError, match=r"line 2 of .*x\.jsonl is no JSON object with a 'file'"):
        regions_of(write(path, json.dumps(lines[0]) + "\n[1]\n"), SIZE)


def two_masks():
    masks = np.zeros((2, 80, 100), np.bool_)
    masks[0, 20:40, 10:30] = True
    masks[1, :, 90:] = True
    return masks


def test_masks_come_back_from_what_regions_were_saved_as():
    made = Regions(
        np.array([[10, 20, 30, 40], [90, 0, 100, 80]], np.float32), (100, 80), masks=two_masks()
    )
    again = regions_of(json.loads(json.dumps(made.to_dict(masks=True))), (100, 80))
    np.testing.assert_array_equal(again.masks, made.masks)
    assert regions_of(made.to_dict(), (100, 80)).masks is None


def test_run_lengths_of_coco_results_become_masks():
    results = [
        {"image_id": 1, "bbox": [10, 20, 20, 20], "segmentation": encode_rle(two_masks()[0])},
        {"image_id": 1, "bbox": [90, 0, 10, 80], "segmentation": encode_rle(two_masks()[1])},
    ]
    np.testing.assert_array_equal(regions_of(results, (100, 80)).masks, two_masks())
    outlines = [{**result, "segmentation": [[0, 0, 9, 0, 9, 9]]} for result in results]
    assert regions_of(outlines, (100, 80)).masks is None


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"size": [80, 100], "counts": [7]}, "box 1: the runs of a mask cover 7 pixels"),
        (
            {"size": [8, 8], "counts": [64]},
            r"mask of box 1 has the size \[8, 8\], .* is \[80, 100\]",
        ),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "mask of box 1 has the size"),
        (5, "mask of box 1 has the size None"),
    ],
)
def test_masks_that_cannot_be_used_are_refused_with_their_box(second, words):
    source = {
        "xyxy": [[10, 20, 30, 40], [90, 0, 100, 80]],
        "masks": [encode_rle(two_masks()[0]), second],
    }
    with pytest.raises(BoxError, match=words):
        regions_of(source, (100, 80))
