"""`fo1 --help` and the help of every command: there, quick, and without torch."""

import os
import re
import resource
import subprocess
import sys
from functools import cache

import pytest
from typer.testing import CliRunner

from vlm_fo1.cli.main import app

FO1 = (sys.executable, "-m", "vlm_fo1")
PLAIN = {**os.environ, "COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}
# As people have it: a start that compiles every module again is no start of theirs.
PLAIN.pop("PYTHONDONTWRITEBYTECODE", None)
NAMED_IN_THE_DOCS = (
    "detect", "count", "refer", "describe", "read-text", "match", "ground", "identify",
    "reason", "ask",
    "propose", "segment", "video", "data", "graft", "train", "eval", "calibrate", "doctor",
)  # fmt: skip
HEAVY = ("torch", "transformers", "numpy", "PIL", "supervision")


def text_of(*arguments: str) -> str:
    """What the program prints."""
    done = subprocess.run(
        [*FO1, *arguments], env=PLAIN, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def commands() -> tuple[str, ...]:
    """The names that `fo1 --help` lists."""
    return tuple(re.findall(r"^[│\s]+([a-z][a-z-]*)\s{2,}\S", text_of("--help"), re.M))


def test_the_help_lists_every_command_of_the_documentation():
    assert set(NAMED_IN_THE_DOCS) <= set(commands())


def test_every_command_explains_itself():
    for name in commands():
        done = CliRunner().invoke(app, [name, "--help"], env=PLAIN)
        assert done.exit_code == 0, done.output
        text = done.output
        assert "Usage" in text, name
        assert name in text
        assert len(text.splitlines()) > 5, f"`fo1 {name} --help` says next to nothing"


@pytest.mark.parametrize("arguments", [["--help"], ["detect", "--help"], ["doctor", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from vlm_fo1.cli.main import main\n"
        f"sys.argv = ['fo1', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=PLAIN, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].split() == ["LOADED"]


def test_help_takes_less_than_three_tenths_of_a_second():
    # Of a core's time, the quickest of several: a wall clock would measure what else is running.
    quickest_s = float("inf")
    for _ in range(15):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        text_of("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        quickest_s = min(quickest_s, spent_s)
        if quickest_s < 0.3:
            return
    pytest.fail(f"fo1 --help took {quickest_s:.2f} s at best, 0.3 s is the limit")
