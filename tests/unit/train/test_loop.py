"""Training can be killed at any moment and loses nothing; what is counted is right."""

import dataclasses
import errno
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tests.helpers.training import (
    NEW,
    TokenExample,
    TokenSource,
    collate,
    components,
    length,
    run_config,
    tiny_model,
)

from vlm_fo1.data.check import BadRecord
from vlm_fo1.errors import CheckpointError, ConfigError, DataError, OutputError, TrainingError
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.train import checkpoint
from vlm_fo1.train.batches import BatchLoader, BatchSettings
from vlm_fo1.train.config import (
    EvaluationConfig,
    LoraConfig,
    ScheduleConfig,
    StageConfig,
    TrainRule,
)
from vlm_fo1.train.loop import train
from vlm_fo1.train.loss import answer_loss
from vlm_fo1.train.metrics import MetricsLogger, read_log

pytestmark = pytest.mark.usefixtures("one_thread")


class KilledError(Exception):
    pass


def kill_at(step: int):
    def watch(report):
        if report.step == step:
            raise KilledError

    return watch


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_log(folder)]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(FO1ForConditionalGeneration.from_pretrained(folder).named_parameters())


def test_a_killed_run_goes_on_with_exactly_the_losses_it_would_have_had(tmp_path):
    whole = run_config(tmp_path / "whole", save_every=2, accumulation=2)
    train(whole, components())
    cut = run_config(tmp_path / "cut", save_every=2, accumulation=2)
    with pytest.raises(KilledError):
        train(cut, components(), watch=kill_at(5))
    torch.manual_seed(999)  # whatever happened in between
    outcome = train(cut, components())
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "cut")) == 6
    assert outcome.folder is not None
    expected = weights_of(tmp_path / "whole" / "stage1")
    for name, value in weights_of(outcome.folder).items():
        assert torch.equal(value, expected[name]), name


def test_a_run_with_reading_processes_resumes_exactly(tmp_path):
    options = {"save_every": 3, "steps": 5, "data": {"workers": 2, "pool_batches": 2}}
    train(run_config(tmp_path / "whole", **options), components())
    cut = run_config(tmp_path / "cut", **options)
    with pytest.raises(KilledError):
        train(cut, components(), watch=kill_at(4))
    train(cut, components())
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_signal_saves_and_ends_cleanly_and_the_run_goes_on(tmp_path):
    train(run_config(tmp_path / "whole"), components())
    config = run_config(tmp_path / "cut")

    def terminate(report):
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    outcome = train(config, components(), watch=terminate)
    assert outcome.stopped_by == signal.SIGTERM
    assert outcome.folder is None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    found = checkpoint.list_checkpoints(tmp_path / "cut" / "checkpoints" / "stage1")
    assert [path.name for path in found] == ["step-00000003"]
    assert train(config, components()).stopped_by is None
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_only_the_last_checkpoints_stay_and_a_half_written_one_does_not_count(tmp_path):
    config = run_config(tmp_path, save_every=1, output={"keep_checkpoints": 2})
    with pytest.raises(KilledError):
        train(config, components(), watch=kill_at(5))
    folder = tmp_path / "checkpoints" / "stage1"
    names = [path.name for path in checkpoint.list_checkpoints(folder)]
    assert names == ["step-00000003", "step-00000004"]
    (folder / ".part-step-00000005").mkdir()
    train(config, components())
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3, 4, 5, 6]


def own_loss(model, batch):
    loss = answer_loss(model, batch)
    return 2 * loss, {"half": loss, "rows": float(len(batch["labels"]))}


def two_optimizers(model, stage, plan):
    one, other = plan.parameter_groups(model)
    return [torch.optim.SGD([one], momentum=0.9), torch.optim.AdamW([other])]


def test_a_recipe_brings_its_own_loss_figures_and_optimizers_and_resumes_exactly(tmp_path):
    made = components(loss=own_loss, optimizers=two_optimizers)
    options = {
        "save_every": 3, "output": {"log_every": 2},
    }  # fmt: skip
    train(run_config(tmp_path / "whole", **options), made)
    with pytest.raises(KilledError):
        train(run_config(tmp_path / "cut", **options), made, watch=kill_at(4))
    train(run_config(tmp_path / "cut", **options), made)
    lines = read_log(tmp_path / "whole")
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line, again in zip(lines, read_log(tmp_path / "cut"), strict=True):
        assert {k: v for k, v in line.items() if not k.endswith("per_s")} == {
            k: v for k, v in again.items() if not k.endswith("per_s")
        }
        assert line["half"] == pytest.approx(line["loss"] / 2)
        assert line["rows"] == pytest.approx(line["examples"] / line["targets"])
    expected = weights_of(tmp_path / "whole" / "stage1")
    for name, value in weights_of(tmp_path / "cut" / "stage1").items():
        assert torch.equal(value, expected[name]), name


