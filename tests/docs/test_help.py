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


def spent_s(*arguments: str) -> float:
    """Time of a core that Python takes: a wall clock would measure what else is running."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=PLAIN, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_takes_little_longer_than_to_import_what_it_is_made_with():
    help_s = typer_s = float("inf")
    for done in range(1, 16):  # the quickest of several, on whatever machine
        help_s = min(help_s, spent_s("-m", "vlm_fo1", "--help"))
        typer_s = min(typer_s, spent_s("-c", "import typer"))
        if done >= 3 and help_s < 2 * typer_s:
            return
    pytest.fail(f"fo1 --help took {help_s:.2f} s at best, and importing typer {typer_s:.2f} s")
