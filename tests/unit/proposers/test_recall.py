"""Recall of proposals against cases worked out by hand, and against COCO's own scorer."""

import contextlib
import io
import json

import numpy as np
import pytest

from vlm_fo1.boxes import xyxy_to_xywh
from vlm_fo1.errors import BoxError
from vlm_fo1.images import Frame
from vlm_fo1.proposers.recall import LIMITS, SIZES, CocoTruth, RecallMeter, matches
from vlm_fo1.regions import Regions

SIZE = (400, 400)


def regions(*boxes):
    return Regions(np.reshape(np.array(boxes, np.float32), (-1, 4)), SIZE)


def report_of(boxes, objects, areas=None):
    meter = RecallMeter()
    meter.add(regions(*boxes), objects, areas)
    return meter.report()


def test_boxes_that_are_the_objects_have_full_recall():
    objects = [[0, 0, 10, 10], [50, 50, 100, 100], [100, 100, 300, 300]]
    report = report_of(objects, objects)
    assert report.objects == {"all": 3, "small": 1, "medium": 1, "large": 1}
    for size in SIZES:
        assert report.average_recall[size] == dict.fromkeys(LIMITS, 1.0)


def test_an_overlap_of_seven_tenths_counts_at_five_of_ten_thresholds():
    report = report_of([[0, 0, 70, 100]], [[0, 0, 100, 100]])  # 0.5, 0.55, 0.6, 0.65, 0.7
    assert report.average_recall["all"] == {10: 0.5, 50: 0.5, 100: 0.5}
    assert report.recall_at_iou_50["all"][10] == 1.0


def test_an_overlap_below_a_half_counts_for_nothing():
    report = report_of([[0, 0, 49, 100]], [[0, 0, 100, 100]])
    assert report.average_recall["all"][100] == 0
    assert report.recall_at_iou_50["all"][100] == 0


def test_only_the_first_boxes_count():
    away = [[300 + i, 300, 310 + i, 310] for i in range(10)]
    report = report_of([*away, [0, 0, 20, 20]], [[0, 0, 20, 20]])
    assert report.average_recall["small"] == {10: 0.0, 50: 1.0, 100: 1.0}
    many = [[300, 300, 310, 310]] * 100
    assert report_of([*many, [0, 0, 20, 20]], [[0, 0, 20, 20]]).average_recall["all"][100] == 0


def test_a_box_accounts_for_one_object_and_takes_the_best():
    objects = [[0, 0, 100, 100], [0, 0, 100, 90]]
    report = report_of([[0, 0, 100, 90]], objects)
    assert report.average_recall["all"][10] == pytest.approx(0.5)
    both = report_of([[0, 0, 100, 90], [0, 0, 100, 95]], objects)
    assert both.average_recall["all"][10] == pytest.approx(1.0)  # IoU 1 and 0.95


def test_a_size_no_object_has_is_unknown_and_areas_may_be_given():
    report = report_of([[0, 0, 200, 200]], [[0, 0, 200, 200]], [100.0])
    assert report.objects == {"all": 1, "small": 1, "medium": 0, "large": 0}
    assert report.average_recall["large"] == dict.fromkeys(LIMITS)
    assert report.average_recall["small"][10] == 1.0


def test_images_boxes_and_seconds_are_summed_up():
    meter = RecallMeter()
    meter.add(regions([0, 0, 10, 10], [0, 0, 20, 20]), [[0, 0, 10, 10]], latency_s=0.5)
    meter.add(regions(), [[0, 0, 10, 10]], latency_s=0.1)
    meter.add(regions([0, 0, 10, 10]), np.zeros((0, 4)))
    meter.add(regions([0, 0, 10, 10]), [], latency_s=0.3)
    report = meter.report()
    assert report.images == 4
    assert report.images_without == 0.25
    assert report.boxes_per_image == 1.0
    assert report.latency_s == 0.3
    assert report.average_recall["all"][10] == 0.5
    assert json.loads(json.dumps(report.to_dict()))["average_recall"]["all"]["10"] == 0.5


def test_nothing_measured_is_no_zero():
    report = RecallMeter().report()
    assert report.images == 0
    assert report.images_without is None
    assert report.boxes_per_image is None
    assert report.latency_s is None
    assert report.average_recall["all"][100] is None


def some_truth(seed=0, images=12):
    random = np.random.default_rng(seed)
    entries, annotations, offered = [], [], []
    for image in range(1, images + 1):
        entries.append(
            {"id": image, "file_name": f"{image:04}.jpg", "width": SIZE[0], "height": SIZE[1]}
        )
        boxes = []
        for _ in range(random.integers(0, 9)):
            side = float(np.exp(random.uniform(np.log(8), np.log(250))))
            x, y = random.uniform(0, 400 - side, 2)
            box = [x, y, side, side * random.uniform(0.5, 1)]
            boxes.append(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3] * random.uniform(0.5, 1),
                    "iscrowd": int(random.random() < 0.1),
                }
            )
        noisy = [
            [x + random.normal(0, 0.1 * w), y + random.normal(0, 0.1 * h), x + w, y + h]
            for x, y, w, h in boxes * 6
        ]
        stray = random.uniform(0, 200, (random.integers(0, 90), 4))
        stray[:, 2:] += stray[:, :2] + 1
        mixed = np.array([*noisy, *stray.tolist()], np.float32).reshape(-1, 4)
        offered.append(mixed[random.permutation(len(mixed))])
    categories = [{"id": 1, "name": "thing"}]
    return {"images": entries, "annotations": annotations, "categories": categories}, offered


