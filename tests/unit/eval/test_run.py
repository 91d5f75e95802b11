"""Runs of a benchmark: whole, killed and gone on with, in shards, with items that break."""

import contextlib
import gc
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.helpers.evaluation import answering, silent, truthful, write_coco, write_image

from vlm_fo1.errors import BoxError, ConfigError, EvaluationError, ImageError
from vlm_fo1.eval.benchmark import Item
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.eval.files import Header, PredictionFile, read_run
from vlm_fo1.eval.run import Shard, as_shown, digest_of, items_of, predict
from vlm_fo1.images import Frame
from vlm_fo1.tasks import Request

FOLDER = load_benchmark("folder")
OBJECTS = {
    f"{number}.png": [("cat", [number, 2, number + 20, 20]), ("dog", [30, 5, 50, 40])]
    for number in range(7)
}


@pytest.fixture
def data(tmp_path):
    write_coco(tmp_path / "data", OBJECTS)
    return tmp_path / "data"


def header_of(items, **values):
    given = {
        "benchmark": "folder", "options": {}, "items": len(items), "digest": digest_of(items),
        "model": {"model": "stand-in"},
    }  # fmt: skip
    return Header(**{**given, **values})


def run(out, items, data, says=truthful, shard=None, **options):
    shard = shard or Shard()
    with PredictionFile(out / shard.file_name, header_of(items), **options) as file:
        list(predict(items, answering(items, says), file, shard=shard, data=data))


def lines_of(folder):
    """All lines without times, as bytes say them."""
    lines = [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    for line in lines:
        line.pop("seconds", None)
    return lines


def test_a_run_is_not_gone_on_with_once_the_truth_was_mended(tmp_path, data):
    items = items_of(FOLDER, data)
    run(tmp_path / "out", items, data)
    content = json.loads((data / "coco.json").read_text())
    content["annotations"][3]["bbox"][2] += 1
    (data / "coco.json").write_text(json.dumps(content))
    mended = items_of(FOLDER, data)
    with pytest.raises(ConfigError, match="holds another run: digest"):
        run(tmp_path / "out", mended, data, resume=True)


def test_a_run_writes_a_header_and_a_line_an_item_that_scoring_reads_alone(tmp_path, data):
    items = items_of(FOLDER, data)
    run(tmp_path / "out", items, data)
    header, records = read_run(tmp_path / "out")
    assert header.items == 7
    assert [record.image for record in records] == [f"images/{name}" for name in OBJECTS]
    assert records[0].truth["boxes"] == {"cat": [[0, 2, 20, 20]], "dog": [[30, 5, 50, 40]]}
    assert FOLDER.judge(records).values["all f1_mean"] == pytest.approx(100)


@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_a_run_that_is_killed_and_gone_on_with_gives_the_same_file(tmp_path, data, after):
    items = items_of(FOLDER, data)
    run(tmp_path / "whole", items, data)
    left = [after]

    def dying(item):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return truthful(item)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", items, data, dying)
    path = tmp_path / "killed" / "predictions.jsonl"
    with path.open("ab") as file:
        file.write(b'{"run": "half a li')
    asked = []
    run(tmp_path / "killed", items, data, lambda i: asked.append(i) or truthful(i), resume=True)
    assert len(asked) == 7 - after
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "whole")


def test_two_shards_equal_one_run(tmp_path, data):
    items = items_of(FOLDER, data)
    run(tmp_path / "whole", items, data)
    for text in ("2/2", "1/2"):
        run(tmp_path / "parts", items, data, shard=Shard.parse(text))
    parts, whole = (read_run(tmp_path / name)[1] for name in ("parts", "whole"))
    assert [record.to_dict() for record in parts] == [record.to_dict() for record in whole]


def test_reading_a_run_leaves_the_search_for_garbage_as_it_was(tmp_path, data):
    run(tmp_path / "out", items_of(FOLDER, data), data)
    for folder, raised in (("out", ()), ("none", EvaluationError)):
        with pytest.raises(raised) if raised else contextlib.nullcontext():
            read_run(tmp_path / folder)
        assert gc.isenabled()


def test_gaps_doubles_and_strangers_are_errors_with_counts(tmp_path, data):
    items = items_of(FOLDER, data)
    run(tmp_path, items, data, shard=Shard(1, 2))
    with pytest.raises(EvaluationError, match=r"3 of 7 items have no prediction .* item 1 is"):
        read_run(tmp_path)
    run(tmp_path, items, data)
    with pytest.raises(EvaluationError, match="4 of 7 items have more than one"):
        read_run(tmp_path)
    (tmp_path / "predictions-1-of-2.jsonl").unlink()
    path = tmp_path / "predictions.jsonl"
    path.write_text(path.read_text().replace('"index": 6', '"index": 7'))
    with pytest.raises(EvaluationError, match="1 predictions are of no item, as there are 7"):
        read_run(tmp_path)


def test_files_of_different_runs_are_not_merged(tmp_path, data):
    items = items_of(FOLDER, data)
    run(tmp_path, items, data, shard=Shard(1, 2))
    other = header_of(items, model={"model": "another"})
    with PredictionFile(tmp_path / "predictions-2-of-2.jsonl", other) as file:
        list(predict(items, answering(items, truthful), file, shard=Shard(2, 2), data=data))
    with pytest.raises(EvaluationError, match=r"model\.model: 'stand-in' -> 'another'"):
        read_run(tmp_path)


def test_a_file_that_is_there_is_gone_on_with_or_begun_anew_only_if_said(tmp_path, data):
    items = items_of(FOLDER, data)
    run(tmp_path, items, data)
    with pytest.raises(ConfigError, match="--resume goes on with it"):
        run(tmp_path, items, data)
    with pytest.raises(ConfigError, match=r"another run: items: 7 -> 6"):
        run(tmp_path, items[:6], data, resume=True)
    run(tmp_path, items[:6], data, fresh=True)
    assert len(read_run(tmp_path)[1]) == 6


