"""Contract cases of expressions in JSON Lines."""

import json

from tests.helpers.evaluation import BenchmarkCase, write_image

A, B = [0, 0, 10, 10], [20, 0, 30, 10]


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_humanref(folder, image="a.jpg"):
    write_image(folder / "images" / image, boxes=[A, B])
    rows = [
        (0, "man in red", "attribute", [A]),
        (1, "both", "position", [A, B]),
        (2, "the queen", "rejection", [[]]),
        (3, "a dog", "rejection", []),
    ]
    return write_lines(
        folder / "annotations.jsonl",
        [
            {
                "id": id_, "image_name": image, "referring": phrase, "domain": domain,
                "sub_domain": "x", "candidate_boxes": [A, B], "answer_boxes": boxes,
            }
            for id_, phrase, domain, boxes in rows
        ],
    ).parent  # fmt: skip


def write_rex(folder):
    write_image(folder / "dense200" / "a.jpg", boxes=[A, B])
    rows = [
        {
            "image_path": "dense200/a.jpg", "categories": ["cat", "dog"],
            "gt": {"cat": [A], "dog": [B]}, "dataset_name": "Dense200", "task_name": "x",
        },
        {
            "image_path": "dense200/a.jpg", "categories": ["cat"], "gt": {"cat": [A]},
            "dataset_name": "COCO", "task_name": "x",
        },
        {
            "image_path": "dense200/a.jpg", "categories": ["dog"], "gt": {"dog": [B]},
            "dataset_name": "COCO", "task_name": "x",
        },
    ]  # fmt: skip
    write_lines(folder / "dense.jsonl", rows)
    return folder


def write_expressions(folder):
    """Any lines of image, expression and boxes."""
    write_image(folder / "images" / "a.png", boxes=[A])
    rows = [("the box", [A]), ("the cat", []), ("both", [A, B])]
    write_lines(
        folder / "mine.jsonl",
        [{"image": "a.png", "expression": words, "boxes": boxes} for words, boxes in rows],
    )


CASES = [
    BenchmarkCase(
        name="humanref",
        write=write_humanref,
        best={"df1": 100, "position df1": 100, "rejection": 100},
        nothing={"df1": 0, "rejection": 100},
    ),
    BenchmarkCase(
        name="expressions",
        write=write_expressions,
        best={"pr": 100, "n_acc": 100, "t_acc": 100},
        nothing={"pr": 100 / 3, "n_acc": 100, "t_acc": 0},
    ),
    *(
        BenchmarkCase(
            name=name,
            write=write_rex,
            best={"aware f1_mean": 100, "published f1_mean": 100},
            nothing={"aware f1_mean": 0, "published f1_mean": 0},
        )
        for name in ("dense200", "rex-referring")
    ),
]
