"""Contract cases of RefCOCO and its like."""

import json
import pickle
from dataclasses import replace
from functools import partial

import numpy as np

from tests.helpers.evaluation import BenchmarkCase, truthful, write_image
from vlm_fo1.masks import encode_rle

LEFT, RIGHT = [0, 0, 10, 10], [20, 0, 30, 10]


def mask_of_box(box):
    """A box as the mask of an image of 64 x 48 pixels."""
    mask = np.zeros((48, 64), np.bool_)
    x1, y1, x2, y2 = map(int, box)
    mask[y1:y2, x1:x2] = True
    return mask


def masked(item):
    """Answers with the boxes of the truth, each with its mask."""
    answer = truthful(item)
    masks = np.zeros((len(answer.regions), 48, 64), np.bool_)
    for mask, box in zip(masks, answer.regions.xyxy, strict=True):
        mask |= mask_of_box(box)
    return replace(answer, regions=replace(answer.regions, masks=masks))


def references(rows):
    """References as the refer repository writes them: (split, ann_id, sentences)."""
    return [
        {
            "ref_id": number, "ann_id": ann, "category_id": 1, "image_id": 9, "split": split,
            "file_name": "COCO_9_1.jpg", "sent_ids": [1],
            "sentences": [{"sent_id": 1, "sent": text, "raw": text} for text in texts],
        }
        for number, (split, ann, texts) in enumerate(rows)
    ]  # fmt: skip


def write_refer(data, folder, refs, rows, ending="p"):
    """One data set in the layout of the refer repository."""
    write_image(data / "train2014" / "COCO_9.jpg", boxes=[LEFT, RIGHT])
    (data / folder).mkdir(parents=True)
    instances = {
        "images": [{"id": 9, "file_name": "COCO_9.jpg", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "man"}],
        "annotations": [
            {
                "id": 5,
                "image_id": 9,
                "category_id": 1,
                "bbox": [0, 0, 10, 10],
                "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]],
            },
            {
                "id": 6,
                "image_id": 9,
                "category_id": 1,
                "bbox": [20, 0, 10, 10],
                "segmentation": encode_rle(mask_of_box(RIGHT)),
            },
        ],
    }
    (data / folder / "instances.json").write_text(json.dumps(instances))
    path = data / folder / f"{refs}.{ending}"
    content = references(rows)
    if ending == "p":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_text(json.dumps(content))
    return data


ROWS = [
    ("train", 5, ["not asked"]),
    ("val", 5, ["left man", "man at the left"]),
    ("testA", 6, ["right man"]),
    ("testB", 6, ["the other man"]),
]
G_ROWS = [
    ("val", [5, 6], ["both men"]), ("testA", [-1], ["the dog"]), ("testB", [5], ["left man"]),
]  # fmt: skip

CASES = [
    *(
        BenchmarkCase(
            name=name,
            write=partial(write_refer, folder=name, refs=refs, rows=rows),
            best={"mean accuracy": 100, f"{split} oracle": 100, f"{split} several": 0},
            nothing={"mean accuracy": 0, f"{split} oracle": 0},
        )
        for name, refs, rows, split in (
            ("refcoco", "refs(unc)", ROWS, "testA"),
            ("refcoco+", "refs(unc)", ROWS, "testB"),
            ("refcocog", "refs(umd)", [*ROWS, ("test", 5, ["man"])], "test"),
        )
    ),
    BenchmarkCase(
        name="grefcoco",
        write=partial(
            write_refer, folder="grefcoco", refs="grefs(unc)", rows=G_ROWS, ending="json"
        ),
        says=masked,
        best={
            "mean pr": 100,
            "testA n_acc": 100,
            "val t_acc": 100,
            "val masks giou": 100,
            "val masks ciou": 100,
            "testA masks giou": 100,
            "testB masks pr@.7": 100,
        },
        nothing={"mean pr": 100 / 3, "testA n_acc": 100, "val t_acc": 0},
    ),
]
