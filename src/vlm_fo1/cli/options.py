"""Arguments and options that the asking commands share; what each means is said here once."""

from pathlib import Path
from typing import Annotated

import typer

Image = Annotated[str, typer.Argument(help="A picture, a folder of pictures, or a quoted pattern.")]
Box = Annotated[
    list[str] | None,
    typer.Option("--box", help="One box as x1,y1,x2,y2 in pixels of the picture; may be repeated."),
]
Boxes = Annotated[
    Path | None,
    typer.Option(
        help="JSON file of boxes: a list of [x1, y1, x2, y2], a dict from file name to such a "
        "list, COCO results, or a COCO data set."
    ),
]
Model = Annotated[
    str,
    typer.Option(help="'tiny' for the bundled model, a checkpoint folder, or a Hub id."),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a Hub id.", show_default=False)
]
Device = Annotated[
    str | None,
    typer.Option(help="cuda, cuda:1, cpu, or auto to spread.", show_default="cuda if there is one"),
]
Dtype = Annotated[
    str | None,
    typer.Option(help="bfloat16, float32, ...", show_default="float32 on the CPU, else as saved"),
]
Tokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Where the picture with the answer goes: a file, or a folder for several."),
]
Unchosen = Annotated[
    bool,
    typer.Option("--unchosen", help="Draw the regions that were not chosen too, dimly."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print each answer as one line of JSON instead of a table.")
]
Save = Annotated[
    Path | None,
    typer.Option(
        help="JSON Lines file of answers, one line a picture, written as they come. Run the same "
        "command again to go on where it stopped; pictures that failed are tried again."
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start the --save file anew instead of going on.")
]
Stream = Annotated[
    bool, typer.Option("--stream", help="Print the text of the answer as it is written.")
]


def print_text(text: str) -> None:
    """Write a piece of an answer at once."""
    typer.echo(text, nl=False)
