"""`benchmarks.gpu` at tiny size on the CPU: its rows, its official way, what a failure costs."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts import child
from benchmarks.gpu_parts.lab import QUESTION, Lab
from benchmarks.gpu_parts.measures import SCORES
from benchmarks.gpu_parts.processes import Told, supervise
from benchmarks.gpu_parts.report import Row, Section, markdown, write
from benchmarks.gpu_parts.timing import Clock, OutOfTimeError
from benchmarks.gpu_parts.training import STAGES
from vlm_fo1 import FO1Processor

ASKING = [name for name in gpu.DEFAULT_S if name not in STAGES]
"""Sections that train nothing and compile nothing."""
EXPECTED = {
    "device": ["copy", "matrix product"],
    "load": ["weights", "load", "load, memory at peak", "load, host memory at peak"],
    "encode": [
        *("primary ViT, 84 x 56", "auxiliary DaViT, 84 x 56", "region encoder, 5 boxes, 84 x 56"),
        *("region encoder, memory at peak, 84 x 56", "encode, 84 x 56"),
        *("primary ViT, 56 x 56", "auxiliary DaViT, 56 x 56", "region encoder, 5 boxes, 56 x 56"),
        *("region encoder, memory at peak, 56 x 56", "encode, 56 x 56"),
        *("auxiliary DaViT, 2 images, each", "encode, 2 images, each"),
        *("encode, 2 images, memory at peak", "prepare on the host and encode"),
    ],
    "decode": [
        *("prefill and first token", "a decoded token", "a decoded token, not captured"),
        *("a step of 2 rows", "a step of 2 rows, not captured"),
        *("a call, 4 new tokens", "a further question on an open scene, 4 new tokens"),
        "a call, memory at peak above the weights",
    ],
    "labels": [
        "3 labels on an open image, first token of each",
        "3 labels on an open image, 2 tokens each",
        "3 labels, memory at peak",
        *(["3 labels listed and scored on an open image"] if SCORES else []),
    ],
    "batches": [
        *("a free question, batches of 2", "a free question, memory at peak above the weights"),
        *("detection of 5 labels, batches of 2", "detection of 5 labels, memory at peak above"),
    ],
    "upn": [f"UPN, 40 x 32, {kind}" for kind in ("float32", "float32", "bfloat16", "bfloat16")],
    **{stage: ["a step, each sample", "rate", "memory at peak"] for stage in STAGES},
}
"""How the rows of each section begin."""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return child.lab_of("tiny", "cpu", tmp_path)


def measured(lab: Lab, names: list[str]) -> dict[str, list[Row]]:
    """The rows of each section, run in this process."""
    found: dict[str, list[Row]] = {}
    for event in child.run(lab, dict.fromkeys(names, 300.0), time.time() + 300):
        kind = event.pop("kind")
        if kind == "begin":
            found[event["name"]] = []
        elif kind == "row":
            list(found.values())[-1].append(Row(**event))
        else:
            assert event["problem"] == ""
    return found


@pytest.mark.parametrize("names", [ASKING, STAGES[:1], STAGES[1:2], STAGES[2:]], ids=",".join)
def test_every_section_gives_all_its_rows_and_they_are_positive(lab, names, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)  # restored: training sets it
    found = measured(lab, list(names))
    assert list(found) == list(names)
    for name, rows in found.items():
        for row, beginning in zip(rows, EXPECTED[name], strict=True):
            assert row.name.startswith(beginning)
            assert row.value > 0
            assert row.official is None or row.official > 0


def test_the_official_way_sees_and_says_the_same_as_ours(lab):
    model, processor = lab.fo1.model, lab.fo1.processor
    inputs = lab.inputs()
    with torch.inference_mode():
        ours, theirs = model.encode_images(**inputs), lab.official.encode(inputs)
    for name in ("image_tokens", "region_tokens"):
        (one,), (other,) = getattr(ours, name), getattr(theirs, name)
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-5 * other.abs().max(), name
    answer = lab.fo1.ask(lab.image(), QUESTION, lab.boxes(), max_new_tokens=6)
    assert lab.official.answer(lab.image(), lab.boxes(), QUESTION, 6) == answer.text
    written = lab.engine.generate(lab.prompts(ours, [QUESTION], 6))[0]
    assert processor.decode(written.ids) == answer.text
    assert len(written.ids) == 6
    assert not written.ended


def test_the_sizes_are_those_of_the_released_model(tmp_path):
    """Tensors are compared name by name in `test_weights`; here, what goes around them."""
    lab = child.lab_of("3b", "cpu", tmp_path)
    processor = FO1Processor.from_pretrained(lab.folder)
    ids = processor.encode_prefix(100, 999)
    assert ids.count(processor.image_token_id) == 999
    assert ids.count(processor.region_token_id) == 100
    assert len(processor.tokenizer) < lab.size.config["vocab_size"] == 151_936
    assert 1215 <= len(ids) + len(processor.encode_question(QUESTION, 100)) <= 1260


def test_a_clock_repeats_a_call_and_begins_none_after_its_time():
    calls: list[int] = []
    clock = Clock(torch.device("cpu"), 60, repeats=3, warm_ups=2)
    assert clock.median_s(lambda: calls.append(1)) >= 0
    assert len(calls) == 5
    with pytest.raises(OutOfTimeError):
        Clock(torch.device("cpu"), 0).once(lambda: calls.append(1))
    assert len(calls) == 5


def test_ratios_and_bars_go_by_what_is_better():
    fast = Row(name="a", value=2, unit="ms", official=8, bar=3)
    slow = Row(name="a", value=4, unit="ms", official=8, bar=3)
    rate = Row(name="a", value=12, unit="images/s", official=3, bar=10, bar_ratio=5)
    assert (fast.ratio, fast.met, slow.ratio, slow.met) == (4, True, 2, False)
    assert (rate.ratio, rate.met) == (4, False)
    assert Row(name="a", value=1, unit="MB").met is None


SCRIPT = """
import json, os, sys, time
with open(sys.argv[1], "a", buffering=1) as file:
    def tell(**event):
        file.write(json.dumps(event) + "\\n")
    tell(kind="about", device="none")
    for name in json.loads(sys.argv[2]):
        tell(kind="begin", name=name, at=time.time())
        tell(kind="row", name="figure", value=1.0, unit="ms")
        if name == "dies":
            os._exit(7)
        if name == "hangs":
            time.sleep(60)
        problem = "ValueError: wrong" if name == "fails" else ""
        tell(kind="end", problem=problem, seconds=0.5)
        if problem:
            break