def test_figures_beside_the_loss_are_measured_on_held_out_examples_too(tmp_path):
    config = run_config(tmp_path, steps=1)
    config = dataclasses.replace(config, evaluation=EvaluationConfig(mixture={}, batches=2))
    train(config, components(loss=own_loss))
    (line,) = read_log(tmp_path, "eval")
    assert line["half"] == pytest.approx(line["loss"] / 2)


@pytest.mark.parametrize("given", [(0,), (0, 1, 0)], ids=["misses", "doubles"])
def test_optimizers_that_miss_or_double_a_parameter_are_refused(tmp_path, given):
    def wrong(model, stage, plan):
        groups = plan.parameter_groups(model)
        return [torch.optim.SGD([groups[number]]) for number in given]

    with pytest.raises(ConfigError, match="are not in exactly one optimiser"):
        train(run_config(tmp_path), components(optimizers=wrong))


def test_resuming_with_another_configuration_is_refused_with_the_keys_named(tmp_path):
    with pytest.raises(KilledError):
        train(run_config(tmp_path, save_every=1), components(), watch=kill_at(3))
    other = run_config(tmp_path, save_every=2, batch_size=4)
    with pytest.raises(CheckpointError, match=r"stages\.0\.batch_size: 2 -> 4") as caught:
        train(other, components())
    assert "save_every" not in str(caught.value)
    train(other, components(), allow_changes=True)
    with pytest.raises(CheckpointError, match="holds a run"):
        train(other, components(), resume=False)


def test_resuming_with_changed_data_is_refused(tmp_path):
    made = components(fingerprint=lambda mixture: {"scenes.jsonl": "aa"})
    config = run_config(tmp_path, save_every=1)
    with pytest.raises(KilledError):
        train(config, made, watch=kill_at(3))
    other = dataclasses.replace(made, fingerprint=lambda mixture: {"scenes.jsonl": "bb"})
    with pytest.raises(CheckpointError, match=r"scenes\.jsonl: 'aa' -> 'bb'"):
        train(config, other)


def test_accumulating_small_batches_equals_one_large_batch(tmp_path):
    # One pool of all four examples: cut into 4, 2 + 2, with unequal numbers of answer tokens.
    small = run_config(tmp_path / "small", batch_size=2, accumulation=2, data={"pool_batches": 2})
    large = run_config(tmp_path / "large", batch_size=4, data={"pool_batches": 1})
    train(small, components())
    train(large, components())
    for (_, one), (_, other) in zip(
        losses(tmp_path / "small"), losses(tmp_path / "large"), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-4)
    ours, theirs = (weights_of(tmp_path / name / "stage1") for name in ("small", "large"))
    # Adam divides by the gradient's size, so where that is nothing the sign of rounding decides.
    apart = [(ours[name] - theirs[name]).abs().mean().item() for name in ours]
    assert max(apart) < 1e-4


def test_training_lowers_the_loss_and_writes_what_it_was_made_with(tmp_path):
    config = run_config(
        tmp_path, steps=16, batch_size=4, schedule=ScheduleConfig(warmup_steps=2),
        train=(TrainRule(pattern="*", lr=2e-2),), precision="bf16", gradient_checkpointing=True,
    )  # fmt: skip
    made = components(fingerprint=lambda mixture: {"made.jsonl": "sha256:00"})
    outcome = train(config, made)
    curve = [loss for _, loss in losses(tmp_path)]
    assert sum(curve[-4:]) < 0.85 * sum(curve[:4])
    assert outcome.folder is not None
    facts = json.loads((outcome.folder / "provenance.json").read_text())
    assert facts["data"] == {"made.jsonl": "sha256:00"}
    assert facts["steps"] == 16
    assert facts["versions"]["torch"] == importlib.metadata.version("torch")  # without its +cu130


