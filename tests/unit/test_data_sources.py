"""Readers of the files that people have, on files made here; mixtures of them."""

import json
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from vlm_fo1.boxes import iou
from vlm_fo1.data.mixture import Mixture, Part
from vlm_fo1.data.recipe import fingerprint, make_mixture
from vlm_fo1.data.sources import (
    CocoSource,
    CocoTextSource,
    ConversationsSource,
    InstanceConfig,
    JsonlSource,
    ReferencesSource,
    Source,
    VisualGenomeSource,
)
from vlm_fo1.errors import ConfigError, DataError
from vlm_fo1.markup import RELEASED, scan

SIZE = (200, 160)
DOGS = [[10, 10, 40, 40], [100, 20, 50, 60]]
CAT = [20, 90, 60, 50]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", SIZE, "grey").save(folder / name)
    return folder


def written(tmp_path, content, name="file.json"):
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return path


def coco(tmp_path, **row):
    boxes = [(1, DOGS[0]), (1, DOGS[1]), (2, CAT)]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 200, "height": 160, **row}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": c, "bbox": box, "iscrowd": 0}
            for n, (c, box) in enumerate(boxes)
        ],
        "categories": [
            {"id": 1, "name": "dog", "supercategory": "animal"},
            {"id": 2, "name": "cat", "supercategory": "animal"},
            {"id": 3, "name": "polar_bear", "supercategory": "animal"},
            {"id": 4, "name": "car", "supercategory": "vehicle"},
        ],
    }
    return content, written(tmp_path, content, "coco.json")


def labels_of(turn):
    return turn.question.removeprefix("Please detect ").split(" in this image")[0].split(", ")


def only(task):
    return InstanceConfig(tasks={task: 1.0}, jitter=0.0, turns=(1, 1))


def numbers_in(text):
    return [n for mention in scan(text).mentions for n in mention.numbers]


# Readers


def test_coco_boxes_become_questions_with_true_answers(tmp_path, images):
    _, path = coco(tmp_path)
    truth = {"dog": [[10, 10, 50, 50], [100, 20, 150, 80]], "cat": [[20, 90, 80, 140]]}
    source = CocoSource(path, images, only("detection"))
    assert isinstance(source, Source)
    asked = set()
    for index in range(30):
        example = source.example(index)
        assert example.image == images / "1.jpg"
        (turn,) = example.turns
        found = {m.label: m.numbers for m in scan(turn.answer).mentions}
        for label in labels_of(turn):
            asked.add(label)
            boxes = example.regions_xyxy[list(found.get(label, ()))].tolist()
            assert sorted(boxes) == truth.get(label, [])
    assert asked == {"dog", "cat", "polar bear", "car"}


@pytest.mark.parametrize("task", ["counting", "brief_caption", "visual_prompt"])
def test_coco_boxes_are_counted_named_and_matched(tmp_path, images, task):
    _, path = coco(tmp_path)
    for index in range(12):
        (turn,) = CocoSource(path, images, only(task)).example(index).turns
        if task == "brief_caption":
            assert turn.answer in {"dog", "cat"}
        elif task == "visual_prompt":
            assert len(numbers_in(turn.answer)) == 1
        else:
            count = 2 if "many dog" in turn.question else 1 if "many cat" in turn.question else 0
            assert len(numbers_in(turn.answer)) == count
            assert f" {count} " in turn.answer


def test_hard_absent_labels_are_those_of_the_same_group(tmp_path, images):
    _, path = coco(tmp_path)
    image = CocoSource(path, images).annotated(0)
    assert list(image.absent) == ["polar bear", "car"]
    assert list(image.hard) == ["polar bear"]


def test_lvis_says_itself_what_is_absent_and_what_is_not_counted(tmp_path, images):
    row = {"neg_category_ids": [4], "not_exhaustive_category_ids": [1], "file_name": None}
    content, _ = coco(tmp_path, **row)
    content["images"][0].pop("file_name")
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/1.jpg"
    (images / "val2017").mkdir()
    (images / "1.jpg").rename(images / "val2017" / "1.jpg")
    source = CocoSource(written(tmp_path, content), images, only("detection"))
    image = source.annotated(0)
    assert image.image == images / "val2017" / "1.jpg"
    assert list(image.absent) == ["car"]
    assert image.partial == {"dog"}
    asked = {label for i in range(20) for t in source.example(i).turns for label in labels_of(t)}
    assert asked == {"cat", "car"}


def test_crowds_and_boxes_without_area_make_their_kind_uncountable(tmp_path, images):
    content, _ = coco(tmp_path)
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][2]["bbox"] = [500, 10, 20, 20]
    source = CocoSource(written(tmp_path, content), images)
    image = source.annotated(0)
    assert image.partial == {"dog", "cat"}
    assert image.names == ("dog",)
    (note,) = source.notes
    assert "1 of 3 annotations have no box of a pixel or more in their image" in note


