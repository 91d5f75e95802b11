"""Metrics against independent ones on random boxes: COCO's tools, an optimal assignment, a loop."""

import contextlib
import io

import numpy as np
import pytest

from vlm_fo1.eval.metrics import (
    THRESHOLDS,
    average_precision,
    bootstrap,
    grec,
    humanref,
    iou,
    matching,
    nms_survivors,
    per_image_f1,
    pooled_f1,
    pooled_f1_tally,
    precision_tally,
    proposal_recall,
    refdrone,
)
from vlm_fo1.eval.metrics.images import read_images

LABELS = ("a", "b", "c")


def some_boxes(rng, most=8, size=60):
    """Boxes that overlap a good deal; whole numbers, so that equal overlaps occur."""
    corners = rng.integers(0, size, (rng.integers(0, most + 1), 2))
    return np.hstack([corners, corners + rng.integers(1, size // 2, corners.shape)]).astype(float)


def near(rng, boxes):
    """Most of them, moved a little, and some others."""
    kept = boxes[rng.random(len(boxes)) < 0.8]
    moved = kept + rng.integers(-3, 4, kept.shape)
    moved = moved[(moved[:, 2:] > moved[:, :2]).all(1)]
    return rng.permutation(np.vstack([moved, some_boxes(rng, 4)]))


def random_images(seed, count=12, crowds=True):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        truth = {label: some_boxes(rng) for label in LABELS if rng.random() < 0.7}
        answer = {label: near(rng, truth.get(label, np.zeros((0, 4)))) for label in LABELS}
        crowd = {label: some_boxes(rng, 2) for label in LABELS if crowds and rng.random() < 0.3}
        scores = {label: rng.integers(0, 5, len(boxes)) / 4 for label, boxes in answer.items()}
        images.append({"truth": truth, "answer": answer, "crowd": crowd, "scores": scores})
    return images


def coco_files(images):
    """A data set and results in COCO's form; every score is 1."""
    truths, results = [], []
    for number, image in enumerate(images, 1):
        for category, label in enumerate(LABELS, 1):
            row = {"image_id": number, "category_id": category}
            for kind in ("truth", "crowd"):
                for x1, y1, x2, y2 in image[kind].get(label, []):
                    side = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                    truths.append(
                        {**row, **side, "iscrowd": int(kind == "crowd"), "id": len(truths) + 1}
                    )
            results += [
                {**row, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
                for (x1, y1, x2, y2), score in zip(
                    image["answer"].get(label, []), image["scores"].get(label, []), strict=True
                )
            ]
    numbers = range(1, len(images) + 1)
    data = {"images": [{"id": number, "width": 99, "height": 99} for number in numbers],
            "categories": [{"id": number, "name": name} for number, name in enumerate(LABELS, 1)],
            "annotations": truths}  # fmt: skip
    return data, results


def pycoco(images):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    data, results = coco_files(images)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = data
        truth.createIndex()
        scorer = evaluation.COCOeval(truth, truth.loadRes(results), "bbox")
        scorer.params.iouThrs = np.array(THRESHOLDS)
        scorer.evaluate()
        scorer.accumulate()
    return scorer


@pytest.mark.parametrize("seed", range(4))
def test_counts_of_answers_are_those_of_pycocotools(seed):
    images = random_images(seed)
    for image in images:
        image["scores"] = {label: np.ones(len(boxes)) for label, boxes in image["answer"].items()}
    scorer = pycoco(images)
    expected = {}
    for found in scorer.evalImgs:
        if found is not None and found["aRng"] == scorer.params.areaRng[0]:
            matched = np.array(found["dtMatches"]).reshape(len(THRESHOLDS), -1) > 0
            ignored = np.array(found["dtIgnore"]).reshape(len(THRESHOLDS), -1) > 0
            key = found["image_id"] - 1, LABELS[found["category_id"] - 1]
            right = (matched & ~ignored).sum(1)
            expected[key] = (right, (~ignored).sum(1), int((~found["gtIgnore"].astype(bool)).sum()))
    read = read_images(images)
    tally = pooled_f1_tally(images)
    rows = {
        (image, read.names[slot]): row
        for row, image, slot in zip(
            tally.rows_RK, tally.item_R.tolist(), tally.slot_R.tolist(), strict=True
        )
    }
    with_objects = {label for (_, label), (_, _, objects) in expected.items() if objects}
    seen = 0
    for (image, label), (right, counted, objects) in expected.items():
        if label in with_objects:  # another label has no part in the score
            row = rows.pop((image, label), np.zeros(21))
            np.testing.assert_array_equal(row, [*right, *counted, objects])
            seen += counted.sum() > 0
    assert not rows
    assert seen > 20


def inside(box, other):
    """Share of a box that lies in another."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    return np.prod(np.maximum(sides, 0)) / np.prod(box[2:] - box[:2])


def slow_pooled_f1(images, present):
    """F1-clean as it is written down, box by box."""
    at = {}
    overlaps = {
        (k, label): np.asarray(iou(boxes, image["truth"].get(label, [])))
        for k, image in enumerate(images)
        for label, boxes in image["answer"].items()
    }
    for threshold in THRESHOLDS:
        rows = []
        for label in LABELS:
            right, counted, objects = 0, 0, 0
            for k, image in enumerate(images):
                truth = image["truth"].get(label, [])
                crowd = image["crowd"].get(label, [])
                objects += len(truth)
                if present and not len(truth) and not len(crowd):
                    continue
                free = set(range(len(truth)))
                for row, box in zip(overlaps[k, label], image["answer"][label], strict=True):
                    best, best_value = None, min(threshold, 1 - 1e-10)
                    for column in sorted(free):
                        if row[column] >= best_value:
                            best, best_value = column, row[column]
                    if best is not None:
                        free.remove(best)
                        right, counted = right + 1, counted + 1
                        continue
                    counted += not any(inside(box, other) >= threshold for other in crowd)
            if objects:
                rows.append((right / counted if counted else 0, right / objects))
        at[threshold] = np.mean(rows, axis=0)
    means = {"f1@.5": at[0.5], "f1@.95": at[0.95], "f1_mean": np.mean(list(at.values()), axis=0)}
    return {key: 2 * p * r / (p + r) if p + r else 0 for key, (p, r) in means.items()}


@pytest.mark.parametrize("seed", range(3))
def test_pooled_f1_is_what_its_definition_says(seed):
    images = random_images(seed, count=5)
    for variant in ("all", "present"):
        expected = slow_pooled_f1(images, variant == "present")
        assert pooled_f1(images, variant) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_pycocotools(seed):
    images = random_images(seed)
    precision = pycoco(images).eval["precision"][:, :, :, :, -1]  # (T, R, K, A), 100 answers
    score = average_precision(images)
    for key, values in {
        "ap": precision[..., 0], "ap@.5": precision[0, ..., 0], "ap@.75": precision[5, ..., 0],
        "ap_small": precision[..., 1],
    }.items():  # fmt: skip
        assert score[key] == pytest.approx(values[values > -1].mean(), abs=1e-12)
    assert score["ap_large"] is None


def lvis_scores(images, frequency):
    """AP by faster-coco-eval, whose limit is 300 answers of each label."""
    library = pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    data, results = coco_files([{**image, "crowd": {}} for image in images])
    number = {label: category for category, label in enumerate(LABELS, 1)}
    for row, image in zip(data["images"], images, strict=True):
        for key in ("negative", "not_exhaustive"):
            kind = "neg" if key == "negative" else key
            row[f"{kind}_category_ids"] = [number[label] for label in image[key]]
    for row in data["categories"]:
        row["frequency"] = frequency[row["name"]]
    truth = library.COCO(data)
    scorer = library.COCOeval_faster(
        truth, truth.loadRes(results), "bbox", lvis_style=True, print_function=lambda *_: None
    )
    scorer.params.iouThrs, scorer.params.maxDets = np.array(THRESHOLDS), [300]
    scorer.evaluate()
    scorer.accumulate()
    precision = scorer.eval["precision"][..., 0]

    def mean(values):
        return values[values > -1].mean()

    rare = [place for place, label in enumerate(LABELS) if frequency[label] == "r"]
    return {"ap": mean(precision[..., 0]), "ap_r": mean(precision[:, :, rare, 0])}


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_by_lvis_rules_is_that_of_faster_coco_eval(seed):
    rng = np.random.default_rng(seed)
    images = random_images(seed, crowds=False)
    for image in images:
        image["negative"] = [label for label in LABELS if rng.random() < 0.5]
        image["not_exhaustive"] = [label for label in LABELS if rng.random() < 0.4]
    frequency = dict(zip(LABELS, "rcf", strict=True))
    score = average_precision(images, "lvis", frequency=frequency)
    for key, value in lvis_scores(images, frequency).items():
        assert score[key] == pytest.approx(value, abs=1e-12)


def test_an_image_that_counts_twice_is_scored_as_two_of_its_kind():
    rng = np.random.default_rng(0)
    images = random_images(3)
    for image in images:
        image["scores"] = {k: rng.random(len(boxes)) for k, boxes in image["answer"].items()}
    weights = [0, 2, 1, 3] * 3
    drawn = [image for image, times in zip(images, weights, strict=True) for _ in range(times)]
    found = precision_tally(images).score(weights)
    assert found == pytest.approx(average_precision(drawn))
    ends = bootstrap(precision_tally(images).score, len(images), samples=200)["ap"]
    whole = average_precision(images)["ap"]
    assert ends is not None
    assert whole is not None
    assert ends[0] < whole < ends[1]


def test_lvis_drops_unjudged_answers_and_forgives_where_objects_were_not_all_marked():
    box, other = [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]
    there = {"truth": {"a": [box]}, "answer": {"a": [box]}, "scores": {"a": [0.5]}}
    false = {"truth": {}, "answer": {"a": [other]}, "scores": {"a": [0.9]}}
    assert average_precision([there, false], "lvis")["ap"] == pytest.approx(1)  # unjudged
    judged = average_precision([there, {**false, "negative": ["a"]}], "lvis")
    assert judged["ap"] == pytest.approx(0.5)
    more = {**there, "answer": {"a": [other, box]}, "scores": {"a": [0.9, 0.5]}}
    assert average_precision([more], "lvis")["ap"] == pytest.approx(0.5)
    forgiven = average_precision([{**more, "not_exhaustive": ["a"]}], "lvis")
    assert forgiven["ap"] == pytest.approx(1)


def test_an_area_of_a_mask_decides_whether_an_object_is_small():
    box = [0.0, 0.0, 40.0, 40.0]
    image = {"truth": {"a": [box]}, "answer": {"a": [box]}, "scores": {"a": [1]}}
    assert average_precision([image])["ap_small"] is None
    assert average_precision([{**image, "areas": {"a": [1000]}}])["ap_small"] == pytest.approx(1)


def test_average_precision_of_failed_images_and_of_nothing():
    box = [0.0, 0.0, 10.0, 10.0]
    right = {"truth": {"a": [box]}, "answer": {"a": [box]}, "scores": {"a": [1]}}
    failed = {"truth": {"a": [box]}, "answer": None}
    assert average_precision([failed])["ap"] == 0
    assert average_precision([right, failed])["ap"] == pytest.approx(51 / 101)
    empty = {"truth": {"a": []}, "answer": {}, "scores": {}}
    assert average_precision([empty])["ap"] is None
    assert average_precision([{**empty, "truth": {}}])["ap"] is None


def optimal(answer, truth, threshold):
    """Greatest number of pairs that any matching reaches."""
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")
    fits = np.asarray(iou(answer, truth)) >= threshold
    rows, columns = optimize.linear_sum_assignment(-fits.astype(float))
    return int(fits[rows, columns].sum())


@pytest.mark.parametrize("seed", range(8))
def test_no_greedy_matching_beats_an_optimal_one_and_none_falls_below_half_of_it(seed):
    rng = np.random.default_rng(seed)
    truth = np.vstack([some_boxes(rng, 12, 30), [[0, 0, 9, 9]]])
    answer = near(rng, truth)
    found, in_pairs = (
        matching.Grouped(boxes, np.zeros(len(boxes), np.int64)) for boxes in (answer, truth)
    )
    served_MT = matching.claims(in_pairs, found, THRESHOLDS, later_on_tie=False) >= 0
    right_T = pooled_f1_tally([{"truth": {"": truth}, "answer": {"": answer}}]).rows_RK[0]
    recall = proposal_recall([{"truth": truth, "proposals": answer}], at=THRESHOLDS)
    for column, threshold in enumerate(THRESHOLDS):
        most = optimal(answer, truth, threshold)
        by_pairs = matching.best_pairs(found, in_pairs, 1, threshold)[0]
        for pairs in (right_T[column], by_pairs, served_MT[:, column].sum()):
            assert most / 2 <= pairs <= most
    expected = right_T[: len(THRESHOLDS)] / len(truth)
    assert list(recall.values()) == pytest.approx(expected.tolist())
    score = humanref([{"truth": truth, "answer": answer}])
    assert score["recall"] == pytest.approx(served_MT.mean())


def slow_claims(overlap, threshold):
    """Objects (rows) in order, each the best answer that is left, the first of equals."""
    table, pairs = overlap.copy(), 0
    for row in table:
        if len(row) and row.max() >= threshold:
            table[:, row.argmax()] = -1
            pairs += 1
    return pairs


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("labels", ["aware", "blind"])
def test_per_image_f1_is_what_its_definition_says(seed, labels):
    images = random_images(seed, count=6, crowds=False)
    rows_TI2 = [[] for _ in THRESHOLDS]
    for image in images:
        truth = np.vstack([np.zeros((0, 4)), *image["truth"].values()])
        answer = np.vstack([np.zeros((0, 4)), *image["answer"].values()])
        tables = [np.asarray(iou(truth, answer))]
        if labels == "aware":
            tables = [np.asarray(iou(b, image["answer"][key])) for key, b in image["truth"].items()]
        for threshold, rows in zip(THRESHOLDS, rows_TI2, strict=True):
            matched = sum(slow_claims(table, threshold) for table in tables)
            if len(truth):
                rows.append((matched / max(len(answer), 1), matched / len(truth)))
            else:
                rows.append((0, 0) if len(answer) else (1, 1))
    means = np.mean(rows_TI2, axis=1).tolist()
    f1s = [2 * p * r / (p + r) if p + r else 0 for p, r in means]
    expected = {"f1@.5": f1s[0], "f1@.95": f1s[9], "f1_mean": np.mean(f1s)}
    assert per_image_f1(images, labels) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_grec_and_refdrone_take_the_best_pair_again_and_again(seed):
    rng = np.random.default_rng(seed)
    items = []
    right, counts = 0, np.zeros(4)
    for _ in range(20):
        truth = some_boxes(rng, 4, 30)
        answer = near(rng, truth)[: rng.integers(0, 6)]
        items.append({"truth": truth, "answer": answer})
        table = np.array(iou(answer, truth)).reshape(len(answer), len(truth))
        pairs = 0
        while table.size and table.max() >= 0.5:
            row, column = np.unravel_index(table.argmax(), table.shape)
            table = np.delete(np.delete(table, row, 0), column, 1)
            pairs += 1
        right += pairs == len(truth) == len(answer)
        counts += (
            (pairs, len(answer) - pairs, len(truth) - pairs, 0)
            if len(truth)
            else (0, len(answer) > 0, 0, not len(answer))
        )
    assert grec(items)["pr"] == right / 20
    hit, false, missed, quiet = counts
    score = refdrone(items)
    assert score["f1_instance"] == pytest.approx(2 * hit / (2 * hit + false + missed))
    assert score["acc_instance"] == pytest.approx((hit + quiet) / counts.sum())


@pytest.mark.parametrize("seed", range(8))
def test_nms_survivors_are_those_of_the_filter_as_it_is_written_down(seed):
    rng = np.random.default_rng(seed)
    truth = some_boxes(rng, 6, 30)
    boxes = near(rng, truth)
    scores = rng.integers(0, 4, len(boxes)) / 4
    kept, marked = set(), set()
    for overlap_N in np.asarray(iou(truth, boxes)):
        rivals = np.flatnonzero(overlap_N > 0.5).tolist()
        if rivals:
            best = max(rivals, key=lambda k: (scores[k], k))
            kept.add(best)
            marked |= {k for k in rivals if k != best}
    expected = [k for k in range(len(boxes)) if k not in marked - kept]
    assert nms_survivors(truth, boxes, scores) == expected


def test_groups_are_matched_alike_however_many_are_looked_at_together(monkeypatch):
    images = random_images(1, count=30)
    whole = pooled_f1_tally(images).rows_RK, per_image_f1(images, "blind")
    monkeypatch.setattr("vlm_fo1.eval.metrics.matching._PAIRS", 7)
    np.testing.assert_array_equal(pooled_f1_tally(images).rows_RK, whole[0])
    assert per_image_f1(images, "blind") == whole[1]
