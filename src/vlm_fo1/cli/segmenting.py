"""What `fo1 segment` and `fo1 video` share: options, and loading what offers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from vlm_fo1.errors import FO1Error

if TYPE_CHECKING:
    from vlm_fo1.proposers.base import Proposer

Phrase = Annotated[
    str, typer.Argument(help='What to find, of any kind: "the player in red nearest the ball".')
]
Proposing = Annotated[
    str,
    typer.Option(
        "--proposer",
        help="What offers things to choose from: sam3:FOLDER or sam3:HUB_ID for masks, or another "
        "proposer and what it loads.",
    ),
]
Query = Annotated[
    str | None,
    typer.Option(
        help="What the proposer looks for: a name, where the phrase is a sentence.",
        show_default="the phrase",
    ),
]


def load_offering(
    name: str,
    device: str | None,
    dtype: str | None,
    token: str | None,
    errors: Console,
    *,
    least: float,
) -> "Proposer":
    """The proposer; one of SAM 3 leaves out what scores less, which saves making its masks."""
    with errors.status(Text(f"loading {name}")):
        from vlm_fo1.proposers.base import load_proposer

        options: dict[str, Any] = {"device": device, "dtype": dtype, "token": token}
        if name.partition(":")[0] == "sam3":
            options["min_score"] = least
        return load_proposer(name, **options)


def check_out(out: Path | None, save: Path | None) -> None:
    """Refuse one file for two things.

    Raises:
        FO1Error: ``--out`` and ``--save`` name the same file.
    """
    if out is not None and save is not None and out.resolve() == save.resolve():
        raise FO1Error(f"--out and --save both name {out}: a drawing and JSON need a file each")
