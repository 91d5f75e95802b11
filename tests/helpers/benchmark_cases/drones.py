"""Contract cases of photographs from drones."""

import json

from tests.helpers.evaluation import BenchmarkCase, write_image

A, B = [0, 0, 10, 10], [20, 0, 30, 10]


def write_visdrone(data):
    (data / "annotations").mkdir()
    for number in (1, 2, 3):
        write_image(data / "images" / f"{number:04}.jpg", boxes=[A, B])
        (data / "annotations" / f"{number:04}.txt").write_text(
            "0,0,10,10,1,4,0,0\n20,0,10,10,1,6,0,0,\n"  # a car, a truck
            "0,0,60,40,1,0,0,0\n5,5,3,3,1,11,0,0\n7,7,3,3,0,4,0,0\n"  # ignored, others, score 0
        )
    return data


def write_refdrone(data):
    write_image(data / "images" / "a.jpg", boxes=[A, B])
    images = [
        {"id": n, "file_name": "a.jpg", "caption": caption, "height": 48, "width": 64}
        for n, caption in enumerate(["the cars", "the red bus", "a car"], 1)
    ]
    annotations = [
        {"id": 1, "image_id": 1, "bbox": [0, 0, 10, 10], "category_id": 0},
        {"id": 2, "image_id": 1, "bbox": [20, 0, 10, 10], "category_id": 0},
        {"id": 3, "image_id": 2, "bbox": [0, 0, 0, 0], "category_id": -1},
        {"id": 4, "image_id": 3, "bbox": [0, 0, 10, 10], "category_id": 0},
    ]
    (data / "RefDrone_test_mdetr.json").write_text(
        json.dumps({
            "images": images, "annotations": annotations,
            "categories": [{"id": 0, "name": "object"}],
        })
    )  # fmt: skip
    return data


CASES = [
    BenchmarkCase(
        name="visdrone",
        write=write_visdrone,
        best={"aware f1_mean": 100, "published f1_mean": 100},
        nothing={"aware f1_mean": 0, "published f1_mean": 0},
    ),
    BenchmarkCase(
        name="refdrone",
        write=write_refdrone,
        best={"f1_instance": 100, "acc_instance": 100, "f1_image": 100, "acc_image": 100},
        nothing={"f1_instance": 0, "f1_image": 0},
    ),
]
