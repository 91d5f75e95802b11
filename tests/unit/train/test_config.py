"""A configuration says everything, is refused when it does not fit, and survives a round trip."""

import textwrap
from pathlib import Path

import pytest

from vlm_fo1.config import differences, dump, read
from vlm_fo1.data.recipe import SOURCES
from vlm_fo1.errors import ConfigError
from vlm_fo1.train.config import TrainConfig, may_change

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "train").glob("*.yaml"))
CONFIGS = [path for path in CONFIGS if not path.stem.startswith("tiny")]  # other programs

SMALL = """
    model: {path: tiny}
    output: {folder: runs/x}
    stages:
      - name: one
        steps: 10
        train: [{pattern: region_encoder, lr: 1e-3}]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_what_is_left_out_takes_its_default(tmp_path):
    config = read(written(tmp_path, SMALL), TrainConfig)
    assert config.stages[0].train[0].lr == 1e-3
    assert config.stages[0].precision == "bf16"
    assert config.output.folder == Path("runs/x")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_is_read_and_written_back_the_same(tmp_path, path):
    config = read(path, TrainConfig)
    (tmp_path / "again.yaml").write_text(dump(config))
    assert read(tmp_path / "again.yaml", TrainConfig) == config
    for stage in config.stages:
        assert {source["type"] for source in stage.mixture["sources"]} <= set(SOURCES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 10", "stepz: 10", r"unknown key 'stages\.0\.stepz': did you mean 'steps'\?"),
        ("model:", "modell:", r"unknown key 'modell': did you mean 'model'\?"),
        ("steps: 10", "steps: ten", r"stages\.0\.steps = 'ten' is a str: int is needed"),
        ("steps: 10", "steps: true", r"stages\.0\.steps = True is a bool: int is needed"),
        ("lr: 1e-3", "lr: fast", r"stages\.0\.train\.0\.lr = 'fast' is a str: float is needed"),
        ("lr: 1e-3", "lr: -1", r"stages\.0\.train\.0: lr = -1 .* must be above 0"),
        ("steps: 10", "steps: 0", r"steps = 0 of stage 'one': it must be at least 1"),
        ("name: one", "name: Stage 1", "use lower case letters"),
        ("steps: 10", "schedule: {name: step}", r"name = 'step': it must be one of 'cosine'"),
        ("steps: 10", "steps: 2\n        schedule: {warmup_steps: 3}", "warm-up and decay take 3"),
        ("steps: 10", "precision: bf16", r"'stages\.0\.steps' is needed and has no default"),
        ("steps: 10", "betas: [0.9]\n        steps: 1", r"betas = \[0\.9\] has 1 items, 2 are"),
        ("steps: 10", "steps: 10\n        steps: 11", r"key 'steps' stands twice"),
        ("model: {path: tiny}", "model: tiny", r"model = 'tiny' is a str: a mapping of keys"),
        ("train: [{pattern: region_encoder, lr: 1e-3}]", "train: []", "trains nothing"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(tmp_path, old, new, message):
    assert old in SMALL
    with pytest.raises(ConfigError, match=message):
        read(written(tmp_path, SMALL.replace(old, new)), TrainConfig)


def test_single_keys_are_set_from_the_command_line(tmp_path):
    changes = ["stages.0.steps=3", "data.workers=2", "stages.0.lora={targets: [host.*_proj]}"]
    config = read(written(tmp_path, SMALL), TrainConfig, changes)
    assert (config.stages[0].steps, config.data.workers) == (3, 2)
    assert config.stages[0].lora is not None
    assert config.stages[0].lora.targets == ("host.*_proj",)


def test_a_key_that_is_set_below_an_anchor_stays_as_it_is_where_else_the_anchor_stands():
    config = read("configs/train/finetune.yaml", TrainConfig, [
        "stages.1.mixture.sources.1.weight=3", "stages.1.mixture.seed=4",
    ])  # fmt: skip
    names, regions = (stage.mixture for stage in config.stages)
    assert regions["sources"][1]["weight"] == 3
    assert regions["seed"] == 4
    assert names["sources"][1]["weight"] == 1
    assert "seed" not in names
    assert names["sources"][0] == regions["sources"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps", "write it as dotted.key=value"),
        ("stages.4.steps=3", r"stages\.4 has 1 items from 0"),
        ("stages.0.name.x=3", r"stages\.0\.name\.x is below a plain value"),
        ("stages.0.stepz=3", "did you mean 'steps'"),
    ],
)
def test_a_change_that_goes_nowhere_is_refused(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        read(written(tmp_path, SMALL), TrainConfig, [change])


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="a mapping of keys to values is needed"):
        read(written(tmp_path, "- 1"), TrainConfig)
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        read(tmp_path / "none.yaml", TrainConfig)


def test_differences_are_named_by_their_path():
    before = {"a": {"b": [1, 2]}, "c": 1}
    assert differences(before, {"a": {"b": [1, 3]}, "d": 1}) == [
        "a.b.1: 2 -> 3",
        "c: 1 -> 'absent'",
        "d: 'absent' -> 1",
    ]
    assert differences(before, before) == []


def test_only_keys_that_leave_the_loss_alone_may_change_on_resuming():
    assert may_change("stages.1.save_every")
    assert may_change("output.keep_checkpoints")
    assert not may_change("stages.0.batch_size")
    assert not may_change("data.workers")


def test_merge_keys_are_merged_and_what_is_written_beside_them_counts(tmp_path):
    text = """
        model: {path: tiny}
        output: {folder: runs/x}
        stages:
          - &first
            name: one
            steps: 10
            train: [{pattern: region_encoder, lr: 1e-3}]
          - &second {<<: *first, name: two, steps: 20}
          - {<<: *second, name: three}
    """
    stages = read(written(tmp_path, text), TrainConfig).stages
    assert [(stage.name, stage.steps) for stage in stages] == [
        *(("one", 10), ("two", 20), ("three", 20))
    ]
    assert stages[2].train == stages[0].train


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 10", "steps: {{ x }}", r"train\.yaml, line \d+: a key is a mapping.*template"),
        ("steps: 10", "steps: {{ x }", "cannot be read as YAML"),
        ("steps: 10", "steps: 2024-13-45", "cannot be read as YAML: month must be in"),
        ("steps: 10", "? [a, b]\n        : 10", r"a key is a sequence"),
    ],
)
def test_what_is_no_plain_yaml_is_one_line(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(written(tmp_path, SMALL.replace(old, new)), TrainConfig)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["[1", "{{ x }}", "{a: 1, a: 2}", "2024-13-45"])
def test_a_change_whose_value_is_no_yaml_is_refused(tmp_path, value):
    with pytest.raises(ConfigError, match=r"override 'stages\.0\.steps=") as caught:
        read(written(tmp_path, SMALL), TrainConfig, [f"stages.0.steps={value}"])
    assert "\n" not in str(caught.value)


def test_a_configuration_may_begin_with_the_mark_of_utf_8(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(textwrap.dedent(SMALL), encoding="utf-8-sig")
    assert read(path, TrainConfig).stages[0].steps == 10
