import json

import pytest
from tests.helpers.evaluation import answer_to, records_of, silent, truthful, write_coco

from vlm_fo1.errors import EvaluationError, ItemError
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.images import image_size

OBJECTS = {
    "a.png": [("cat", [2, 2, 20, 20]), ("dog", [30, 5, 50, 40])],
    "b.png": [("dog", [10, 10, 40, 30])],
}


def scores_of(folder, says, *options):
    benchmark = load_benchmark("folder", options)
    return benchmark.judge(records_of(benchmark, folder, says)).values


def test_every_image_is_asked_about_all_categories_or_those_it_has(tmp_path):
    write_coco(tmp_path, OBJECTS)
    every = list(load_benchmark("folder").items(tmp_path))
    assert [item.request.labels for item in every] == [("cat", "dog")] * 2
    assert every[0].size_wh == (64, 48)
    assert every[0].truth["boxes"] == {"cat": [[2, 2, 20, 20]], "dog": [[30, 5, 50, 40]]}
    present = load_benchmark("folder", ["ask=present"]).items(tmp_path)
    assert [item.request.labels for item in present] == [("cat", "dog"), ("dog",)]


def test_the_truth_scores_the_maximum_and_silence_nothing(tmp_path):
    write_coco(tmp_path, OBJECTS)
    best = scores_of(tmp_path, truthful)
    nothing = scores_of(tmp_path, silent)
    for name in ("all f1@.5", "all f1@.95", "all f1_mean", "present f1_mean", "ap", "ap@.75"):
        assert best[name] == pytest.approx(100), name
        assert nothing[name] == 0, name
    assert best["false positives per truth all"] == 0


def test_a_wrong_name_counts_in_all_and_not_in_present(tmp_path):
    write_coco(tmp_path, OBJECTS)

    def says(item):
        boxes = dict(item.truth["boxes"]) | ({"cat": [[1, 1, 9, 9]]} if item.id == "2" else {})
        return answer_to(item.request, image_size(item.image), boxes)

    scores = scores_of(tmp_path, says)
    assert scores["present f1@.5"] == pytest.approx(100)
    assert scores["all f1@.5"] == pytest.approx(100 * 6 / 7)  # P (1/2 + 1) / 2, R 1
    assert scores["false positives per truth absent"] == pytest.approx(100 / 3)


def test_a_failed_image_has_found_nothing(tmp_path):
    write_coco(tmp_path, OBJECTS)
    scores = scores_of(
        tmp_path, lambda item: ItemError("broken") if item.id == "2" else truthful(item)
    )
    assert scores["all f1@.5"] == pytest.approx(100 * 6 / 7)  # R (1 + 1/2) / 2, P 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=9), "category_id of 1 of 3 annotations"),
        (lambda c: c["annotations"][0].update(image_id=9), "image_id of 1 of 3 annotations"),
        (lambda c: c["images"][0].update(id=2), "1 ids of images stand more than once"),
        (
            lambda c: c["annotations"].append(c["annotations"][0]),
            "annotations stand .* '1 of image 1'",
        ),
        (lambda c: c["images"].clear() or c["annotations"].clear(), "has no images"),
        (lambda c: c.pop("categories"), "'categories' must be a list"),
        (lambda c: c["categories"][0].update(name="dog"), "json: 1 names of categories stand more"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4]), "must be .* not negative"),
        (lambda c: c["annotations"][0].update(bbox=[1, float("nan"), 3, 4]), "must be finite"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, float("inf"), 4]), "must be finite"),
        (lambda c: c["annotations"][0].update(bbox=[-float("inf"), 2, 9, 4]), "must be finite"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), "annotation 1"),
        (lambda c: c["images"][0].pop("file_name"), "image 1 has no name"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_counts(tmp_path, change, message):
    path = write_coco(tmp_path, OBJECTS)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=message):
        list(load_benchmark("folder").items(tmp_path))


def test_of_several_files_one_has_to_be_named(tmp_path):
    path = write_coco(tmp_path, OBJECTS)
    (tmp_path / "report.json").write_text("{}")  # of an evaluation whose --out was this folder
    assert len(list(load_benchmark("folder").items(tmp_path))) == 2
    (tmp_path / "other.json").write_text(path.read_text())
    with pytest.raises(EvaluationError, match="--option annotations=coco"):
        list(load_benchmark("folder").items(tmp_path))
    assert len(list(load_benchmark("folder", ["annotations=coco.json"]).items(tmp_path))) == 2


def test_images_are_found_by_names_that_windows_wrote(tmp_path):
    path = write_coco(tmp_path, OBJECTS)
    path.write_text(path.read_text().replace('"file_name": "', '"file_name": "images\\\\'))
    assert all(item.image.is_file() for item in load_benchmark("folder").items(tmp_path))


def test_ids_that_are_zero_or_have_gaps_are_ids_like_others(tmp_path):
    # cocoapi 331: an annotation with the id 0 counts as missed; detectron2 5097: ids from 0
    path = write_coco(tmp_path, OBJECTS)
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row.update(id=row["id"] - 1, image_id=(row["image_id"] - 1) * 40)
        row["category_id"] = {1: 0, 2: 90}[row["category_id"]]
    content["images"][0]["id"], content["images"][1]["id"] = 0, 40
    content["categories"][0]["id"], content["categories"][1]["id"] = 0, 90
    path.write_text(json.dumps(content))
    best = scores_of(tmp_path, truthful)
    assert best["ap"] == best["all f1_mean"] == pytest.approx(100)


@pytest.mark.parametrize("empty", ["0.png", "z.png"])
def test_false_alarms_in_an_image_without_objects_count_wherever_it_stands(tmp_path, empty):
    # torchmetrics 1774, supervision 2397: only those before the last image with objects counted
    objects = {"a.png": [("cat", [2, 2, 20, 20])], empty: []}
    write_coco(tmp_path, dict(sorted(objects.items())))

    def says(item):
        score = 0.5 if item.truth["boxes"] else 0.9
        return answer_to(
            item.request, image_size(item.image), {"cat": [[2, 2, 20, 20]]}, score=score
        )

    scores = scores_of(tmp_path, says)
    assert scores["ap"] == pytest.approx(50)
    assert scores["all f1@.5"] == pytest.approx(100 * 2 / 3)
    assert scores["false positives per truth absent"] == pytest.approx(100)


def test_false_alarms_under_a_name_without_any_object_are_told_though_ap_cannot_see_them(tmp_path):
    # cocoapi 55, torchmetrics 1184
    path = write_coco(tmp_path, OBJECTS)
    content = json.loads(path.read_text())
    content["categories"].append({"id": 3, "name": "car"})
    path.write_text(json.dumps(content))

    def says(item):
        boxes = dict(item.truth["boxes"]) | {"car": [[1, 1, 9, 9]]}
        return answer_to(item.request, image_size(item.image), boxes)

    scores = load_benchmark("folder").judge(records_of(load_benchmark("folder"), tmp_path, says))
    assert scores.values["ap"] == pytest.approx(100)
    assert scores.values["false positives per truth absent"] == pytest.approx(200 / 3)
    assert scores.notes == (
        "2 boxes were answered under names that no image has: AP and F1 do not see them, false "
        "positives do",
    )


def test_a_run_that_found_nothing_anywhere_scores_zero_and_has_no_error(tmp_path):
    # torchmetrics 601, 794: empty predictions raise, or give -1
    write_coco(tmp_path, OBJECTS)
    scores = scores_of(tmp_path, lambda item: answer_to(item.request, (64, 48), {}))
    assert (scores["ap"], scores["ap_small"], scores["all f1_mean"]) == (0, 0, 0)
