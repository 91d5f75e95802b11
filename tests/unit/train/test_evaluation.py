"""A run is judged by its answers: the best weights stay, it ends early, and it resumes exactly."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from tests.helpers.training import components, run_config

from vlm_fo1.data import Example, Turn
from vlm_fo1.data.answers import count_answer, label_answer
from vlm_fo1.data.example import write_examples
from vlm_fo1.errors import ConfigError, TrainingError
from vlm_fo1.tasks import Task, ask_labels, ask_regions, questions_of
from vlm_fo1.train.answers import ask, draw_answers, draw_records, request_of
from vlm_fo1.train.assemble import assemble
from vlm_fo1.train.config import EvaluationConfig
from vlm_fo1.train.figures import figures_of
from vlm_fo1.train.loop import train
from vlm_fo1.train.metrics import read_log

pytestmark = pytest.mark.usefixtures("one_thread")

CURVE = [0.1, 0.4, 0.3, 0.5, 0.2, 0.3]  # after each of six steps


class KilledError(Exception):
    pass


def kill_at(step):
    def watch(report):
        if report.step == step:
            raise KilledError

    return watch


def scripted(model, stage, step):
    return {"detection.f1": CURVE[step - 1]}


def judged_config(folder, **evaluation):
    options = {"mixture": {}, "batches": 1, "best": "detection.f1", **evaluation}
    config = run_config(folder, eval_every=1, save_every=1)
    return dataclasses.replace(config, evaluation=EvaluationConfig(**options))


def weights_in(folder):
    return load_file(folder / "model.safetensors")


def test_the_best_weights_stay_beside_the_last(tmp_path):
    train(judged_config(tmp_path / "run"), components(evaluate=scripted))
    facts = json.loads((tmp_path / "run" / "best" / "provenance.json").read_text())
    assert (facts["stage"], facts["steps"]) == ("stage1", 4)
    assert facts["figures"]["detection.f1"] == 0.5
    assert json.loads((tmp_path / "run" / "stage1" / "provenance.json").read_text())["steps"] == 6
    best = weights_in(tmp_path / "run" / "best")
    last = weights_in(tmp_path / "run" / "stage1")
    assert any(not best[name].equal(last[name]) for name in best)


def test_a_run_without_patience_left_ends_early_with_everything_saved(tmp_path, caplog):
    config = judged_config(tmp_path, patience=2)
    config = dataclasses.replace(
        config, stages=(dataclasses.replace(config.stages[0], save_every=0),)
    )
    ends = [0.1, 0.4, 0.3, 0.2, 0.9, 0.9]
    made = components(evaluate=lambda model, stage, step: {"detection.f1": ends[step - 1]})
    outcome = train(config, made)
    assert outcome.folder == tmp_path / "stage1"
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4]
    said = (
        "stage1 ends at step 4: no better detection.f1 in 2 evaluations; the best detection.f1, 0.4"
    )
    assert said in caplog.text
    assert [path.name for path in (tmp_path / "checkpoints" / "stage1").iterdir()] == [
        "step-00000004"
    ]
    assert train(config, made).folder == tmp_path / "stage1"  # finished: not gone on with
    assert len(read_log(tmp_path)) == 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run with patience that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    train(judged_config(folder, patience=2), components(evaluate=scripted))
    assert len(read_log(folder, "eval")) == 6
    return folder


@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_what_was_best_and_patience_survive_a_kill(tmp_path, whole, killed_at):
    config = judged_config(tmp_path, patience=2)
    with pytest.raises(KilledError):
        train(config, components(evaluate=scripted), watch=kill_at(killed_at))
    train(config, components(evaluate=scripted))
    assert read_log(tmp_path, "eval") == read_log(whole, "eval")
    best = weights_in(whole / "best")
    for name, value in weights_in(tmp_path / "best").items():
        assert value.equal(best[name]), name


def test_a_figure_that_nobody_measures_ends_the_run_with_its_name(tmp_path):
    with pytest.raises(ConfigError, match=r"'referring.f1' was not measured: one of detection.f1"):
        train(judged_config(tmp_path, best="referring.f1"), components(evaluate=scripted))


@pytest.mark.parametrize("name", ["best", "answers"])
def test_a_stage_cannot_have_the_name_of_another_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="keeps other things there"):
        run_config(tmp_path, name=name)


@pytest.mark.parametrize(
    "turn",
    [
        Turn.asked(ask_labels(Task.DETECTION, ["dog", "cat"]), "None"),
        Turn.asked(
            ask_labels(Task.DETECTION, ["salt, pepper", "cat"]),
            label_answer({"salt, pepper": [0], "cat": []}),
        ),
        Turn.asked(ask_labels(Task.COUNTING, "dogs, big ones"), "There are 0 dogs, big ones."),
        Turn.asked(ask_regions(Task.BRIEF_CAPTION, [2], 3), "a dog"),
        Turn.asked(ask_regions(Task.VISUAL_PROMPT, [1], 3), "None"),
        Turn(question="What is in <region1>?", answer="a dog", task="brief_caption"),
        Turn(question="Find it.", answer=label_answer({"dog": [0]}), task="detection"),
    ],
)
def test_a_question_of_a_record_is_put_in_its_own_words(turn):
    request = request_of(turn, 3)
    assert request is not None
    (question,) = questions_of(request, 3)
    assert question.text == turn.question
    if "salt" in turn.question:
        assert request.labels == ("salt, pepper", "cat")


def test_questions_with_many_right_answers_are_not_judged():
    assert request_of(Turn(question="Why?", answer="Because."), 0) is None
    assert request_of(Turn(question="Find it.", answer="None", task="detection"), 1) is None


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Six images of a square and a disc, with a few questions each."""
    folder = tmp_path_factory.mktemp("records")
    examples = []
    for number in range(6):
        image = Image.new("RGB", (96, 96), "white")
        pen = ImageDraw.Draw(image)
        pen.rectangle((8, 8, 39, 39 + number), fill="red")
        pen.ellipse((50, 50, 90, 90 - number), fill="blue")
        image.save(folder / f"{number}.png")
        boxes = np.array([[8, 8, 40, 40 + number], [50, 50, 91, 91 - number]], np.float32)
        question = ask_labels(Task.DETECTION, ["square", "disc", "dog"])
        truth = label_answer({"square": [0], "disc": [1], "dog": []})
        count = count_answer("squares", [0], one="square")
        examples.append(
            Example(
                image=folder / f"{number}.png",
                regions_xyxy=boxes,
                turns=(
                    Turn.asked(question, truth),
                    Turn.asked(ask_labels(Task.COUNTING, "squares"), count),
                    Turn(question="Is it day?", answer="yes"),
                ),
                id=str(number),
            )
        )
    write_examples(folder / "records.jsonl", examples)
    return folder / "records.jsonl"


