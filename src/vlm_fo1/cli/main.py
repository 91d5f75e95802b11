"""``fo1``: one command per question, each imported when it is used."""

import importlib
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS = {
    "detect": ("vlm_fo1.cli.detect", "Find everything that one of the labels names."),
    "count": ("vlm_fo1.cli.count", "Count one kind of thing, pointing at each."),
    "refer": ("vlm_fo1.cli.refer", "Find what a phrase describes."),
    "describe": ("vlm_fo1.cli.describe", "Say what stands in each box."),
    "read-text": ("vlm_fo1.cli.read_text", "Read the writing in each box."),
    "match": ("vlm_fo1.cli.match", "Find more of what stands in one box."),
    "ground": ("vlm_fo1.cli.ground", "Describe the image and point at everything mentioned."),
    "identify": ("vlm_fo1.cli.identify", "Name every object, with its boxes."),
    "reason": ("vlm_fo1.cli.reason", "Think aloud, then answer, with regions as evidence."),
    "ask": ("vlm_fo1.cli.ask", "Ask anything in your own words."),
    "propose": ("vlm_fo1.cli.propose", "Offer boxes of what may be there; measure, cache them."),
    "segment": ("vlm_fo1.cli.segment", "Find what a phrase means, as masks."),
    "video": ("vlm_fo1.cli.video", "Follow what a phrase means through a video, as masks."),
    "app": ("vlm_fo1.cli.app", "Show the page: ask about pictures in a browser."),
    "data": ("vlm_fo1.cli.data", "Look at training records, check them."),
    "graft": ("vlm_fo1.cli.graft", "Make an untrained VLM-FO1 from another model."),
    "train": ("vlm_fo1.cli.train", "Train a model in stages, or go on with a run."),
    "doctor": ("vlm_fo1.cli.doctor", "Say what is missing, and which weights fit this machine."),
}
"""Command to its line in ``fo1 --help`` and the module whose ``command`` function, or whose ``app``
of commands, it is."""


class LazyGroup(TyperGroup):
    """Knows its commands by name; imports one when it runs or shows its own help."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order of `COMMANDS`."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name: its one line for the overview, the real thing to run it."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, line = COMMANDS[cmd_name]

        def overview() -> None: ...

        overview.__doc__ = line
        return _build(cmd_name, overview) if self._in_overview else _load(cmd_name, module)

    _in_overview = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """``fo1 --help``: one line a command, nothing imported."""
        self._in_overview = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._in_overview = False


def _load(name: str, module: str) -> Any:
    found = importlib.import_module(module)
    if hasattr(found, "app"):
        group = typer.main.get_command(found.app)
        group.name = name
        return group
    return _build(name, found.command)


def _build(name: str, function: Callable[..., None]) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(name)(function)
    return typer.main.get_command(app)


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def about(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            envvar="FO1_VERBOSE",
            help="Say more on the way, and where exactly in the code something failed.",
        ),
    ] = False,
) -> None:
    """Ask questions about the things in a picture and get answers that point at them.

    IMAGE is a file, a folder, or a quoted pattern such as 'photos/*.jpg'. The boxes that an answer
    may point at come from --box, --boxes or --proposer. Without --model the bundled small model is
    used, which knows synthetic images only; `fo1 doctor` says which others fit this machine.

    fo1 detect photo.jpg orange apple --boxes boxes.json --out found.jpg
    """
    if verbose:
        import logging

        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("vlm_fo1").setLevel(logging.DEBUG)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except (ImportError, MemoryError, RuntimeError) as error:
        _fail(error)


def _fail(error: Exception) -> None:
    """End with one line and code 2 where a user can mend what is wrong, else with the error.

    Raises:
        SystemExit: There is such a line.
    """
    line = _explained(error)
    if line is None:
        raise error
    typer.secho(f"error: {line}", fg="red", err=True)
    raise SystemExit(2) from error


def _explained(error: Exception) -> str | None:
    """One line on what a user can mend, with the remedy; None for a fault of ours."""
    first: BaseException = error
    while (cause := first.__cause__ or first.__context__) is not None:
        first = cause
    said = (str(first).strip() or type(first).__name__).splitlines()[0]
    if isinstance(error, ImportError):
        return f"{said}; a package is missing or broken: run `fo1 doctor`"
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "alloc" in said:
        return (
            f"{said}; the memory does not suffice: take --dtype bfloat16, smaller pictures, or "
            "--device cpu; `fo1 doctor` says which weights fit here"
        )
    return None
