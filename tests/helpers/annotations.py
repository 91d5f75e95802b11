"""Files of annotations as other tools write them, of two grey images."""

import json

from vlm_fo1.data.sources import InstanceConfig
from vlm_fo1.markup import scan

SIZE = (200, 160)


DOGS = [[10, 10, 40, 40], [100, 20, 50, 60]]


CAT = [20, 90, 60, 50]


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


def only(task):
    return InstanceConfig(tasks={task: 1.0}, jitter=0.0, turns=(1, 1))


def numbers_in(text):
    return [n for mention in scan(text).mentions for n in mention.numbers]


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
