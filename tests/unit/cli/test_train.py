"""`fo1 train` from a folder and a file of records to weights that load."""

import errno
import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from tests.helpers.tokenizer import char_tokenizer
from tests.helpers.training import tiny_config
from typer.testing import CliRunner

from recipes.synthetic import SyntheticConfig, SyntheticSource
from recipes.synthetic.export import write_images
from vlm_fo1.cli.main import app
from vlm_fo1.jsonl import lock_file
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.processing import FO1ImageProcessor, FO1Processor
from vlm_fo1.train.assemble import assemble
from vlm_fo1.train.config import (
    DataConfig,
    ModelConfig,
    OutputConfig,
    StageConfig,
    TrainConfig,
    TrainRule,
)
from vlm_fo1.train.metrics import read_log

pytestmark = pytest.mark.usefixtures("quiet")


CONFIG = """
model: {{path: {folder}/start, init: random}}
output: {{folder: {folder}/run, log_every: 1, tensorboard: true}}
data: {{max_tokens: 400, pool_batches: 2}}
distributed: {{device: cpu}}
evaluation:
  mixture: {{sources: [{{type: jsonl, path: {folder}/records.jsonl}}]}}
  batches: 1
  answers: 1
stages:
  - name: stage1
    steps: 3
    batch_size: 2
    precision: fp32
    save_every: 2
    train:
      - {{pattern: region_connector, lr: 1e-2}}
      - {{pattern: host.lm_head.weight, lr: 1e-2, rows: new_tokens}}
    mixture: {{sources: [{{type: jsonl, path: {folder}/records.jsonl}}]}}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    processor = FO1Processor(FO1ImageProcessor(), char_tokenizer())
    processor.save_pretrained(tmp_path / "start")
    config = tiny_config(
        len(processor.tokenizer),
        image_token_id=processor.image_token_id,
        region_token_id=processor.region_token_id,
    )
    config.save_pretrained(tmp_path / "start")
    lines = []
    for number in range(4):
        image = Image.new("RGB", (64, 56 + 28 * (number % 2)), "white")
        ImageDraw.Draw(image).rectangle((8, 8, 40, 40), "red")
        image.save(tmp_path / f"{number}.png")
        turn = {"question": "What is <region0>?", "answer": "red", "task": "brief_caption"}
        regions = [[8, 8, 41, 41], [44, 44, 60, 54]]
        lines.append({"image": f"{number}.png", "regions": regions, "turns": [turn]})
    text = "\n".join(map(json.dumps, lines)) + "\n"
    (tmp_path / "records.jsonl").write_text(text)
    (tmp_path / "train.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path


def fo1(*arguments: object):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_records_train_a_model_that_loads_again(folder):
    done = fo1(folder / "train.yaml")
    assert done.exit_code == 0, done.output
    run = folder / "run"
    assert f"weights: {run / 'stage1'}" in done.output
    assert [line["step"] for line in read_log(run)] == [1, 2, 3]
    assert read_log(run, "eval")[0]["loss"] > 0
    assert list((run / "tensorboard").iterdir())
    FO1ForConditionalGeneration.from_pretrained(run / "stage1")
    FO1Processor.from_pretrained(run / "stage1")
    facts = json.loads((run / "stage1" / "provenance.json").read_text())
    assert list(facts["data"]) == [str(folder / "records.jsonl")]
    again = fo1(run / "stage1" / "train.yaml", "--out", folder / "again")
    assert again.exit_code == 0, again.output
    curves = [[line["loss"] for line in read_log(folder / name)] for name in ("run", "again")]
    assert curves[0] == curves[1]
    fresh = fo1(folder / "train.yaml", "--fresh")
    assert fresh.exit_code == 0, fresh.output
    assert (folder / "run.1" / "stage1").is_dir()


def test_a_bad_line_is_named_and_the_run_ends_with_1(folder):
    text = (folder / "records.jsonl").read_text().splitlines()
    text[2] = text[2].replace("<region0>", "<region7>")
    text[3] = text[3].replace("3.png", "missing.png")
    (folder / "records.jsonl").write_text("\n".join(text) + "\n")
    done = fo1(folder / "train.yaml")
    assert done.exit_code == 1, done.output
    bad = (folder / "run" / "bad_records.jsonl").read_text()
    assert "records.jsonl:3: the question of turn 0 names <region7>" in bad
    assert "missing.png" in bad
    assert (folder / "run" / "stage1" / "model.safetensors").is_file()
    stopped = fo1(folder / "train.yaml", "--fresh", "--set", "data.on_bad_record=stop")
    assert stopped.exit_code == 2
    assert "records.jsonl" in stopped.output


def test_a_mistake_ends_with_2_and_one_line(folder):
    done = fo1(folder / "train.yaml", "--set", "stages.0.stepz=3")
    assert done.exit_code == 2
    assert "unknown key 'stages.0.stepz': did you mean 'steps'?" in done.output
    done = fo1(folder / "train.yaml", "--set", "stages.0.train.0.pattern=region_conector")
    assert done.exit_code == 2
    assert "matches no parameter: nearest are region_connector" in done.output


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(folder, caplog):
    assert fo1(folder / "train.yaml").exit_code == 0
    more = [folder / "train.yaml", "--set", "stages.0.steps=4"]
    refused = fo1(*more)
    assert refused.exit_code == 2
    assert "stages.0.steps: 3 -> 4" in refused.output
    done = fo1(*more, "--allow-changes")
    assert done.exit_code == 0, done.output
    assert [line["step"] for line in read_log(folder / "run")] == [1, 2, 3, 4]
    facts = json.loads((folder / "run" / "stage1" / "provenance.json").read_text())
    assert facts["steps"] == 4
    again = fo1(*more)
    assert again.exit_code == 0
    assert "is finished: nothing is trained" in caplog.text


def test_a_folder_that_cannot_be_written_is_one_line_that_names_it(folder, monkeypatch):
    file = folder / "a-file"
    file.write_text("mine")
    below = fo1(folder / "train.yaml", "--out", file)
    assert (below.exit_code, below.output.strip().count("\n")) == (2, 0)
    assert f"{file} cannot be written" in below.output
    assert file.read_text() == "mine"

    def read_only(self, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    refused = fo1(folder / "train.yaml")
    assert (refused.exit_code, refused.output.strip().count("\n")) == (2, 0)
    assert f"{folder / 'run'} cannot be written: Read-only file system" in refused.output


def test_a_run_that_another_process_writes_is_not_moved_aside(folder):
    (folder / "run").mkdir()
    with lock_file(folder / "run", "run"):
        refused = fo1(folder / "train.yaml", "--fresh")
    assert refused.exit_code == 2
    assert "is being written by another run" in refused.output
    assert not (folder / "run.1").exists()


@pytest.mark.parametrize("change", ["stages.0.steps=[1", "stages.0.steps={{ x }}"])
def test_a_change_that_is_no_yaml_is_one_line(folder, change):
    done = fo1(folder / "train.yaml", "--set", change)
    assert (done.exit_code, done.output.strip().count("\n")) == (2, 0)
    assert f"override '{change}'" in done.output


def test_the_length_of_a_record_is_what_the_collator_makes_of_it(folder):
    config = TrainConfig(
        model=ModelConfig(path=str(folder / "start"), init="random"),
        output=OutputConfig(folder=folder / "run"),
        data=DataConfig(max_tokens=400),
        stages=(
            StageConfig(
                name="one",
                steps=1,
                train=(TrainRule(pattern="*", lr=1e-3),),
                mixture={"sources": [{"type": "jsonl", "path": str(folder / "records.jsonl")}]},
            ),
        ),
    )
    parts = assemble(config)
    source = parts.make_source(config.stages[0].mixture, 0, 1)
    examples = [example for example, _ in zip(source, range(4), strict=False)]
    for example in examples:
        made = parts.collate([example])["attention_mask"].sum().item()
        assert parts.length(example) == made
    assert len(parts.new_token_ids) == 107


@pytest.mark.slow
def test_the_commands_of_the_training_page_go_from_coco_data_to_a_model(tmp_path, monkeypatch):
    config = str(Path(__file__).parents[3] / "configs" / "train" / "finetune.yaml")
    monkeypatch.chdir(tmp_path)
    short = [
        item
        for change in ("steps=2", "batch_size=2", "schedule.warmup_steps=1")
        for item in ("--set", f"stages.0.{change}")
    ]
    write_images(SyntheticSource(SyntheticConfig()), Path("mine"), range(6))
    for command in (
        ["data", "check", config, "--count", "20"],
        ["data", "show", config, "--out", "look.png", "--count", "2"],
        ["train", config, "--out", "runs/mine", *short],
        ["detect", "mine/images/000000.png", "circle", "--boxes", "mine/coco.json",
         "--model", "runs/mine/regions", "--out", "found.jpg", "--max-new-tokens", "4"],
    ):  # fmt: skip
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    sizes = {}
    for name in ("look.png", "found.jpg", "mine/images/000000.png"):
        with Image.open(name) as image:
            sizes[name] = image.size
    assert sizes["look.png"][0] > 500
    assert sizes["found.jpg"] == sizes["mine/images/000000.png"]


def test_checking_a_configuration_lists_what_its_mixture_cannot_use(folder):
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(folder=folder))
    good = CliRunner().invoke(app, ["data", "check", str(config), "--count", "8"])
    assert (good.exit_code, "every record can be used" in good.output) == (0, True)
    for image in folder.glob("*.png"):
        image.unlink()
    bad = CliRunner().invoke(app, ["data", "check", str(config), "--count", "8"])
    assert bad.exit_code == 1
    assert "does not exist" in bad.output
    unknown = CliRunner().invoke(app, ["data", "check", str(config), "--stage", "stage9"])
    assert "has no stage 'stage9': it has stage1" in unknown.output