def test_items_that_fail_are_recorded_and_counted_as_wrong_and_the_others_go_on(tmp_path, data):
    (data / "images" / "2.png").write_bytes(b"no image")
    (data / "images" / "4.png").unlink()
    write_image(data / "images" / "5.png", (100, 100))
    items = items_of(FOLDER, data)
    run(tmp_path / "out", items, data)
    records = read_run(tmp_path / "out")[1]
    failed = {record.index: record.error for record in records if record.answer is None}
    assert list(failed) == [2, 4, 5]
    assert "is 64 x 48" in failed[5] or "(64, 48)" in failed[5]
    score = FOLDER.judge(records).values["all f1@.5"]
    assert score == pytest.approx(100 * 2 * (4 / 7) / (1 + 4 / 7))


def test_items_that_failed_are_tried_again_and_stand_in_their_place(tmp_path, data):
    items = items_of(FOLDER, data)
    run(tmp_path / "whole", items, data)
    run(tmp_path / "out", items, data, lambda i: ImageError("busy") if i.id == "3" else truthful(i))
    assert read_run(tmp_path / "out")[1][2].error == "busy"
    run(tmp_path / "out", items, data, resume=True)
    assert lines_of(tmp_path / "out") == lines_of(tmp_path / "whole")


def test_some_missing_images_are_warned_of_and_all_missing_are_refused(tmp_path, data, caplog):
    (data / "images" / "0.png").unlink()
    assert len(items_of(FOLDER, data)) == 7
    assert "1 of 7 images are missing" in caplog.text
    for path in (data / "images").iterdir():
        path.unlink()
    with pytest.raises(EvaluationError, match="7 of 7 images are missing"):
        items_of(FOLDER, data)


def test_a_limit_takes_the_first_items(data):
    assert [item.id for item in items_of(FOLDER, data, limit=3)] == ["1", "2", "3"]


def test_a_missing_file_is_told_with_what_is_needed_and_where_it_comes_from(tmp_path):
    for name, file in (("humanref", "annotations.jsonl"), ("refcoco", r"refcoco/refs\(unc\).p")):
        said = rf"{file}.*; needed: .*; from: (huggingface|github).*"
        with pytest.raises(EvaluationError, match=said):
            items_of(load_benchmark(name), tmp_path)


def test_doubled_ids_are_refused(data):
    class Doubled:
        card = FOLDER.card

        def items(self, data):
            yield from (replace(item, id="7") for item in FOLDER.items(data))

    with pytest.raises(EvaluationError, match="1 ids of items stand more than once, '7'"):
        items_of(Doubled(), data)  # pyright: ignore[reportArgumentType]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="is no folder: it must hold"):
        items_of(FOLDER, tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_shard_that_cannot_be_is_refused(text):
    with pytest.raises(EvaluationError, match="shard"):
        Shard.parse(text)


def test_boxes_of_a_photo_as_stored_are_turned_with_it():
    item = Item(
        id="1",
        image=Image.__file__,  # pyright: ignore[reportArgumentType] - not read here
        request=Request(task="detection", labels=("cat",)),
        truth={"boxes": {"cat": [[0, 0, 10, 20]]}, "answer": 3},
        boxes={"xyxy": [[0, 0, 10, 20]], "scores": [0.5]},
        size_wh=(64, 48),
    )
    turned = as_shown(item, Frame((48, 64), (64, 48), 6))
    assert turned.truth == {"boxes": {"cat": [[28, 0, 48, 10]]}, "answer": 3}
    assert turned.boxes == {"xyxy": [[28, 0, 48, 10]], "scores": [0.5]}
    assert as_shown(item, Frame((64, 48), (64, 48))) is item
    with pytest.raises(BoxError, match="the same image"):
        as_shown(replace(item, truth={}, boxes=None), Frame((100, 48), (100, 48)))


def test_a_model_that_gives_too_few_answers_is_an_error(tmp_path, data):
    items = items_of(FOLDER, data)
    with (
        PredictionFile(tmp_path / "predictions.jsonl", header_of(items)) as file,
        pytest.raises(EvaluationError, match="no answer to the last"),
    ):
        list(predict(items, lambda asked: iter([silent(items[0]) for _ in [*asked]][:2]), file))


def test_a_file_of_something_else_is_refused(tmp_path, data):
    items = items_of(FOLDER, data)
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"some": "thing"}\n')
    with pytest.raises(EvaluationError, match="its first line is no header"):
        run(tmp_path, items, data, resume=True)
    with pytest.raises(EvaluationError, match="its first line is no header"):
        read_run(tmp_path)
    with pytest.raises(EvaluationError, match="run the benchmark first"):
        read_run(data)


@pytest.mark.slow
def test_three_broken_images_of_a_thousand_are_told_and_the_run_ends(tmp_path):
    objects = {f"{number}.png": [("cat", [2, 2, 20, 20])] for number in range(1000)}
    write_coco(tmp_path / "data", objects)
    for number in (17, 400, 999):
        (tmp_path / "data" / "images" / f"{number}.png").write_bytes(b"")
    items = items_of(FOLDER, tmp_path / "data")
    run(tmp_path / "out", items, tmp_path / "data")
    records = read_run(tmp_path / "out")[1]
    assert [r.index for r in records if r.answer is None] == [17, 400, 999]
    assert np.isclose(FOLDER.judge(records).values["all f1@.5"] or 0, 200 * 0.997 / 1.997)
