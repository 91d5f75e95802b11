"""A row of `vlm_fo1.tasks.TASKS` is a command: its help, what it takes, what it asks."""

import json
from importlib.resources import files
from types import MappingProxyType

import pytest
from tests.helpers.scripted_model import say
from typer.testing import CliRunner

from vlm_fo1 import tasks
from vlm_fo1.cli.main import app, overview
from vlm_fo1.tasks import TaskSpec

DEMO = files("vlm_fo1") / "assets" / "demo"
BOXES = ("--boxes", DEMO / "boxes.json")


@pytest.fixture
def run(fo1, monkeypatch, tmp_path):
    """Types a command on the bundled image."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("vlm_fo1.fo1.FO1.from_pretrained", lambda *_, **__: fo1)

    def typed(command, *words):
        line = [command, DEMO / "photo.jpg", *words]
        return CliRunner().invoke(app, [str(word) for word in line])

    return typed


@pytest.fixture
def add(monkeypatch):
    """Adds a row to the table."""

    def row(name, **values):
        given = {"title": "Sort", "help": "Sort what is there.", "command": "sort", **values}
        table = MappingProxyType({**tasks.TASKS, name: TaskSpec(**given)})
        monkeypatch.setattr(tasks, "TASKS", table)

    return row


def help_of(*words):
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("takes", "template", "words", "question"),
    [
        ("labels", "Sort {} by size.", ["apple", "pear"], "Sort apple, pear by size."),
        ("label", "Sort each {}.", ["ripe apple"], "Sort each ripe apple."),
        ("text", "Sort: {}", ["by {}?", "--about", "2"], "Sort: by <region2>?"),
        ("regions", "Sort like {}.", ["1"], "Sort like <region1>."),
        ("nothing", "Sort all.", [], "Sort all."),
    ],
)
def test_a_task_added_to_the_table_is_a_command(
    run, add, fo1, monkeypatch, takes, template, words, question
):
    add("sorting", takes=takes, template=template, example="photo.jpg --json")
    assert overview()["sort"] == "Sort what is there."
    assert "Sort what is there." in help_of()
    text = help_of("sort")
    assert "fo1 sort photo.jpg --json" in text
    assert ("--about" in text) == (takes == "text")
    script = say(monkeypatch, fo1, "a<ground>pear</ground><objects><region1></objects>")
    done = run("sort", *words, *BOXES, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["task"] == "sorting"
    assert [mention["label"] for mention in answer["mentions"]] == ["pear"]
    assert question in fo1.processor.tokenizer.decode(script.prompts[0])


def test_tasks_of_one_name_differ_by_detail(run, add, fo1, monkeypatch):
    add("sorting", takes="nothing", template="Sort all.", detail="coarse")
    add("sorting_well", takes="nothing", template="Sort all well.", detail="fine")
    assert "coarse|fine" in help_of("sort")
    script = say(monkeypatch, fo1, "a")
    assert run("sort", *BOXES).exit_code == 0
    assert run("sort", *BOXES, "--detail", "fine").exit_code == 0
    coarse, fine = map(fo1.processor.tokenizer.decode, script.prompts)
    assert "Sort all." in coarse
    assert "Sort all well." in fine


def test_words_are_streamed_where_the_row_says_so(run, add, fo1, monkeypatch):
    add("sorting", takes="nothing", template="Sort all.", streams=True, needs_regions=False)
    say(monkeypatch, fo1, "by size")
    assert "--stream" in help_of("sort")
    assert run("sort", "--box", "1,2,30,40", "--stream").stdout == "by size\n"


@pytest.mark.parametrize("command", ["ask", "reason", "refer", "detect"])
def test_nothing_to_ask_is_one_line_before_anything_is_loaded(run, monkeypatch, command):
    monkeypatch.setattr("vlm_fo1.fo1.FO1.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    done = run(command, "", *BOXES)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert "empty" in done.stderr or "at least one label" in done.stderr


def test_scores_stand_in_json_and_choose_the_boxes_of_an_answer(run, fo1, monkeypatch):
    asked = []
    answer_many = type(fo1).answer_many

    def recorded(self, *args, **options):
        asked.append({name: options[name] for name in ("scores", "constrain")})
        return answer_many(self, *args, **options)

    monkeypatch.setattr(type(fo1), "answer_many", recorded)
    plain = json.loads(run("detect", "orange", "dog", *BOXES, "--json").stdout)
    assert list(plain["scores"]) == ["orange", "dog"]
    assert plain["presence"]["dog"] < 0.5 < plain["presence"]["orange"]
    best = max(plain["scores"]["orange"])
    chosen = ("--scores", "branches", "--answer-score", best - 1e-3, "--answer-presence", 0.5)
    some = json.loads(run("detect", "orange", "dog", *BOXES, *chosen, "--json").stdout)
    orange, dog = some["mentions"]
    assert all(some["scores"]["orange"][r["index"]] >= best - 1e-3 for r in orange["regions"])
    assert len(orange["regions"]) < len(plain["mentions"][0]["regions"])
    assert dog["regions"] == []
    none = json.loads(
        run("count", "orange", *BOXES, "--scores", "none", "--no-constrain", "--json").stdout
    )
    assert not {"scores", "presence"} & none.keys()
    assert asked == [
        {"scores": "joint", "constrain": True},
        {"scores": "branches", "constrain": True},
        {"scores": None, "constrain": False},
    ]


def test_bounds_on_scores_that_are_left_out_are_refused(run):
    done = run("detect", "orange", *BOXES, "--scores", "none", "--answer-score", "0.5")
    assert done.exit_code == 2
    assert "--answer-score and --answer-presence choose by scores" in done.output
    assert "--answer-score" not in help_of("ground")
