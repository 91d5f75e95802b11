"""Every code block of README.md and docs/ does what it says.

Python blocks run in one namespace per file; `fo1` and `python` lines of console blocks run too,
`fo1` in this process, which has imported PyTorch already, and once as the program that it is. All
are in a fresh folder that holds the bundled image as `photo.jpg` and its boxes as `boxes.json`.
A block after ``<!-- needs weights -->`` is only parsed, and its options looked up in the help. What
would change the machine (`make`, `pip`, `git`) is not run: the names in it have to exist.
"""

import ast
import contextlib
import importlib.resources
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vlm_fo1 import FO1
from vlm_fo1.cli import machine, packages
from vlm_fo1.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
DEMO = importlib.resources.files("vlm_fo1") / "assets" / "demo"
NEEDS_WEIGHTS = "<!-- needs weights -->"
NOT_EXECUTED = {"text", "json", "yaml", "bibtex", "toml"}
SHELL = {"bash", "console"}
PLAIN = {"COLUMNS": "200", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """Number of its first line, from 1."""
    language: str
    text: str
    needs_weights: bool

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    before, opened, language = "", 0, ""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip().startswith("```"):
            if not opened:
                opened, language = number, line.strip()[3:].strip()
            else:
                text = "\n".join(lines[opened : number - 1])
                found.append(Block(page, opened + 1, language, text, before == NEEDS_WEIGHTS))
                opened, before = 0, ""
        elif not opened and line.strip():
            before = line.strip()
    assert not opened, f"{page.name}:{opened}: this block is never closed"
    return found


def commands_of(block: Block) -> list[list[str]]:
    """The commands of a shell block; in a console block only lines after ``$ `` are commands."""
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def id_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder as a reader would have it, made the current one."""
    for name in ("photo.jpg", "boxes.json"):
        with importlib.resources.as_file(DEMO / name) as source:
            shutil.copy(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_every_block_says_what_it_is(page):
    for block in blocks_of(page):
        known = {"python"} | SHELL | NOT_EXECUTED
        assert block.language in known, f"{block.where}: language {block.language!r}"


@pytest.mark.filterwarnings("ignore:OpenCV .* is not installed:UserWarning")  # of supervision
@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_python_blocks_run(page, request):
    blocks = [block for block in blocks_of(page) if block.language == "python"]
    runnable = [block for block in blocks if not block.needs_weights]
    for block in blocks:
        ast.parse(block.text, filename=block.where)
    if runnable:
        request.getfixturevalue("folder")
    namespace: dict[str, object] = {"__name__": "__page__"}
    for block in runnable:
        padded = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's line
        exec(compile(padded, str(page), "exec"), namespace)


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """What pages load alike is loaded once; the program of the first page loads for itself."""
    kept: dict[str, FO1] = {}
    load = FO1.from_pretrained

    def from_pretrained(*name: str, **how: Any) -> FO1:
        key = repr((name, how))
        if key not in kept:
            kept[key] = load(*name, **how)
        return kept[key]

    def run_probe(code: str) -> tuple[bool, str]:
        """Of `fo1 doctor`: its processes would import all that this one has imported."""
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as out:
            warnings.simplefilter("ignore")
            exec(code, {})
        return True, out.getvalue().strip()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FO1, "from_pretrained", from_pretrained)
        for module in (packages, machine):
            patch.setattr(module, "run_probe", run_probe)
        yield


@pytest.fixture(scope="module")
def ran() -> set[str]:
    """What a page has shown already: on another page the same command shows nothing new."""
    return set()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_console_blocks_run(page, request, ran):
    for block in (block for block in blocks_of(page) if block.language in SHELL):
        for words in commands_of(block):
            if words[0] in {"fo1", "python"} and not block.needs_weights:
                if (line := shlex.join(words)) not in ran:
                    run(words, request.getfixturevalue("folder"), block.where)
                    ran.add(line)
            else:
                look_at(words, block.where)


def test_the_program_answers_as_the_first_page_says(folder):
    commands = [words for block in blocks_of(PAGES[0]) for words in commands_of(block)]
    _, *words = next(words for words in commands if words[:2] == ["fo1", "detect"])
    done = run_aside(["-m", "vlm_fo1", *words], folder, "README.md")
    answer = json.loads(done)
    assert {mention["label"] for mention in answer["mentions"]} == {"orange", "apple"}
    assert (folder / "out.jpg").exists()


def run(words: list[str], folder: Path, where: str) -> str:
    """Run `fo1` in this process or `python` in another, in the current folder; what it printed."""
    if words[0] == "python":
        return run_aside(words[1:], folder, where)
    done = CliRunner().invoke(app, words[1:], env=PLAIN)
    assert done.exit_code == 0, f"{where}: {shlex.join(words)}\n{done.output}{done.exception!r}"
    return done.output


def run_aside(words: list[str], folder: Path, where: str) -> str:
    """Run Python in a process of its own; what it printed."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **PLAIN, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{where}: {shlex.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def look_at(words: list[str], where: str) -> None:
    """Check a command that is not run: do the things it names exist."""
    match words:
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            for target in (word for word in targets if "=" not in word):
                assert re.search(rf"^{re.escape(target)}:", makefile, re.M), f"{where}: {target}"
        case ["pip", "install", *things]:
            pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
            extras = [extra for thing in things for extra in re.findall(r"\[(.+)\]", thing)]
            for extra in (name for names in extras for name in names.split(",")):
                assert re.search(rf"^{extra} = \[", pyproject, re.M), f"{where}: extra {extra}"
        case ["fo1", subcommand, *arguments]:
            group = ["data", arguments[0]] if subcommand == "data" else [subcommand]
            known = run(["fo1", *group, "--help"], ROOT, where)
            for option in (word for word in arguments if word.startswith("--")):
                assert option in known, f"{where}: fo1 {subcommand} has no {option}"
        case ["git" | "cd" | "mkdir" | "python" | "source" | "export" | "torchrun", *_]:
            pass
        case ["hf" | "curl" | "modelscope", *_]:  # what fetches weights
            pass
        case ["lmms-eval", *_]:  # of others, in an environment of its own
            pass
        case _:
            pytest.fail(f"{where}: no rule for {shlex.join(words)!r}")


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{id_of(page)}: {target}"


def test_every_page_is_in_the_menu_and_has_something_to_say():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("**/*.md"):
        assert page.name in menu
        assert len(page.read_text(encoding="utf-8")) > 400, f"{page.name} is all but empty"


def test_the_page_reader_finds_blocks_and_their_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n```python\na = 1\n```\n\n<!-- needs weights -->\n```console\n$ fo1 detect a \\\n"
        "  b # why\noutput\n```\n```bash\nmake test\n```\n"
    )
    first, second, third = blocks_of(page)
    assert (first.language, first.text, first.line, first.needs_weights) == (
        "python", "a = 1", 4, False,
    )  # fmt: skip
    assert second.needs_weights
    assert commands_of(second) == [["fo1", "detect", "a", "b"]]
    assert not third.needs_weights


@pytest.mark.parametrize(
    "line", ["make no-such-target", "pip install 'vlm-fo1[nonsense]'", "fo1 fly", "rm -r ."]
)
def test_a_command_that_names_nothing_real_is_refused(line):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        look_at(shlex.split(line), "here")
