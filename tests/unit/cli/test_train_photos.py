"""Fine-tuning as a stranger does: photos from a phone, labelled in another tool, text ids."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from vlm_fo1.boxes import iou
from vlm_fo1.cli.main import app
from vlm_fo1.config import read
from vlm_fo1.data.recipe import make_mixture
from vlm_fo1.images import read_image
from vlm_fo1.markup import scan
from vlm_fo1.train.config import TrainConfig
from vlm_fo1.train.metrics import read_log

pytestmark = pytest.mark.usefixtures("quiet")


SIZE = (96, 64)
COLOURS = {"red thing": "red", "blue thing": "blue"}
BOXES = {"red thing": (10, 8, 40, 30), "blue thing": (60, 34, 84, 58)}
"""In the stored image, xyxy."""

CONFIG = """
model: {{path: tiny}}
output: {{folder: {folder}/run, log_every: 1, tensorboard: false}}
data: {{max_tokens: 600, pool_batches: 2}}
distributed: {{device: cpu}}
stages:
  - name: regions
    steps: 2
    batch_size: 1
    precision: fp32
    train: [{{pattern: region_connector, lr: 1e-3}}]
    mixture:
      sources:
        - type: coco
          annotations: {folder}/labels.json
          images: {folder}
          questions: {{tasks: {{detection: 1}}, jitter: 0, distractors: [0, 0]}}
"""


def labelled(folder, *, stated):
    """Eight photos, one of each orientation, and a COCO file with ids as text."""
    images, annotations = [], []
    for orientation in range(1, 9):
        image = Image.new("RGB", SIZE, "white")
        pen = ImageDraw.Draw(image)
        for name, (x1, y1, x2, y2) in BOXES.items():
            pen.rectangle((x1, y1, x2 - 1, y2 - 1), COLOURS[name])
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = f"photo {orientation}.jpg"
        image.save(folder / name, exif=exif, quality=100, subsampling=0)
        shown = read_image(folder / name)
        sizes = {"stored": SIZE, "shown": shown.size, "other": (192, 128)}
        turned = stated == "shown" or orientation in {2, 3, 4}  # one size: as people see it
        images.append(
            {
                "id": f"{orientation:04d}", "file_name": name.replace(" ", "%20"),
                "width": sizes[stated][0], "height": sizes[stated][1],
            }
        )  # fmt: skip
        for number, (thing, box) in enumerate(BOXES.items(), start=1):
            x1, y1, x2, y2 = found(shown, thing) if turned else box
            annotations.append(
                {
                    "id": len(annotations), "image_id": str(orientation),
                    "category_id": str(number), "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(BOXES, start=1)]
    categories.append({"id": 3, "name": "dog"})
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content), encoding="utf-8-sig")
    (folder / "train.yaml").write_text(CONFIG.format(folder=folder))
    return folder / "train.yaml"


def found(image, thing):
    """Where a thing is in an image as it is shown, by its colour."""
    levels = np.asarray(image).astype(int)
    first, last = (0, 2) if thing == "red thing" else (2, 0)
    ys, xs = np.nonzero((levels[:, :, first] > 150) & (levels[:, :, last] < 100))
    return tuple(map(int, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)))


def fo1(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize("stated", ["stored", "shown"])
def test_photos_of_all_orientations_labelled_with_text_ids_train_on_what_is_shown(tmp_path, stated):
    config = labelled(tmp_path, stated=stated)
    checked = fo1("data", "check", config)
    assert checked.exit_code == 0, checked.output
    seen = set()
    mixture = read(config, TrainConfig).stages[0].mixture
    for example, _ in zip(make_mixture(mixture), range(24), strict=False):
        shown = read_image(example.image)
        mentions = [mention for turn in example.turns for mention in scan(turn.answer).mentions]
        for mention in mentions:
            (number,) = mention.numbers
            assert iou(example.regions_xyxy[number], [found(shown, mention.label)])[0, 0] > 0.9
            seen.add((example.id, mention.label))
    assert len(seen) == 8 * len(BOXES)
    if stated == "stored":
        done = fo1("train", config)
        assert done.exit_code == 0, done.output
        assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2]
        assert not (tmp_path / "run" / "bad_records.jsonl").exists()


def test_labels_of_another_size_are_refused_with_a_sentence_that_helps(tmp_path):
    config = labelled(tmp_path, stated="other")
    checked = fo1("data", "check", config)
    assert checked.exit_code == 1
    lines = checked.stdout.splitlines()
    assert len(lines) == 8
    assert all("of an image of (192, 128), this one is" in line for line in lines)
    done = fo1("train", config)
    assert done.exit_code == 2
    assert "(192, 128)" in " ".join(done.output.split())
