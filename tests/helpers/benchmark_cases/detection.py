"""Contract cases of detection sets."""

import json

from tests.helpers.evaluation import BenchmarkCase, write_image
from vlm_fo1.eval.benchmarks.odinw import SETS
from vlm_fo1.eval.benchmarks.ovdeval import SUBSETS

A, B = [0, 0, 10, 10], [20, 0, 30, 10]


def coco_file(path, images, categories, annotations):
    """A COCO file; annotations are (image, category, xyxy)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": number, "image_id": image, "category_id": category, "iscrowd": 0,
            "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
        }
        for number, (image, category, (x1, y1, x2, y2)) in enumerate(annotations, 1)
    ]  # fmt: skip
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": rows}))
    return path


def write_coco17(data):
    for id_ in (42, 43, 44):
        write_image(data / "val2017" / f"{id_:012}.jpg", boxes=[A, B])
    coco_file(
        data / "annotations" / "instances_val2017.json",
        [
            {"id": id_, "file_name": f"{id_:012}.jpg", "width": 64, "height": 48}
            for id_ in (42, 43, 44)
        ],
        [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        [(42, 1, A), (42, 18, B), (43, 1, A), (44, 18, B)],
    )
    lines = [
        {"id": id_, "image": f"{id_:012}.jpg", "bbox_list": [A, B], "score_list": [0.9, 0.5]}
        for id_ in (42, 43, 44)
    ]
    path = data / "cocoVal2017_with_upn_score_0.3_0.8.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data


def write_lvis(data):
    for id_ in (9, 10, 11):
        write_image(data / "train2017" / f"{id_:012}.jpg", boxes=[A, B])
    names = ["baseball_bat", "cat", "dog", "car_(automobile)"]
    coco_file(
        data / "lvis_v1_val.json",
        [
            {
                "id": id_, "height": 48, "width": 64, "neg_category_ids": [3],
                "not_exhaustive_category_ids": [2] if id_ == 9 else [],
                "coco_url": f"http://images.cocodataset.org/train2017/{id_:012}.jpg",
            }
            for id_ in (9, 10, 11)
        ],
        [{"id": i, "name": name, "frequency": f} for i, (name, f) in enumerate(
            zip(names, "rcff", strict=True), 1)],
        [(9, 1, A), (9, 2, B), (10, 2, A), (11, 2, B)],
    )  # fmt: skip
    return data


def write_odinw(data, sets=SETS):
    for name in sets:
        folder = data / name / ("export" if name == "pistols" else "large/valid")
        file = "val_annotations_without_background.json" if name == "pistols" else (
            "annotations_without_background.json")  # fmt: skip
        write_image(folder / "a.jpg", boxes=[A])
        label = "Cottontail-Rabbit" if name == "CottontailRabbits" else "thing"
        coco_file(
            folder / file,
            [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
            [{"id": 1, "name": label}, {"id": 2, "name": "other"}],
            [(1, 1, A)],
        )
    return data


def write_ovdeval(data, subsets=SUBSETS):
    for name in subsets:
        write_image(data / name / "a.jpg", boxes=[A])
        image = {
            "id": 1, "file_name": "a.jpg", "width": 64, "height": 48,
            "text": ["red car"], "neg_text": ["blue car"],
        }  # fmt: skip
        categories = [{"id": 1, "name": "red car"}, {"id": 2, "name": "blue car"}]
        coco_file(data / f"{name}.json", [image], categories, [(1, 1, A)])
    return data


CASES = [
    BenchmarkCase(
        name="coco",
        write=write_coco17,
        options=("published=true",),
        best={"ap": 100, "model-scored ap": 100, "all f1_mean": 100, "published f1_mean": 100},
        nothing={"ap": 0, "model-scored ap": 0, "all f1_mean": 0},
    ),
    BenchmarkCase(
        name="lvis",
        write=write_lvis,
        best={"ap": 100, "ap_r": 100, "all f1_mean": 100},
        nothing={"ap": 0, "all f1_mean": 0},
    ),
    BenchmarkCase(
        name="odinw13",
        write=write_odinw,
        best={"mean ap": 100, "pistols": 100},
        nothing={"mean ap": 0, "pistols": 0},
    ),
    BenchmarkCase(
        name="ovdeval",
        write=write_ovdeval,
        best={"five_aspect": 100, "logo": 100},
        nothing={"five_aspect": 0, "logo": 0},
    ),
]
