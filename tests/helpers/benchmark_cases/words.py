"""Contract cases of questions about given boxes."""

import json

import numpy as np

from tests.helpers.evaluation import BenchmarkCase, write_image
from vlm_fo1.answer import Answer, Mention
from vlm_fo1.images import image_size
from vlm_fo1.regions import Regions

A, B = [0, 0, 10, 10], [20, 0, 30, 10]


def saying(item, words):
    """An answer that says something of each box."""
    xyxy = np.array(item.boxes, np.float32).reshape(-1, 4)
    mentions = tuple(Mention(word, (index,)) for index, word in enumerate(words))
    offered = Regions(xyxy, image_size(item.image))
    return Answer("\n".join(words), offered, mentions, item.request.task, plain="\n".join(words))


def write_osprey(data, file="lvis_val_1k_category.json"):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        write_image(data / "val2017" / name, boxes=[A, B])
    rows = [
        {
            "id": 1, "file_name": "a.jpg", "height": 48, "width": 64,
            "categories": ["baseball_bat", "dog"],
            "annotations": [{"bbox": [0, 0, 10, 10]}, {"bbox": [20, 0, 10, 10]}],
        },
        {
            "id": 2, "file_name": "b.jpg", "height": 48, "width": 64, "categories": ["cat"],
            "annotations": [{"bbox": [0, 0, 10, 10]}],
        },
        {
            "id": 3, "file_name": "c.jpg", "height": 48, "width": 64, "categories": ["cow"],
            "annotations": [{"bbox": [20, 0, 10, 10]}],
        },
    ]  # fmt: skip
    (data / file).write_text(json.dumps(rows))
    return data


def write_cocotext(data):
    write_image(data / "train2014" / "a.jpg", boxes=[A, B])
    rows = [{
        "image_name": "a.jpg", "question_id": number, "bbox": [[0, 0, 10, 10], [20, 0, 10, 10]],
        "gt_answers": "Region 1: Time: 10\nRegion 2: Exit",
    } for number in (7, 8, 9)]  # fmt: skip
    (data / "COCOText_box.json").write_text(json.dumps(rows))
    return data


def write_ferret(data):
    write_image(data / "val2017" / "a.jpg", boxes=[A])
    folder = data / "refer_reason"
    folder.mkdir()
    question = {
        "question_id": 0, "image": "a.jpg", "category": "refer_reason",
        "text": "What is [0.1, 0.25, 0.5, 0.75] used for?",
    }  # fmt: skip
    (folder / "question.jsonl").write_text(json.dumps(question) + "\n")
    (folder / "answer.jsonl").write_text(json.dumps({"question_id": 0, "text": "To cut."}) + "\n")
    (folder / "context.jsonl").write_text(json.dumps({"id": 0, "caption": "A knife."}) + "\n")
    rule = {"refer_reason": {"role": "Assistant", "prompt": "Rate both."}}
    (data / "rule.json").write_text(json.dumps(rule))
    return data


def right_words(item):
    """What is true of each box."""
    return saying(item, [text.replace("_", " ") for text in item.truth["texts"]])


CASES = [
    *(
        BenchmarkCase(
            name=name,
            write=lambda folder, file=file: write_osprey(folder, file),
            says=right_words,
            options=("similarity=false",),
            best={"s_iou": 100},
            nothing={"s_iou": 0},
        )
        for name, file in (
            ("lvis-regions", "lvis_val_1k_category.json"),
            ("paco-regions", "paco_val_1k_category.json"),
        )
    ),
    BenchmarkCase(
        name="coco-text",
        write=write_cocotext,
        says=right_words,
        best={"accuracy": 100},
        nothing={"accuracy": 0},
    ),
]