def test_proposals_stand_among_the_regions_but_never_beside_their_own_truth(tmp_path, images):
    _, path = coco(tmp_path)
    given = np.array([[11, 10, 50, 50], [150, 100, 190, 150]], np.float32)
    config = InstanceConfig(jitter=0.0, distractors=(0, 0))
    regions = CocoSource(path, images, config, proposals={1: given}).example(0).regions_xyxy
    assert len(regions) == 4
    assert (iou(regions, given).max(axis=0) == 1).tolist() == [False, True]


def test_files_that_are_something_else_are_refused_by_name(tmp_path, images):
    with pytest.raises(DataError, match="does not exist"):
        CocoSource(tmp_path / "none.json", images)
    with pytest.raises(DataError, match="categories"):
        CocoSource(written(tmp_path, []), images)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json"):
        CocoSource(tmp_path / "bad.json", images)
    with pytest.raises(DataError, match="list"):
        ConversationsSource(written(tmp_path, {}), images)
    with pytest.raises(DataError, match="no usable record"):
        ConversationsSource(written(tmp_path, []), images)
    with pytest.raises(DataError, match="imgs"):
        CocoTextSource(written(tmp_path, {}), images)
    with pytest.raises(ConfigError, match="region_ocr"):
        InstanceConfig(tasks={"region_ocr": 1.0})


def test_references_point_at_their_box(tmp_path, images):
    _, path = coco(tmp_path)
    references = [
        {
            "ref_id": 7,
            "image_id": 1,
            "ann_id": 1,
            "split": "train",
            "sentences": [{"sent": "big dog"}],
        },
        {"ref_id": 8, "image_id": 1, "ann_id": 2, "split": "train", "sentences": [{"sent": "cat"}]},
        {"ref_id": 9, "image_id": 1, "ann_id": 2, "split": "val", "sentences": [{"sent": "it"}]},
    ]
    source = ReferencesSource(written(tmp_path, references), path, images)
    example = source.example(0)
    assert {turn.question.split(" in this")[0] for turn in example.turns} == {
        "Please detect big dog",
        "Please detect cat",
    }
    for turn in example.turns:
        truth = [100, 20, 150, 80] if "big dog" in turn.question else [20, 90, 80, 140]
        (number,) = numbers_in(turn.answer)
        assert iou(example.regions_xyxy[number], truth)[0, 0] > 0.7
    references[0]["ann_id"] = 99
    broken = ReferencesSource(written(tmp_path, references), path, images)
    with pytest.raises(DataError, match="reference 7"):
        broken.example(0)


def test_legible_text_is_read_and_other_text_is_not(tmp_path, images):
    content = {
        "imgs": {"1": {"id": 1, "file_name": "1.jpg", "width": 200, "height": 160, "set": "train"}},
        "anns": {
            "5": {
                "image_id": 1,
                "bbox": [5, 5, 50, 20],
                "utf8_string": "EXIT",
                "legibility": "legible",
            },
            "6": {"image_id": 1, "bbox": [90, 5, 50, 20], "legibility": "illegible"},
        },
    }
    example = CocoTextSource(written(tmp_path, content), images).example(0)
    (turn,) = example.turns
    assert turn.answer == "EXIT"
    number = int(RELEASED.tag_pattern().findall(turn.question)[0])
    assert iou(example.regions_xyxy[number], [5, 5, 55, 25])[0, 0] > 0.7
    assert len(example.regions_xyxy) >= 2


def test_visual_genome_phrases_describe_their_regions(tmp_path, images):
    boxes = [(0, 0, 50, 50, "a wall"), (60, 60, 70, 80, "a brown door"), (0, 0, 0, 9, "nothing")]
    keys = ("x", "y", "width", "height", "phrase")
    rows = [{"id": 2, "regions": [dict(zip(keys, box, strict=True)) for box in boxes]}]
    source = VisualGenomeSource(written(tmp_path, rows), images)
    example = source.example(0)
    assert {turn.answer for turn in example.turns} == {"a wall", "a brown door"}
    rows[0]["id"] = 3
    with pytest.raises(DataError, match=r"3\.jpg"):
        VisualGenomeSource(written(tmp_path, rows), images).example(0)