def test_bf16_frozen_weights_train_and_resume_exactly(tmp_path):
    options = {
        "precision": "bf16", "frozen_precision": "bf16", "steps": 4, "save_every": 2,
        "train": (TrainRule(pattern="region_connector", lr=1e-2),),
    }  # fmt: skip
    train(run_config(tmp_path / "whole", **options), components())
    with pytest.raises(KilledError):
        train(run_config(tmp_path / "cut", **options), components(), watch=kill_at(3))
    train(run_config(tmp_path / "cut", **options), components())
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_stage_1_leaves_the_host_and_old_tokens_bit_for_bit(tmp_path):
    config = run_config(
        tmp_path,
        train=(
            TrainRule(pattern="region_encoder", lr=1e-2),
            TrainRule(pattern="region_connector", lr=1e-2),
            TrainRule(pattern="host.*embed_tokens.weight", lr=1e-2, rows="new_tokens"),
            TrainRule(pattern="host.lm_head.weight", lr=1e-2, rows="new_tokens"),
        ),
        weight_decay=0.1,
    )
    source = TokenSource()
    source.example = lambda number: TokenExample([7, 61], [62, 61], [[4, 4, 24, 30]], id="x")
    made = dataclasses.replace(components(), make_source=lambda mixture, shard, shards: source)
    outcome = train(config, made)
    assert outcome.folder is not None
    before, after = dict(tiny_model().named_parameters()), weights_of(outcome.folder)
    old = [row for row in range(64) if row not in NEW]
    for name, value in after.items():
        same = torch.equal(value, before[name])
        if "embed_tokens" in name or "lm_head" in name:
            assert torch.equal(value[old], before[name][old]), name
            assert not same, name
        elif name.startswith(("host", "auxiliary")):
            assert same, name
    assert not torch.equal(after["region_connector.0.weight"], before["region_connector.0.weight"])


def test_stages_follow_each_other_and_a_finished_one_is_not_run_again(tmp_path):
    one = run_config(tmp_path, steps=2)
    second = StageConfig(
        name="stage2", steps=3, batch_size=2, precision="fp32", save_every=1,
        train=(TrainRule(pattern="region_connector", lr=1e-3),),
        lora=LoraConfig(targets=("host.model.language_model.*_proj",), rank=2, lr=1e-2),
    )  # fmt: skip
    config = dataclasses.replace(one, stages=(*one.stages, second))
    with pytest.raises(KilledError):
        train(config, components(), watch=lambda r: kill_at(2)(r) if r.stage == "stage2" else None)
    first = (tmp_path / "stage1" / "model.safetensors").stat().st_mtime_ns
    outcome = train(config, components())
    assert (tmp_path / "stage1" / "model.safetensors").stat().st_mtime_ns == first
    assert outcome.folder == tmp_path / "stage2"
    before, after = weights_of(tmp_path / "stage1"), weights_of(tmp_path / "stage2")
    assert before.keys() == after.keys()  # adapters are merged
    name = "host.model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[name], after[name])
    norm = "host.model.language_model.norm.weight"
    assert torch.equal(before[norm], after[norm])


def test_a_bad_record_is_listed_and_left_out(tmp_path):
    outcome = train(run_config(tmp_path), components(bad_every=3))
    text = (tmp_path / "bad_records.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert outcome.bad_records == len(lines) >= 2
    assert {line["id"] for line in lines} <= {"2", "5", "8", "11", "14"}
    assert lines[0]["source"] == "made.jsonl"
    assert lines[0]["reason"] == "photo.jpg is broken"


@pytest.mark.parametrize("workers", [0, 1])
def test_whatever_a_record_raises_is_a_line_and_the_run_goes_on(tmp_path, workers):
    def raising(examples):
        if any(example.id == "2" for example in examples):
            raise RuntimeError("calculated padded input size per channel: (1 x 9)")
        return collate(examples)

    config = run_config(tmp_path, data={"workers": workers})
    outcome = train(config, dataclasses.replace(components(), collate=raising))
    assert outcome.folder is not None
    assert outcome.bad_records == 1, "once, however often it came"
    (line,) = (tmp_path / "bad_records.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "2"
    assert "RuntimeError: calculated padded input size" in json.loads(line)["reason"]


def test_bad_records_of_an_evaluation_are_listed_too(tmp_path):
    config = run_config(tmp_path)
    mixtures = [{"of": "training"}, {"of": "evaluation"}]
    config = dataclasses.replace(
        config,
        stages=(dataclasses.replace(config.stages[0], mixture=mixtures[0]),),
        evaluation=EvaluationConfig(mixture=mixtures[1], batches=4),
    )
    made = dataclasses.replace(
        components(),
        make_source=lambda mixture, shard, shards: TokenSource(
            shard, shards, bad_every=3 if mixture["of"] == "evaluation" else 0
        ),
    )
    assert train(config, made).bad_records > 0
    assert "photo.jpg is broken" in (tmp_path / "bad_records.jsonl").read_text()


def test_what_a_kill_or_power_cut_left_of_the_logs_is_mended(tmp_path):
    config = run_config(tmp_path, save_every=1)
    with pytest.raises(KilledError):
        train(config, components(bad_every=3), watch=kill_at(3))
    for name, tail in (("log.jsonl", b'{"stage": "st'), ("bad_records.jsonl", b"\0" * 64)):
        with (tmp_path / name).open("ab") as file:
            file.write(tail)
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b"\n7\n\xff\n")
    train(config, components(bad_every=3))
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3, 4, 5, 6]
    for name in ("log.jsonl", "bad_records.jsonl"):
        text = (tmp_path / name).read_text()
        assert text.endswith("\n")
        assert all(isinstance(json.loads(line), dict) for line in text.splitlines())


