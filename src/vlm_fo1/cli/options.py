"""Arguments and options of the commands that answer; what each means is said here once."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vlm_fo1.tasks import BATCH_SIZE, MAX_NEW_TOKENS


class Scoring(StrEnum):
    """How answers get scores; see `vlm_fo1.plan.Scoring`."""

    JOINT = "joint"
    BRANCHES = "branches"
    NONE = "none"


Image = Annotated[str, typer.Argument(help="An image, a folder of images, or a quoted pattern.")]
Labels = Annotated[list[str] | None, typer.Argument(help="What to look for, one or more names.")]
Label = Annotated[str, typer.Argument(help="What to look for: a name, or a description.")]
Question = Annotated[str, typer.Argument(help="Your question.")]
Region = Annotated[
    int | None,
    typer.Argument(min=0, help="Number of the box to take as the example, from 0."),
]
Phrase = Annotated[
    str, typer.Argument(help='What to find, of any kind: "the player in red nearest the ball".')
]
Box = Annotated[
    list[str] | None,
    typer.Option("--box", help="One box as x1,y1,x2,y2 in pixels of the image; may be repeated."),
]
Boxes = Annotated[
    Path | None,
    typer.Option(
        help=r"JSON file of boxes: a list of \[x1, y1, x2, y2], a dict from file name to such a "
        "list, COCO results, or a COCO data set."
    ),
]
Proposer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME:ARG",
        help="What offers the boxes instead: upn:PATH, hf:zero-shot, hf:ID, sam3:ID, ocr, ... "
        "(docs/proposers). The bundled model has one of its own.",
        show_default=False,
    ),
]
Query = Annotated[
    list[str] | None,
    typer.Option(
        help="What the proposer looks for, if it looks for named things; may be repeated.",
        show_default="the labels of the question",
    ),
]
Offering = Annotated[
    str,
    typer.Option(
        "--proposer",
        help="What offers things to choose from: sam3:FOLDER or sam3:HUB_ID for masks, or another "
        "proposer and what it loads.",
    ),
]
OneQuery = Annotated[
    str | None,
    typer.Option(
        "--query",
        help="What the proposer looks for: a name, where the phrase is a sentence.",
        show_default="the phrase",
    ),
]
MinScore = Annotated[
    float | None,
    typer.Option(
        help="Proposals with a lower score are dropped.", show_default="the proposer's own, or 0.3"
    ),
]
Nms = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Proposals that overlap a better one more than this (IoU) are dropped.",
        show_default="the proposer's own, or 0.8",
    ),
]
Tile = Annotated[
    str,
    typer.Option(
        metavar="PIXELS|auto|none",
        help="Look at a large image through overlapping tiles of this side, to detect and count "
        "small things; 'auto' takes what the boxes need, 'none' the whole image.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="'tiny' for the bundled model, a checkpoint folder, or a Hub id such as "
        "omlab/VLM-FO1_Qwen2.5-VL-3B-v01."
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a Hub id.", show_default=False)
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="HF_TOKEN",
        help="Access token for gated and private repositories of the Hub. `hf auth login` keeps it "
        "out of the command line.",
        show_default="that of `hf auth login`",
        show_envvar=True,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Refuse weights with tensors that are not used, instead of a warning."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cuda, cuda:1, cpu, or auto to spread.", show_default="cuda if there is one"),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="bfloat16 or float32, which takes twice the memory; `fo1 doctor` says what fits.",
        show_default="float32 on the CPU, else as saved",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="PIXELS",
        help="Bring the short side of an image to this, up too, before the model looks at it; "
        "1024 is what the official demos with SAM 3 do.",
        show_default="images as they come",
    ),
]
Tokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")]
BatchSize = Annotated[
    int,
    typer.Option(
        min=1, help="How many images are asked about side by side; fewer once memory runs out."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Where the image with the answer goes: a file, or a folder for several."),
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
        help="JSON Lines file of answers, one line an image, written as they come. Run the same "
        "command again to go on where it stopped; images that failed are tried again."
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start the --save file anew instead of going on.")
]
About = Annotated[
    list[int] | None,
    typer.Option(help="A region that a {} in the question stands for; may be repeated."),
]
Stream = Annotated[
    bool, typer.Option("--stream", help="Print the text of the answer as it is written.")
]
With = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        help="A further image, which stands where <image_1> does in the question, the next "
        "where <image_2> does, or before the question; boxes are of IMAGE alone.",
    ),
]
System = Annotated[
    str | None,
    typer.Option(help="A system message in place of the usual one.", show_default=False),
]
Scores = Annotated[
    Scoring,
    typer.Option(
        help="How each label and region gets a score: joint asks about all labels in one question, "
        "branches about each by itself, side by side, which suits many labels; docs/scores.md."
    ),
]
AnswerScore = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Take the boxes with at least this score for a label, named by the model or not, in "
        "place of those that it named. --min-score is about what the proposer offers.",
    ),
]
AnswerPresence = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="A label whose presence is lower gets no box."),
]
Calibrating = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        help="File of `fo1 calibrate` that makes scores probabilities.",
        show_default="calibration.json of the model's folder",
    ),
]
Constrain = Annotated[
    bool,
    typer.Option(
        "--constrain/--no-constrain",
        help="Keep an answer within what its markup allows, or take it as the model writes it.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is typed to ask something; a command has of the first part what its task takes."""

    image: Image
    labels: Labels = None
    label: Label = ""
    question: Question = ""
    region: Region = None
    detail: str = ""
    about: About = None
    beside: With = None
    system: System = None
    stream: Stream = False
    scores: Scores = Scoring.JOINT
    answer_score: AnswerScore = None
    answer_presence: AnswerPresence = None
    calibration: Calibrating = None

    box: Box = None
    boxes: Boxes = None
    proposer: Proposer = None
    query: Query = None
    min_score: MinScore = None
    nms: Nms = None
    tile: Tile = "auto"
    out: Out = None
    unchosen: Unchosen = False
    as_json: AsJson = False
    save: Save = None
    fresh: Fresh = False
    model: Model = "tiny"
    revision: Revision = None
    token: Token = None
    strict: Strict = False
    device: Device = None
    dtype: Dtype = None
    image_size: ImageSize = None
    max_new_tokens: Tokens = MAX_NEW_TOKENS
    constrain: Constrain = True
    batch_size: BatchSize = BATCH_SIZE