def conversation(*texts, **more):
    said = [
        {"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)
    ]
    return {"id": "c", "conversations": said, **more}


def test_boxes_in_a_conversation_become_regions(tmp_path, images):
    row = conversation(
        "<image>\nWhat is at [0.1, 0.25, 0.5, 0.5]?",
        "A dog beside a cat [0.6,0.5,0.9,1.0].",
        "And [0.1, 0.25, 0.5, 0.5] or [1, 2, 3, 4]?",
        "The dog again.",
        image="1.jpg",
    )
    example = ConversationsSource(written(tmp_path, [row]), images).example(0)
    assert np.allclose(example.regions_xyxy, [[20, 40, 100, 80], [120, 80, 180, 160]])
    assert [turn.question for turn in example.turns] == [
        "What is at <region0>?",
        "And <region0> or [1, 2, 3, 4]?",
    ]
    assert example.turns[0].answer == "A dog beside a cat <region1>."


def test_a_conversation_may_list_its_boxes_or_have_none(tmp_path, images):
    rows = [
        conversation("What is <region0>?", "A dog", image="1.jpg", regions=[[1, 2, 30, 40]]),
        conversation("What is two plus two?", "Four"),
    ]
    source = ConversationsSource(written(tmp_path, rows), images)
    examples = {example.image is None: example for example in map(source.example, range(2))}
    assert examples[False].regions_xyxy.tolist() == [[1, 2, 30, 40]]
    assert examples[True].turns[0].answer == "Four"
    thousand = conversation("<image> [100, 250, 500, 500]?", "dog", image="1.jpg")
    source = ConversationsSource(written(tmp_path, [thousand]), images, unit="thousand")
    assert np.allclose(source.example(0).regions_xyxy, [[20, 40, 100, 80]])


@pytest.mark.parametrize(
    "row",
    [
        conversation("only a question"),
        {"conversations": [{"from": "robot", "value": "x"}]},
        {"conversations": "none"},
        conversation("What is <region2>?", "a dog"),
    ],
)
def test_a_broken_conversation_names_file_and_record(tmp_path, images, row):
    source = ConversationsSource(written(tmp_path, [row]), images)
    with pytest.raises(DataError, match=r"file\.json: record 0"):
        source.example(0)


# Mixtures


def jsonl(tmp_path, name, count, bad=()):
    rows = [
        "{"
        if n in bad
        else json.dumps(
            {
                "id": f"{name}{n}",
                "image": None,
                "turns": [{"question": "q", "answer": f"{name}{n}"}],
            }
        )
        for n in range(count)
    ]
    path = tmp_path / f"{name}.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


def mixture(tmp_path, **options):
    first = JsonlSource(jsonl(tmp_path, "a", 5))
    second = JsonlSource(jsonl(tmp_path, "b", 7))
    return Mixture([Part("a", first, 3.0), Part("b", second, 1.0)], seed=1, **options)


def ids(stream, count):
    return [example.id for example in islice(iter(stream), count)]


def test_a_finite_source_is_gone_through_in_a_new_order_each_time(tmp_path):
    source = JsonlSource(jsonl(tmp_path, "a", 20))
    epochs = [[source.example(e * 20 + i).id for i in range(20)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_a_mixture_keeps_to_its_weights_and_seed(tmp_path):
    drawn = ids(mixture(tmp_path), 400)
    assert drawn == ids(mixture(tmp_path), 400)
    share = sum(name.startswith("a") for name in drawn) / 400
    assert 0.68 < share < 0.82


def test_a_resumed_mixture_goes_on_where_it_stopped(tmp_path):
    stream = mixture(tmp_path)
    iterator = iter(stream)
    for _ in range(37):
        next(iterator)
    state = json.loads(json.dumps(stream.state_dict()))
    expected = [next(iterator).id for _ in range(50)]
    resumed = mixture(tmp_path)
    resumed.load_state_dict(state)
    assert ids(resumed, 50) == expected


def test_shards_share_out_the_stream(tmp_path):
    whole = ids(mixture(tmp_path), 30)
    shards = [ids(mixture(tmp_path, rank=rank, world_size=3), 10) for rank in range(3)]
    assert [shards[k % 3][k // 3] for k in range(30)] == whole


def test_a_bad_record_is_reported_with_file_and_line_and_left_out(tmp_path, caplog):
    path = jsonl(tmp_path, "a", 6, bad=[3])
    stream = Mixture([Part("a", JsonlSource(path))])
    drawn = ids(stream, 10)
    assert len(drawn) == 10
    assert "a3" not in drawn
    assert stream.bad_records >= 1
    assert "a.jsonl:4" in stream.problems[0]
    assert "a.jsonl:4" in caplog.text
    with pytest.raises(DataError, match=r"a\.jsonl:4"):
        ids(Mixture([Part("a", JsonlSource(path))], strict=True), 10)


def test_nothing_but_bad_records_ends_the_stream(tmp_path):
    stream = Mixture([Part("a", JsonlSource(jsonl(tmp_path, "a", 2, bad=[0, 1])))])
    with pytest.raises(DataError, match="in a row"):
        next(iter(stream))


def test_mixtures_that_cannot_be_are_refused(tmp_path):
    source = JsonlSource(jsonl(tmp_path, "a", 2))
    for parts in ([], [Part("a", source), Part("a", source)], [Part("a", source, -1.0)]):
        with pytest.raises(ConfigError):
            Mixture(parts)
    with pytest.raises(ConfigError, match="rank"):
        Mixture([Part("a", source)], rank=2, world_size=2)
    state = mixture(tmp_path).state_dict()
    with pytest.raises(ConfigError, match="world_size"):
        mixture(tmp_path, world_size=2).load_state_dict(state)
    with pytest.raises(ConfigError, match="parts"):
        Mixture([Part("z", source)], seed=1).load_state_dict(state)


SYNTHETIC = "recipes.synthetic:make_source"


def test_a_recipe_makes_a_mixture(tmp_path, images):
    _, path = coco(tmp_path)
    recipe = {
        "sources": [
            {"type": "jsonl", "path": str(jsonl(tmp_path, "a", 3)), "weight": 2},
            {
                "type": SYNTHETIC,
                "objects": [2, 4],
                "coloured": 1,
                "tasks": {"counting": 1},
            },
            {
                "type": "coco",
                "annotations": str(path),
                "images": str(images),
                "questions": {"turns": [1, 1], "tasks": {"counting": 1.0}},
            },
        ]
    }
    stream = make_mixture(recipe, seed=3)
    tasks = {turn.task for example in islice(iter(stream), 40) for turn in example.turns}
    assert {"free", "counting"} <= tasks
    assert set(fingerprint(recipe)) == {str(tmp_path / "a.jsonl"), str(path)}


def augmented(tmp_path, images, **changes):
    line = {
        "image": str(images / "1.jpg"),
        "regions": [[10, 10, 50, 50], [100, 20, 150, 80]],
        "turns": [{"question": "What is <region0>?", "answer": "a dog", "task": "free"}],
    }
    (tmp_path / "b.jsonl").write_text(json.dumps(line) + "\n")
    entry = {"type": "jsonl", "path": str(tmp_path / "b.jsonl"), "augment": changes}
    return make_mixture({"sources": [entry]}, seed=5)


def test_a_mixture_can_change_its_images_and_boxes_follow(tmp_path, images):
    only = {"light": 0, "renumber": False, "mirror": 1.0, "scale": [0.5, 0.5]}
    example = next(iter(augmented(tmp_path, images, **only)))
    assert isinstance(example.image, Image.Image)
    assert example.image.size == (100, 80)
    assert example.regions_xyxy.tolist() == [[75, 5, 95, 25], [25, 10, 50, 40]]


def test_changed_images_are_the_same_after_a_restart_and_other_ones_each_time(tmp_path, images):
    whole = augmented(tmp_path, images, jitter=0.1)
    before = [np.asarray(example.image) for example in islice(iter(whole), 3)]
    state = whole.state_dict()
    later = list(islice(iter(whole), 2))
    resumed = augmented(tmp_path, images, jitter=0.1)
    resumed.load_state_dict(state)
    for one, other in zip(later, islice(iter(resumed), 2), strict=True):
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
        assert np.array_equal(one.regions_xyxy, other.regions_xyxy)
        assert one.turns == other.turns
    assert len({image.tobytes() for image in before}) == 3


def test_an_image_that_cannot_be_changed_is_a_bad_record(tmp_path, images):
    stream = augmented(tmp_path, images)
    (images / "1.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="in a row"):
        next(iter(stream))
    assert "b.jsonl:1" in stream.problems[0]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({}, "sources"),
        (
            {"sources": [{"type": SYNTHETIC, "augment": {"miror": 0.5}}]},
            r"sources\.0\.augment\.miror.*did you mean 'mirror'",
        ),
        ({"sources": [{"type": SYNTHETIC, "augment": {"mirror": 2.0}}]}, "mirror = 2.0 is a share"),
        ({"sources": [{"type": "cocoa"}]}, "did you mean 'coco'"),
        ({"sources": [{"type": "json:no_such"}]}, "'json:no_such', which cannot be had: .*no_such"),
        ({"sources": [{"type": "no_such:make"}]}, "'no_such:make', which cannot be had: No module"),
        ({"sources": [{"type": SYNTHETIC, "object": 3}]}, "object"),
        ({"sources": [{"type": SYNTHETIC, "objects": "many"}]}, "whole numbers"),
        ({"sources": [{"type": "jsonl"}]}, "needs path"),
        ({"sources": [{"type": "jsonl", "path": "x", "pth": 3}]}, "did you mean 'path'"),
        ({"sources": [{"type": "coco", "questions": {"turn": 3}}]}, "did you mean 'turns'"),
    ],
)
def test_a_wrong_recipe_names_what_is_meant(recipe, said):
    with pytest.raises(ConfigError, match=said):
        make_mixture(recipe)