"""


def supervised(names: list[str], folder: Path, **options) -> tuple[Told, list[list[str]]]:
    started: list[list[str]] = []

    def command_of(budgets_s, events):
        started.append(list(budgets_s))
        return [sys.executable, "-c", SCRIPT, str(events), json.dumps(list(budgets_s))]

    options = {"alone": frozenset(), "grace_s": 20, "end_s": time.time() + 60, **options}
    told = supervise(
        dict.fromkeys(names, 0.1), command_of, folder=folder, watch=lambda _: None, **options
    )
    return told, started


def test_a_section_that_fails_or_dies_costs_neither_its_rows_nor_the_others(tmp_path):
    told, started = supervised(["one", "fails", "dies", "two"], tmp_path)
    assert [section.name for section in told.sections] == ["one", "fails", "dies", "two"]
    assert [section.problem for section in told.sections] == [
        "", "ValueError: wrong", "its process ended with code 7", "",
    ]  # fmt: skip
    assert all(section.rows for section in told.sections)
    assert started == [["one", "fails", "dies", "two"], ["dies", "two"], ["two"]]
    assert told.about == {"device": "none"}


def test_a_section_that_hangs_is_ended_and_the_others_go_on(tmp_path):
    told, _ = supervised(["hangs", "one"], tmp_path, grace_s=2)
    hung, other = told.sections
    assert re.fullmatch(r"it was ended after \d+ s", hung.problem)
    assert hung.rows
    assert not other.problem


def test_a_section_that_needs_all_memory_gets_a_process_of_its_own(tmp_path):
    names = ["one", "two", "big", "bigger", "three"]
    _, started = supervised(names, tmp_path, alone=frozenset({"big", "bigger"}))
    assert started == [["one", "two"], ["big"], ["bigger"], ["three"]]


def test_sections_that_no_time_is_left_for_are_told(tmp_path):
    told, started = supervised(["one", "two"], tmp_path, end_s=time.time() - 1)
    assert [section.problem for section in told.sections] == ["no time was left"] * 2
    assert not started


def test_the_report_is_written_as_a_file_of_figures_and_as_a_table(tmp_path):
    row = Row(name="encode", value=45.678, unit="ms", official=300, bar=50, note="warm")
    sections = [Section("encode", [row]), Section("upn", problem="OutOfMemoryError: full")]
    write(tmp_path / "new" / "gpu.json", {"device": "one"}, sections, bars=True)
    told = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert told["device"] == "one"
    assert told["sections"][0]["rows"][0]["ratio"] == pytest.approx(300 / 45.678)
    table = (tmp_path / "new" / "gpu.md").read_text()
    assert "| encode | encode | 45.7 ms | 300 ms | 6.6x | 50 ms, met | warm |" in table
    assert "`upn` did not come to its end after 0 s: OutOfMemoryError: full" in table
    assert "bar" not in markdown({}, sections, bars=False)


def test_sections_are_known_by_name_and_run_in_their_order():
    assert list(child.MEASURES) == list(gpu.BUDGETS_S)
    assert list(gpu._sections("upn,load")) == ["load", "upn"]
    with pytest.raises(gpu.argparse.ArgumentTypeError, match="no section 'uptime': there are"):
        gpu._sections("load,uptime")


@pytest.mark.slow
def test_the_command_measures_and_writes(tmp_path, capfd):
    out = tmp_path / "gpu.json"
    chosen = ["--sections", "device,load", "--out", str(out)]
    assert gpu.main(["--size", "tiny", "--device", "cpu", *chosen]) == 0
    assert "| load | load |" in capfd.readouterr().out
    assert [section["name"] for section in json.loads(out.read_text())["sections"]] == [
        "device", "load",
    ]  # fmt: skip
