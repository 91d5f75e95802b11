"""``fo1``: a command for each task and a few others, each imported when it is used."""

import importlib
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from vlm_fo1 import tasks

OTHERS = {
    "propose": ("vlm_fo1.cli.propose", "Offer boxes of what may be there; measure, cache them."),
    "segment": ("vlm_fo1.cli.segment", "Find what a phrase means, as masks."),
    "video": ("vlm_fo1.cli.video", "Follow what a phrase means through a video, as masks."),
    "app": ("vlm_fo1.cli.app", "Show the page: ask about images in a browser."),
    "data": ("vlm_fo1.cli.data", "Look at training records, check them."),
    "graft": ("vlm_fo1.cli.graft", "Make an untrained VLM-FO1 from another model."),
    "train": ("vlm_fo1.cli.train", "Train a model in stages, or go on with a run."),
    "eval": ("vlm_fo1.cli.eval", "Score a model on a benchmark, or on a folder of your own."),
    "calibrate": ("vlm_fo1.cli.calibrate", "Make scores probabilities, from images with truth."),
    "doctor": ("vlm_fo1.cli.doctor", "Say what is missing, and which weights fit this machine."),
}
"""Commands beside those of `vlm_fo1.tasks.TASKS`: the module whose ``command`` function, or whose
``app`` of commands, it is, and its line in ``fo1 --help``."""


def overview() -> dict[str, str]:
    """Every command with its line in ``fo1 --help``, in order."""
    asking = {spec.command: spec.help for spec in tasks.TASKS.values()}
    return asking | {name: line for name, (_, line) in OTHERS.items()}


class LazyGroup(TyperGroup):
    """Knows each command by its line; imports it when it is typed, for its own help too."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order of `overview`."""
        del ctx
        return list(overview())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What ``fo1 --help`` shows of a command."""
        del ctx
        line = overview().get(cmd_name)
        return None if line is None else TyperCommand(cmd_name, help=line)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that was typed, and the rest of the line."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _load(name or args[0]), rest


def _load(name: str) -> Any:
    if name not in OTHERS:
        from vlm_fo1.cli.ask import command_of

        return _build(name, command_of(name))
    found = importlib.import_module(OTHERS[name][0])
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
    rich_markup_mode=None,  # boxes around the overview would take longer than all else
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
    """Ask questions about the things in an image and get answers that point at them.

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
    # Pillow's: what is larger is refused by us, in words of our own
    warnings.filterwarnings("ignore", "Image size .* exceeds limit of .* decompression bomb")
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
            f"{said}; the memory does not suffice: take --dtype bfloat16, smaller images, or "
            "--device cpu; `fo1 doctor` says which weights fit here"
        )
    return None