def answered_config(folder, records, **evaluation):
    mixture = {"sources": [{"type": "jsonl", "path": str(records)}]}
    config = run_config(
        folder, mixture=mixture, steps=2, eval_every=1, save_every=1,
        output={"tensorboard": False}, data={"max_tokens": 1024},
    )  # fmt: skip
    evaluation = {"mixture": mixture, "batches": 1, "answers": 2, "drawn": 2, **evaluation}
    return dataclasses.replace(config, evaluation=EvaluationConfig(**evaluation))


def test_a_killed_run_answers_as_it_would_have_and_training_is_not_disturbed(tmp_path, records):
    config = answered_config(tmp_path / "whole", records, shuffled=True)
    made = assemble(config)
    train(config, made)
    lines = read_log(tmp_path / "whole", "eval")
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert {"loss", "answers", "detection.f1", "detection.absent", "counting.exact"} <= set(
        lines[0]
    )
    assert "shuffled.detection.f1" in lines[0]
    assert not any(name.startswith("free") for name in lines[0])
    names = sorted(path.name for path in (tmp_path / "whole" / "answers").iterdir())
    assert names == [f"stage1-step-{step}.png" for step in range(3)]
    cut = dataclasses.replace(
        config, output=dataclasses.replace(config.output, folder=tmp_path / "cut")
    )
    with pytest.raises(KilledError):
        train(cut, made, watch=kill_at(2))
    train(cut, made)
    assert read_log(tmp_path / "cut", "eval") == lines
    bare = dataclasses.replace(
        config, evaluation=None, output=dataclasses.replace(config.output, folder=tmp_path / "bare")
    )
    train(bare, made)
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("whole", "bare")]
    assert losses[0] == losses[1]