def test_each_bad_record_is_listed_once_though_others_add_to_the_file(tmp_path):
    loggers = [MetricsLogger(tmp_path, main=main, tensorboard=False) for main in (True, False)]
    for number in range(3):
        for logs in loggers:
            logs.bad([BadRecord("a", str(number), "broken"), BadRecord("a", "0", "broken")])
    lines = (tmp_path / "bad_records.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["0", "1", "2"]


def test_two_runs_in_one_folder_are_refused_and_the_first_is_not_disturbed(tmp_path):
    def second(report):
        if report.step == 2:
            with pytest.raises(ConfigError, match="is being written by another run"):
                train(config, components())

    config = run_config(tmp_path)
    assert train(config, components(), watch=second).folder is not None
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_finished_stage_goes_on_to_more_steps_from_its_newest_checkpoint(tmp_path):
    level = {"schedule": ScheduleConfig(name="constant"), "save_every": 3}
    train(run_config(tmp_path / "whole", steps=5, **level), components())
    train(run_config(tmp_path / "run", steps=3, **level), components())
    longer = run_config(tmp_path / "run", steps=5, **level)
    with pytest.raises(CheckpointError, match=r"stages\.0\.steps: 3 -> 5"):
        train(longer, components())
    outcome = train(longer, components(), allow_changes=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert outcome.folder is not None
    expected = weights_of(tmp_path / "whole" / "stage1")
    for name, value in weights_of(outcome.folder).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ({}, {"steps": 8}, "has no checkpoint to go on from to step 8"),
        ({"save_every": 3}, {"steps": 5}, "so these cannot change any more: steps: 6 -> 5"),
        ({"save_every": 3}, {"batch_size": 4}, r"cannot change any more: batch_size: 2 -> 4"),
    ],
)
def test_a_finished_stage_that_cannot_go_on_says_what_to_do(tmp_path, first, then, said):
    train(run_config(tmp_path, **first), components())
    with pytest.raises(CheckpointError, match=rf"finished at step 6, .*{said}.*--fresh"):
        train(run_config(tmp_path, **{**first, **then}), components(), allow_changes=True)


def test_a_finished_run_says_that_nothing_is_trained(tmp_path, caplog):
    train(run_config(tmp_path), components())
    assert train(run_config(tmp_path), components()).folder == tmp_path / "stage1"
    assert "is finished: nothing is trained; for more steps" in caplog.text


@pytest.mark.parametrize("what", ["checkpoint", "weights", "log"])
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, monkeypatch, what):
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*arguments, **options):
        raise SafetensorError(f"I/O error: {full}") if what == "checkpoint" else full

    if what == "checkpoint":
        monkeypatch.setattr(checkpoint, "save_file", refuse)
    elif what == "weights":
        monkeypatch.setattr(FO1ForConditionalGeneration, "save_pretrained", refuse)
    else:
        (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"cannot be written: ") as caught:
        train(run_config(tmp_path, save_every=2), components())
    assert str(tmp_path) in str(caught.value)
    assert ("No space left" in str(caught.value)) == (what != "log")
    assert "\n" not in str(caught.value)


