"""Checking records lists exactly what training leaves out: both go through the same code."""

import json
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from tests.helpers.tokenizer import char_tokenizer
from typer.testing import CliRunner

from vlm_fo1.cli.data import app
from vlm_fo1.data.check import BadRecord, check_file
from vlm_fo1.data.collate import Collator
from vlm_fo1.data.recipe import make_mixture
from vlm_fo1.errors import TrainingError
from vlm_fo1.markup import Vocabulary
from vlm_fo1.processing import FO1ImageProcessor, FO1Processor
from vlm_fo1.train.assemble import ExampleLength
from vlm_fo1.train.batches import Feed, FeedSettings

TURN = {"question": "What is <region0>?", "answer": "red", "task": "brief_caption"}
MENTION = "<ground>dog</ground><objects><region0></objects>"


def good(folder):
    return {"image": "good.png", "regions": [[8, 8, 41, 41]], "turns": [dict(TURN)]}


def said(**changes):
    return lambda record, folder: {**record, "turns": [{**TURN, **changes}]}


def shown(name):
    return lambda record, folder: {**record, "image": name}


def boxes(*rows):
    return lambda record, folder: {**record, "regions": list(rows)}


HARMLESS = {
    "good": lambda record, folder: record,
    "a region in running text": said(answer=f"A dog <region0> beside {MENTION}."),
    "a box that sticks out": boxes([-5, -5, 500, 500]),
    "no image": lambda record, folder: {"turns": [{"question": "Hi?", "answer": "Yo"}]},
    "no task": said(task=None),
    "a photo on its side": shown("turned.jpg"),
    "a narrow image": shown("narrow.png"),
    "a question too many": lambda record, folder: {
        **record, "turns": [TURN, {"question": "Why? " * 100, "answer": "no"}],
    },
}  # fmt: skip
DAMAGES = {
    "a JPEG cut in half": shown("half.jpg"),
    "EPS": shown("drawing.eps"),
    "10000 x 10000": shown("vast.png"),
    "a float TIFF": shown("float.tif"),
    "an empty file": shown("empty.png"),
    "a missing file": shown("gone.png"),
    "a folder": shown("."),
    "a name that no file can have": shown("a\0b.png"),
    "a name too long": shown("n" * 300 + ".png"),
    "40 regions for a model of 32": boxes(*[[8, 8, 41, 41]] * 40),
    "a task that nobody knows": said(task="detecton"),
    "a box outside": boxes([900, 900, 950, 950]),
    "a reversed box": boxes([41, 41, 8, 8]),
    "a box without area": boxes([8, 8, 8, 41]),
    "a box of NaN": boxes([8, 8, float("nan"), 41]),
    "a box of texts": boxes(["a", 8, 41, 41]),
    "a box of three": boxes([8, 8, 41]),
    "broken markup": said(answer="<ground>dog<objects><region0></objects>"),
    "an unclosed mention": said(answer="<ground>dog</ground><objects><region0>"),
    "a region that is not there": said(question="What is <region7>?"),
    "half a character": said(answer="\ud83d"),
    "an answer that is no text": said(answer=5),
    "an answer too long": said(answer="yes " * 200),
    "an unknown key": lambda record, folder: {**record, "boxes": []},
    "no turn": lambda record, folder: {**record, "turns": []},
    "a list": lambda record, folder: [1, 2],
    "nested too deep": lambda record, folder: "[" * 100_000,
    "no JSON": lambda record, folder: '{"image": ',
    "no UTF-8": lambda record, folder: b'{"id": "\xff"}',
}