def test_the_figures_are_those_of_the_answers_that_a_user_gets(fo1, records):
    made = assemble(answered_config(records.parent, records))
    drawn = draw_records(
        made.make_source({"sources": [{"type": "jsonl", "path": str(records)}]}, 0, 1), 6
    )
    assert [len(record.asked) for record in drawn] == [2] * 6  # the free question is not judged
    outcome = ask(drawn, fo1.model, fo1.processor, drawn=6)
    hits = pointed = 0
    for record in drawn:
        answer = fo1.detect(
            record.example.image, ["square", "disc", "dog"], record.example.regions_xyxy, tile=None
        )
        told = {
            (label, i) for m in answer.mentions for label, i in [(m.label, k) for k in m.indices]
        }
        hits += len(told & {("square", 0), ("disc", 1)})
        pointed += len(told)
    found = figures_of(outcome.counts)
    assert found["detection.f1"] == pytest.approx(2 * hits / (pointed + 12))
    assert draw_answers(outcome.drawn).width == 5 * 488
    parts = [ask(drawn[rank::2], fo1.model, fo1.processor).counts for rank in (0, 1)]
    both = {task: parts[0][task] + parts[1][task] for task in parts[0]}
    assert figures_of(both) == pytest.approx(found)


def test_a_record_that_cannot_be_read_costs_itself_alone_and_none_left_is_an_error(
    fo1, records, tmp_path
):
    mixture = {"sources": [{"type": "jsonl", "path": str(records)}]}
    drawn = draw_records(assemble(answered_config(tmp_path, records)).make_source(mixture, 0, 1), 3)
    gone = dataclasses.replace(drawn[1].example, image=tmp_path / "gone.png")
    broken = dataclasses.replace(drawn[1], example=gone)
    outcome = ask([drawn[0], broken, drawn[2]], fo1.model, fo1.processor)
    assert outcome.counts["detection"].questions == 2
    (bad,) = outcome.bad
    assert "gone.png" in bad.reason
    with pytest.raises(TrainingError, match=r"no held-out record can be asked about.*gone\.png"):
        ask([broken], fo1.model, fo1.processor)


SCRIPT = """
import dataclasses, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.helpers.training import run_config
from vlm_fo1.train.assemble import assemble
from vlm_fo1.train.config import EvaluationConfig
from vlm_fo1.train.loop import train

folder, records, strategy, batch_size = sys.argv[1:]
mixture = {"sources": [{"type": "jsonl", "path": records}]}
config = run_config(
    Path(folder), mixture=mixture, steps=2, eval_every=1, batch_size=int(batch_size),
    data={"max_tokens": 1024, "pool_batches": 1}, distributed={"strategy": strategy},
)
evaluation = EvaluationConfig(mixture=mixture, batches=1, answers=5, shuffled=True, patience=5)
config = dataclasses.replace(config, evaluation=evaluation)
train(config, assemble(config))
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_answer_as_one_does_and_train_on(tmp_path, records, strategy):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[3])

    def run(name, *arguments, launcher=()):
        what = map(str, (script, tmp_path / name, records, *arguments))
        done = subprocess.run(
            [sys.executable, *launcher, *what],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}/src:{root}"},
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return read_log(tmp_path / name, "eval"), read_log(tmp_path / name)

    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    answers, losses = run("one", "ddp", "4")
    answers_of_two, losses_of_two = run("two", strategy, "2", launcher=two)
    assert [line["step"] for line in answers_of_two] == [0, 1, 2]
    for name, value in answers[0].items():
        if name != "loss":  # that is of other batches
            assert answers_of_two[0][name] == pytest.approx(value), name
    for one, other in zip(losses, losses_of_two, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-3)
