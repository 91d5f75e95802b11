"""Annotation files as other tools write them: ids, sizes, names and rows of every kind."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vlm_fo1.data.names import locate
from vlm_fo1.data.recipe import make_mixture
from vlm_fo1.data.sources import (
    CocoSource,
    CocoTextSource,
    ConversationsSource,
    InstanceConfig,
    ReferencesSource,
    VisualGenomeSource,
)
from vlm_fo1.errors import DataError
from vlm_fo1.images import read_image

STORED = (60, 40)
BOX = (12, 6, 26, 16)
"""Of the red thing in the stored image, xyxy."""
ONLY_TRUTH = InstanceConfig(jitter=0.0, distractors=(0, 0), tasks={"brief_caption": 1.0})


def written(tmp_path, content, name="file.json"):
    path = tmp_path / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco(tmp_path, rows, annotations, categories=None, name="coco.json"):
    default = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "car"}]
    content = {
        "images": rows,
        "annotations": annotations,
        "categories": default if categories is None else categories,
    }
    return written(tmp_path, content, name)


def image_row(key, name="a.jpg", size=STORED, **more):
    return {"id": key, "file_name": name, "width": size[0], "height": size[1], **more}


def annotation(image_id, category: object = 1, bbox=(12, 6, 14, 10), **more):
    return {"image_id": image_id, "category_id": category, "bbox": list(bbox), **more}


def photo(folder, name="a.jpg", orientation=1):
    """An image with a red thing, turned as a phone does."""
    image = Image.new("RGB", STORED, "white")
    ImageDraw.Draw(image).rectangle((BOX[0], BOX[1], BOX[2] - 1, BOX[3] - 1), "red")
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(folder / name, exif=exif, quality=100, subsampling=0)
    return folder / name


def assert_red(example):
    """The first region is the red thing, all of it, in the image as it is shown."""
    shown = np.asarray(read_image(example.image)).astype(int)
    red = (shown[:, :, 0] > 150) & (shown[:, :, 1] < 100)
    ys, xs = np.nonzero(red)
    found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert example.regions_xyxy[0].tolist() == found


# Ids


@pytest.mark.parametrize("key", ["1", "001", 1.0, " 1 "])
def test_annotations_find_their_image_whatever_the_type_and_padding_of_ids(tmp_path, key):
    photo(tmp_path)
    photo(tmp_path, "b.jpg")
    rows = [image_row(1), image_row("02", "b.jpg")]
    boxes = [annotation(key), annotation(1, "2"), annotation(2), annotation("2", 2.0)]
    source = CocoSource(coco(tmp_path, rows, boxes), tmp_path, ONLY_TRUTH)
    assert [source.annotated(position).names for position in (0, 1)] == [("dog", "cat")] * 2
    assert [list(source.annotated(position).absent) for position in (0, 1)] == [["car"]] * 2
    assert source.notes == []


def test_annotations_of_no_image_are_counted_and_told(tmp_path):
    photo(tmp_path)
    boxes = [annotation(1), annotation(7), annotation("9"), annotation(None), [1, 2]]
    source = CocoSource(coco(tmp_path, [image_row(1), image_row(2)], boxes), tmp_path)
    told = "\n".join(source.notes)
    assert "1 of 5 annotations are no objects" in told
    assert "3 of 5 annotations belong to no image of the file (image_id 7, '9', None)" in told
    assert "1 of 2 images have no annotation" in told
    with pytest.raises(DataError, match=r"1 of 1 annotations belong to no image .*no usable"):
        CocoSource(coco(tmp_path, [image_row(1)], [annotation(5)]), tmp_path)


def test_two_images_or_two_categories_with_one_id_are_told_apart_by_nobody(tmp_path):
    photo(tmp_path)
    photo(tmp_path, "b.jpg")
    photo(tmp_path, "c.jpg")
    rows = [image_row(1), image_row("1", "b.jpg"), image_row(2, "c.jpg")]
    source = CocoSource(coco(tmp_path, rows, [annotation(1), annotation(2)]), tmp_path)
    with pytest.raises(DataError, match=r"image 1: 2 images have this id \(a\.jpg, b\.jpg\)"):
        source.annotated(0)
    assert source.annotated(2).names == ("dog",)
    categories = [{"id": 1, "name": "dog"}, {"id": "1", "name": "cat"}]
    path = coco(tmp_path, rows, [annotation(2)], categories)
    with pytest.raises(DataError, match=r"category 1 is both 'dog' and 'cat'"):
        CocoSource(path, tmp_path).annotated(0)


def test_references_and_text_are_joined_by_id_as_well(tmp_path):
    photo(tmp_path)
    path = coco(tmp_path, [image_row("0001")], [annotation(1, id="7")])
    references = [{"image_id": 1, "ann_id": 7.0, "split": "train", "sentences": ["the red dog"]}]
    source = ReferencesSource(written(tmp_path, references), path, tmp_path, distractors=(0, 0))
    (turn,) = source.example(0).turns
    assert "the red dog" in turn.question
    assert "<region0>" in turn.answer
    text = {"bbox": [12, 6, 14, 10], "legibility": "legible", "utf8_string": "EXIT"}
    content = {
        "imgs": {"0001": image_row(1, set="train")},
        "anns": {"5": {"image_id": 1, **text}, "6": {"image_id": 3, **text}},
    }
    source = CocoTextSource(written(tmp_path, content), tmp_path)
    assert source.example(0).turns[0].answer == "EXIT"
    assert "1 of 2 annotations belong to no image" in source.notes[0]


# Sizes and orientation


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
def test_boxes_of_a_photo_stated_as_it_is_stored_are_turned_along(tmp_path, orientation):
    photo(tmp_path, orientation=orientation)
    rows, boxes = [image_row(1)], [annotation(1, id=1)]
    path = coco(tmp_path, rows, boxes)
    assert_red(CocoSource(path, tmp_path, ONLY_TRUTH).example(0))
    references = [{"image_id": 1, "ann_id": 1, "sentences": [{"sent": "it"}]}]
    exact = {"split": None, "distractors": (0, 0)}
    example = ReferencesSource(
        written(tmp_path, references, "r.json"), path, tmp_path, **exact
    ).example(0)
    shown_wh = read_image(example.image).size
    assert (example.regions_xyxy[:, 2:] <= np.array(shown_wh)).all()


def test_a_photo_stated_as_it_is_shown_keeps_its_boxes(tmp_path):
    photo(tmp_path, orientation=6)
    x1, y1, x2, y2 = 40 - BOX[3], BOX[0], 40 - BOX[1], BOX[2]
    boxes = [annotation(1, bbox=[x1, y1, x2 - x1, y2 - y1])]
    path = coco(tmp_path, [image_row(1, size=(40, 60))], boxes)
    assert_red(CocoSource(path, tmp_path, ONLY_TRUTH).example(0))


def test_boxes_that_fit_a_photo_as_shown_alone_stay_though_the_stored_size_is_stated(tmp_path):
    photo(tmp_path, orientation=6)
    boxes = [annotation(1, bbox=(24, 12, 10, 14)), annotation(1, bbox=(10, 40, 14, 18))]
    source = CocoSource(coco(tmp_path, [image_row(1)], boxes), tmp_path)
    assert source.annotated(0).boxes_xyxy.tolist() == [[24, 12, 34, 26], [10, 40, 24, 58]]


def test_a_file_about_an_image_of_another_size_is_refused_with_both(tmp_path):
    photo(tmp_path, orientation=6)
    path = coco(tmp_path, [image_row(1, size=(120, 80))], [annotation(1, id=1)])
    said = r"image 1: the boxes are of an image of \(120, 80\), this one is \(40, 60\)"
    with pytest.raises(DataError, match=said):
        CocoSource(path, tmp_path).example(0)
    references = [{"image_id": 1, "ann_id": 1, "sentences": [{"sent": "it"}]}]
    with pytest.raises(DataError, match=said):
        ReferencesSource(written(tmp_path, references), path, tmp_path, None).example(0)
    text = annotation(1, legibility="legible", utf8_string="EXIT")
    content = {"imgs": {"1": image_row(1, size=(120, 80))}, "anns": {"5": text}}
    with pytest.raises(DataError, match=said):
        CocoTextSource(written(tmp_path, content), tmp_path, None).example(0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_conversations_and_visual_genome_mean_the_image_as_it_is_shown(tmp_path, orientation):
    path = photo(tmp_path, "1.jpg", orientation)
    shown = np.asarray(read_image(path)).astype(int)
    height, width = shown.shape[:2]
    ys, xs = np.nonzero((shown[:, :, 0] > 150) & (shown[:, :, 1] < 100))
    x1, y1, x2, y2 = map(int, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    said = f"[{x1 / width:.4f}, {y1 / height:.4f}, {x2 / width:.4f}, {y2 / height:.4f}]"
    row = {
        "image": "1.jpg",
        "conversations": [
            {"from": "human", "value": f"What is {said}?"},
            {"from": "gpt", "value": "It is red."},
        ],
    }
    example = ConversationsSource(written(tmp_path, [row]), tmp_path).example(0)
    assert np.allclose(example.regions_xyxy, [[x1, y1, x2, y2]], atol=0.02)
    region = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "phrase": "a red thing"}
    source = VisualGenomeSource(
        written(tmp_path, [{"id": "001", "regions": [region, {**region, "phrase": None}]}]),
        tmp_path, distractors=(0, 0),
    )  # fmt: skip
    example = source.example(0)
    assert [turn.answer for turn in example.turns] == ["a red thing"]
    assert np.abs(example.regions_xyxy[0] - [x1, y1, x2, y2]).max() <= 2


# Rows that cannot be used


BAD_ROWS = {
    "width null": {"width": None},
    "width missing": {"width": ...},
    "width of NaN": {"width": float("nan")},
    "no name": {"file_name": None},
    "name a number": {"file_name": 5},
    "missing file": {"file_name": "gone.jpg"},
    "no id": {"id": None},
}


@pytest.mark.parametrize("change", BAD_ROWS.values(), ids=BAD_ROWS)
def test_an_image_that_cannot_be_used_is_left_out_and_the_rest_is_done(tmp_path, change):
    photo(tmp_path)
    photo(tmp_path, "b.jpg")
    bad = {key: value for key, value in (image_row(1) | change).items() if value is not ...}
    rows, boxes = [bad, image_row(2, "b.jpg")], [annotation(1), annotation(2)]
    assert_one_left_out(coco(tmp_path, rows, boxes), tmp_path)


BAD_CATEGORIES = {
    "name null": {"name": None},
    "name a number": {"name": 5},
    "name a half character": {"name": "\ud83d"},
    "name of brackets": {"name": "()"},
    "no id": {"id": None},
}


@pytest.mark.parametrize("change", BAD_CATEGORIES.values(), ids=BAD_CATEGORIES)
def test_a_category_without_a_name_costs_the_images_that_show_it(tmp_path, change):
    photo(tmp_path)
    photo(tmp_path, "b.jpg")
    categories = [{"id": 1, "name": "dog", **change}, {"id": 2, "name": "cat"}]
    rows = [image_row(1), image_row(2, "b.jpg")]
    path = coco(tmp_path, rows, [annotation(1), annotation(2, 2)], categories)
    assert_one_left_out(path, tmp_path)


def assert_one_left_out(path, folder):
    entry = {"type": "coco", "annotations": str(path), "images": str(folder)}
    stream = make_mixture({"sources": [entry]})
    for example, _ in zip(stream, range(3), strict=False):
        assert example.id == "2"
    assert stream.problems
    assert all(str(path) in problem for problem in stream.problems)
    assert not any("Error" in problem for problem in stream.problems)


def test_a_supercategory_that_is_a_list_is_told_and_used_for_no_group(tmp_path):
    photo(tmp_path)
    categories = [
        {"id": 1, "name": "dog", "supercategory": ["animal"]},
        {"id": 2, "name": "cat", "supercategory": "animal"},
    ]
    source = CocoSource(coco(tmp_path, [image_row(1)], [annotation(1)], categories), tmp_path)
    assert list(source.annotated(0).hard) == []
    assert "1 of 2 categories have a supercategory that is no text" in source.notes[0]


def test_what_a_source_drops_is_reported_with_counts(tmp_path):
    photo(tmp_path)
    boxes = [
        annotation(1),
        annotation(1, 2, (0.2, 0.1, 0.3, 0.4)),
        annotation(1, 2, (0, 0, 0, 9)),
        annotation(1, 3, (1, 2, "wide", 3)),
        annotation(1, 1, (20, 20, 10, 10), iscrowd="0"),
    ]
    source = CocoSource(coco(tmp_path, [image_row(1)], boxes), tmp_path)
    assert source.annotated(0).names == ("dog", "dog")
    assert list(source.annotated(0).absent) == []
    (note,) = source.notes
    assert "3 of 5 annotations have no box of a pixel or more in their image" in note
    assert "1 of them lie within 0..1: boxes are (x, y, width, height) in pixels" in note
    row = {
        "image": "a.jpg",
        "conversations": [
            {"from": "human", "value": "What is at [12, 6, 26, 16] or [0.1, 0.1, 0.5, 0.5]?"},
            {"from": "gpt", "value": "It is red."},
        ],
    }
    (note,) = ConversationsSource(written(tmp_path, [row]), tmp_path).notes
    assert "1 of 2 lists of four numbers are no boxes with unit: unit" in note


def test_text_that_is_null_is_not_read_as_none(tmp_path):
    photo(tmp_path)
    content = {
        "imgs": {"1": image_row(1)},
        "anns": {
            "5": annotation(1, legibility="legible", utf8_string=None),
            "6": annotation(1, legibility="legible", utf8_string="EXIT"),
        },
    }
    source = CocoTextSource(written(tmp_path, content), tmp_path, None, turns=4)
    assert [turn.answer for turn in source.example(0).turns] == ["EXIT"]


# Names


@pytest.mark.parametrize(
    ("said", "on_disk"),
    [
        ("day\\a.jpg", "day/a.jpg"),
        ("..\\..\\label-studio\\media\\upload\\4\\photo.jpg", "photo.jpg"),
        ("/data/local-files/4/photo.jpg", "4/photo.jpg"),
        ("C:\\day\\my%20photo.JPG", "my photo.JPG"),
        ("my%20photo.jpg", "my photo.jpg"),
        ("50%20off.jpg", "50%20off.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
        ("http://images.cocodataset.org/val2017/1.jpg", "val2017/1.jpg"),
        ("http://images.cocodataset.org/val2017/1.jpg", "1.jpg"),
        ("https://host/my%20photo.jpg?width=640", "my photo.jpg"),
    ],
)
def test_an_image_is_found_however_its_name_is_written(tmp_path, said, on_disk):
    (tmp_path / on_disk).parent.mkdir(exist_ok=True)
    (tmp_path / on_disk).write_bytes(b"")
    assert unicodedata.normalize("NFC", str(locate(tmp_path, said))) == unicodedata.normalize(
        "NFC", str(tmp_path / on_disk)
    )
    assert locate(tmp_path, said).is_file()


def test_a_path_within_the_folder_means_that_image_and_no_other_of_its_name(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"")
    assert locate(tmp_path, "left/1.jpg") == tmp_path / "left" / "1.jpg"


def test_annotation_files_may_begin_with_the_mark_of_utf_8(tmp_path):
    photo(tmp_path)
    path = coco(tmp_path, [image_row(1)], [annotation(1)])
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert CocoSource(path, tmp_path).annotated(0).names == ("dog",)