@pytest.fixture(scope="module")
def collate():
    vocabulary = Vocabulary(max_regions=32)
    images = FO1ImageProcessor(max_regions=32)
    return Collator(FO1Processor(images, char_tokenizer(), vocabulary=vocabulary), max_tokens=700)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    image = Image.effect_noise((64, 56), 60).convert("RGB")
    image.save(folder / "good.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    data = (folder / "turned.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(data[: len(data) // 2])
    image.save(folder / "drawing.eps")
    (folder / "vast.png").write_bytes(vast_png())
    Image.fromarray(np.full((56, 64), 900.0, np.float32)).save(folder / "float.tif")
    (folder / "empty.png").write_bytes(b"")
    Image.new("RGB", (6001, 20)).save(folder / "narrow.png")
    return folder


def vast_png():
    """A file whose head promises 10000 x 10000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = [head, body, b"IEND"]
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def records_file(folder, kinds):
    lines = []
    for kind in kinds:
        made = ({**HARMLESS, **DAMAGES})[kind](good(folder), folder)
        line = made if isinstance(made, str | bytes) else json.dumps(made)
        lines.append(line if isinstance(line, bytes) else line.encode())
    path = folder / "records.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def trained(path, collate, count, **entry):
    """What the trainer's own loader leaves out in two rounds through a file, as lines."""
    recipe = {"sources": [{"type": "jsonl", "path": str(path), **entry}]}
    feed = Feed(
        lambda shard, shards: make_mixture(recipe, rank=shard, world_size=shards),
        collate,
        ExampleLength(collate),
        FeedSettings(batch_size=3, pool_batches=2),
    )
    bad: list[BadRecord] = []
    seen = 0
    while seen + len(bad) < 2 * count:
        fed = next(feed)
        seen += fed.examples
        bad += fed.bad
    return {int(re.findall(rf"{re.escape(str(path))}:(\d+)", str(each))[0]) for each in bad}


@pytest.mark.parametrize("seed", range(2))
def test_a_check_lists_exactly_the_lines_that_training_leaves_out(images, collate, seed):
    rng = np.random.default_rng(seed)
    kinds = [*HARMLESS, *DAMAGES, *rng.choice([*HARMLESS, *DAMAGES], 20)]
    kinds = [str(kind) for kind in rng.permutation(kinds)]
    path = records_file(images, kinds)
    damaged = {line for line, kind in enumerate(kinds, start=1) if kind in DAMAGES}
    checked = {problem.line: problem.reason for problem in check_file(path, collate)}
    assert {kinds[line - 1] for line in checked.keys() ^ damaged} == set()
    assert trained(path, collate, len(kinds)) == set(checked)


def test_changed_images_are_left_out_for_the_same_reasons(images, collate):
    kinds = ["good", *DAMAGES, "good"]
    path = records_file(images, kinds)
    expected = {problem.line for problem in check_file(path, collate)}
    found = trained(path, collate, len(kinds), augment={"scale": [1, 1]})
    # A box outside is clipped before it is looked at, and is one without area then.
    assert found == expected == set(range(2, len(kinds)))


@pytest.mark.parametrize("kind", ["half a character", "EPS"])
def test_a_file_of_nothing_but_bad_records_ends_training_with_one_line(images, collate, kind):
    path = records_file(images, [kind] * 3)
    with pytest.raises(TrainingError, match=r"records\.jsonl|drawing\.eps") as caught:
        trained(path, collate, 10_000)
    assert "\n" not in str(caught.value)


def test_the_command_checks_with_the_limits_of_a_model(images, tmp_path):
    FO1Processor(FO1ImageProcessor(), char_tokenizer()).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    path = records_file(images, ["good", "40 regions for a model of 32"])
    run = CliRunner().invoke(app, ["check", str(path), "--model", str(tmp_path / "model")])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(app, ["check", str(path)])  # the bundled model
    assert run.exit_code == 1
    assert "records.jsonl:2: 40 boxes for one image, at most 32 fit" in run.stdout


def test_the_command_goes_once_through_each_file_of_a_mixture_and_tells_what_is_unused(
    images, tmp_path
):
    path = records_file(images, ["good", "a float TIFF", "good"])
    row = {"file_name": "good.png", "width": 64, "height": 56}
    coco = {
        "images": [{"id": 1, **row}, {"id": "2", **row, "width": None}],
        "annotations": [
            {"image_id": key, "category_id": 1, "bbox": [1, 2, 30, 30]} for key in ("1", 2, 3)
        ],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    (tmp_path / "mixture.yaml").write_text(
        f"sources:\n  - {{type: jsonl, path: '{path}'}}\n"
        f"  - {{type: coco, annotations: '{tmp_path / 'coco.json'}', images: '{images}'}}\n"
    )
    run = CliRunner().invoke(app, ["check", str(tmp_path / "mixture.yaml")])
    assert run.exit_code == 1
    assert len(run.stdout.splitlines()) == 2, run.stdout
    assert "records.jsonl:2" in run.stdout
    assert "coco.json: image 2 has width None" in run.stdout
    assert "1 of 3 annotations belong to no image of the file (image_id 3)" in run.stderr