def test_recall_is_that_of_cocos_own_scorer(tmp_path):
    coco = pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    truth, offered = some_truth()
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    source, meter, results = CocoTruth(path), RecallMeter(), []
    assert len(source) == 12
    for entry, boxes in zip(truth["images"], offered, strict=True):
        objects = source.objects(entry["file_name"], SIZE)
        meter.add(regions(*boxes), objects.xyxy, objects.areas)
        results += [
            {"image_id": entry["id"], "category_id": 1, "bbox": box, "score": 1 - rank / 1000}
            for rank, box in enumerate(xyxy_to_xywh(boxes).tolist())
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO(str(path))
        scorer = coco.COCOeval_faster(known, known.loadRes(results), "bbox")
        scorer.params.useCats = 0
        scorer.params.maxDets = list(LIMITS)
        scorer.evaluate()
        scorer.accumulate()
    recall = scorer.eval["recall"]  # (thresholds, 1, sizes, limits)
    report = meter.report()
    for a, size in enumerate(SIZES):
        for m, limit in enumerate(LIMITS):
            ours = report.average_recall[size][limit]
            assert ours == pytest.approx(recall[:, 0, a, m].mean(), abs=1e-6), (size, limit)


def test_images_of_the_truth_are_found_by_name_and_folder(tmp_path):
    path = tmp_path / "truth.json"
    images = [
        {"id": 1, "file_name": "day/a.jpg", "width": 400, "height": 400},
        {"id": 2, "file_name": "night/a.jpg"},
    ]
    annotations = [
        {"image_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    truth = CocoTruth(path)
    found = truth.objects("/x/night/a.jpg", SIZE)
    assert found.xyxy.tolist() == [[1, 2, 4, 6]]
    assert found.areas.tolist() == [12]
    assert truth.objects("day/a.jpg", SIZE).xyxy.shape == (0, 4)
    with pytest.raises(BoxError, match=r"an image of \(400, 400\), this one is \(40, 40\)"):
        truth.objects("day/a.jpg", (40, 40))
    with pytest.raises(
        BoxError, match=r"truth.json: .* nothing for 'b\.jpg'; they are about 'day/a"
    ):
        truth.objects("b.jpg", SIZE)
    with pytest.raises(BoxError, match=r"2 images named 'a\.jpg'"):
        truth.objects("a.jpg", SIZE)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"images": [{}], "annotations": []}',
        '{"images": [], "annotations": {"1": {}}}',
        '{"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, "3", null]}]}',
        '{"images": [], "annotations": [{"image_id": 1}]}',
        '{"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2]}]}',
    ],
)
def test_a_file_that_is_no_truth_is_refused(tmp_path, text):
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(BoxError, match=r"truth file .*truth\.json is no COCO data set"):
        CocoTruth(path)
    path.write_text("nonsense")
    with pytest.raises(BoxError, match=r"truth\.json is not JSON"):
        CocoTruth(path)
    with pytest.raises(BoxError, match=r"none\.json does not exist"):
        CocoTruth(tmp_path / "none.json")


def test_the_truth_of_a_turned_photo_is_turned_with_it_and_ids_are_joined_whatever_their_type(
    tmp_path,
):
    path = tmp_path / "truth.json"
    images = [{"id": "0001", "file_name": "x\\a.jpg", "width": 40, "height": 30}]
    annotations = [{"image_id": 1, "bbox": [1, 2, 10, 20]}, {"image_id": 7, "bbox": [1, 2, 3, 4]}]
    path.write_text("\ufeff" + json.dumps({"images": images, "annotations": annotations}))
    truth = CocoTruth(path)
    found = truth.objects("a.jpg", Frame((30, 40), (40, 30), 6))
    assert found.xyxy.tolist() == [[8, 1, 28, 11]]
    assert found.areas.tolist() == [200]
    assert found.note is not None
    assert "turned upright" in found.note
    assert truth.strays == (
        "1 of 2 annotations belong to no image of the file (image_id 7): they were left out"
    )


def test_each_box_accounts_for_the_best_object_that_is_left():
    overlap = np.array([[0.6, 0.9], [0.55, 0.95], [0.8, 0.7], [0.1, 0.1]], np.float32)
    assert matches(overlap, [0.5, 0.85]).T.tolist() == [
        [True, True, False, False],
        [True, False, False, False],
    ]
    assert matches(np.zeros((0, 3), np.float32), [0.5]).shape == (0, 1)
    assert not matches(np.zeros((3, 0), np.float32), [0.5]).any()