def test_a_bad_record_stops_the_run_when_asked_to(tmp_path):
    config = run_config(tmp_path, data={"on_bad_record": "stop"})
    with pytest.raises(TrainingError, match=r"made\.jsonl, record \d+: photo\.jpg is broken"):
        train(config, components(bad_every=3))


def test_evaluation_in_the_loop_changes_nothing(tmp_path):
    def evaluate(model, stage, step):
        assert not model.training
        torch.rand(3)
        return {"step_seen": float(step)}

    train(run_config(tmp_path / "without"), components())
    train(run_config(tmp_path / "with", eval_every=2), components(evaluate=evaluate))
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    seen = [line["step_seen"] for line in read_log(tmp_path / "with", "eval")]
    assert seen == [2.0, 4.0, 6.0]


def test_a_loss_that_is_not_a_number_is_an_error(tmp_path):
    def broken(folder):
        model = tiny_model()
        with torch.no_grad():
            model.get_parameter("region_connector.0.weight").fill_(float("nan"))
        return model

    with pytest.raises(TrainingError, match="gradient is nan at step"):
        train(run_config(tmp_path), dataclasses.replace(components(), load_model=broken))


SCRIPT = """
import sys, time
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from tests.helpers.training import components, run_config
from vlm_fo1.train.config import EvaluationConfig, LoraConfig, TrainRule
from vlm_fo1.train.loop import train

folder, strategy, batch_size, wait_s, end_at = sys.argv[1:]
config = run_config(
    Path(folder), batch_size=int(batch_size), steps=8, save_every=3, accumulation=2,
    data={{"pool_batches": 1}}, distributed={{"strategy": strategy}},
    train=(
        TrainRule(pattern="region_connector", lr=1e-2),
        TrainRule(pattern="auxiliary", lr=1e-3),
        TrainRule(pattern="host.lm_head.weight", lr=1e-2, rows="new_tokens"),
    ),
    lora=LoraConfig(targets=("host.model.language_model.*_proj",), rank=2, lr=1e-2),
)
def watch(report):
    time.sleep(float(wait_s))
    if report.step == int(end_at):
        raise SystemExit(9)
train(config, components(), watch=watch)
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "run.py"
    path.write_text(SCRIPT.format(here=str(Path(__file__).parents[3])))
    return path


def command(script: Path, folder: Path, strategy="ddp", batch=4, wait_s=0.0, end_at=0, processes=1):
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*launcher, *map(str, (script, folder, strategy, batch, wait_s, end_at))]


def launch(*arguments, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, **options),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_process_killed_outright_goes_on_exactly(tmp_path, script):
    assert launch(script, tmp_path / "whole").returncode == 0
    with subprocess.Popen(
        command(script, tmp_path / "cut", wait_s=0.3),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not (tmp_path / "cut" / "checkpoints" / "stage1" / "step-00000003").is_dir():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        process.kill()
    assert not (tmp_path / "cut" / "stage1").exists()
    assert launch(script, tmp_path / "cut").returncode == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    expected = weights_of(tmp_path / "whole" / "stage1")
    for name, value in weights_of(tmp_path / "cut" / "stage1").items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_follow_the_curve_of_one(tmp_path, script, strategy):
    one = launch(script, tmp_path / "one")
    assert one.returncode == 0, one.stderr
    two = launch(script, tmp_path / "two", strategy, 2, processes=2)
    assert two.returncode == 0, two.stderr
    curve_one, curve_two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(curve_two) == 8
    for (_, expected), (_, found) in zip(curve_one, curve_two, strict=True):
        assert found == pytest.approx(expected, rel=2e-3)
    ours, theirs = weights_of(tmp_path / "two" / "stage1"), weights_of(tmp_path / "one" / "stage1")
    assert max((ours[name] - theirs[name]).abs().mean().item() for name in ours) < 1e-3
    killed = launch(script, tmp_path / "cut", strategy, 2, end_at=5, processes=2)
    assert killed.returncode != 0
    again = launch(script, tmp_path / "cut", strategy, 2, processes=2)
    assert again.returncode == 0, again.stderr
    assert losses(tmp_path / "cut") == curve_two


def test_a_run_that_sees_nothing_but_bad_records_ends_and_says_why():
    def refuse(examples):
        raise DataError("image gone.png does not exist")

    batches = BatchLoader(TokenSource, refuse, length, BatchSettings(batch_size=2, pool_batches=2))
    with pytest.raises(TrainingError, match=r"records cannot be used.*gone\.png does not exist"):
        next(batches)
