"""Records as images: boxes with their numbers, questions, and the answers that are learnt."""

from collections.abc import Iterable, Sequence
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.data.example import Example
from vlm_fo1.errors import DataError, counted
from vlm_fo1.images import read_image
from vlm_fo1.markup import scan
from vlm_fo1.regions import Regions

_INK, _GREY, _LEARNT, _MARKED = (20, 20, 20), (105, 105, 105), (0, 92, 40), (223, 243, 228)
_FONT_PX = 13
_LINE_PX = 17
_PAD = 8

Colour = tuple[int, int, int]
Line = tuple[str, Colour, Colour | None]
"""A text, its colour and that behind it; long ones are wrapped."""


def draw_record(example: Example, width: int = 480) -> Image.Image:
    """One record: the image with its regions, then each question in grey and its answer in green.

    The text in green is what the loss looks at; everything else is masked. Regions that an answer
    mentions carry its label, the others are drawn dimly with their number.

    Args:
        example: The record.
        width: Of the result in pixels.

    Returns:
        A new RGB image.

    Raises:
        ImageError: The image cannot be read.
        BoxError: A region that lies outside the image.
    """
    where = " ".join(filter(None, (example.source, example.id)))
    lines: list[Line] = [
        (f"{where}: {counted(len(example.regions_xyxy), 'region')}", _INK, None),
    ]
    for turn in example.turns:
        lines.append((f"[{turn.task}] {turn.question}", _GREY, None))
        lines.append((turn.answer or "(nothing)", _LEARNT, _MARKED))
    if example.image is None:
        return _text_block(lines, width)
    image = read_image(example.image)
    regions = Regions(example.regions_xyxy, image.size)
    answer = Answer(text="", regions=regions, mentions=_mentions(example))
    return draw_cell(answer, image, lines, width)


def draw_cell(
    answer: Answer, image: Image.Image, lines: Iterable[Line], width: int = 480
) -> Image.Image:
    """An answer on its image, and lines of text below.

    Args:
        answer: Regions that it does not mention are drawn dimly with their number.
        image: RGB, upright.
        lines: What stands below.
        width: Of the result in pixels.

    Returns:
        A new RGB image.

    Raises:
        BoxError: A region that lies outside the image.
    """
    drawn = answer.draw(image, show_unchosen=True, font_size=max(12, image.width // 32))
    height = max(1, round(drawn.height * width / drawn.width))
    text = _text_block(lines, width)
    whole = Image.new("RGB", (width, height + text.height), "white")
    whole.paste(drawn.resize((width, height), Image.Resampling.BICUBIC))
    whole.paste(text, (0, height))
    return whole


def contact_sheet(examples: Iterable[Example], columns: int = 3, width: int = 480) -> Image.Image:
    """Several records beside and below each other.

    Args:
        examples: What to draw.
        columns: How many beside each other.
        width: Of one record in pixels.

    Returns:
        A new RGB image.

    Raises:
        DataError: No record.
    """
    cells = [draw_record(example, width) for example in examples]
    if not cells:
        raise DataError("there is no record to show")
    return sheet_of(cells, columns)


def sheet_of(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    """Images of one width beside and below each other.

    Args:
        cells: At least one.
        columns: How many beside each other.
    """
    columns, width = min(columns, len(cells)), cells[0].width
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + _PAD for row in rows]
    sheet = Image.new("RGB", (columns * (width + _PAD), sum(heights)), (180, 180, 180))
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * (width + _PAD), top))
        top += height
    return sheet


def _mentions(example: Example) -> tuple[Mention, ...]:
    """What the answers point at, each label once."""
    found: dict[str, dict[int, None]] = {}
    for turn in example.turns:
        for mention in scan(turn.answer).mentions:
            found.setdefault(mention.label, {}).update(dict.fromkeys(mention.numbers))
    return tuple(Mention(label, tuple(numbers)) for label, numbers in found.items() if numbers)


def _text_block(lines: Iterable[Line], width: int) -> Image.Image:
    font = ImageFont.load_default(_FONT_PX)
    columns = max(10, int((width - 2 * _PAD) / (_FONT_PX * 0.56)))
    wrapped: list[Line] = [
        (piece, ink, behind) for text, ink, behind in lines for piece in _wrapped(text, columns)
    ]
    block = Image.new("RGB", (width, len(wrapped) * _LINE_PX + 2 * _PAD), "white")
    pen = ImageDraw.Draw(block)
    for number, (line, ink, behind) in enumerate(wrapped):
        y = _PAD + number * _LINE_PX
        if behind is not None:
            pen.rectangle((0, y, width, y + _LINE_PX - 1), fill=behind)
        pen.text((_PAD, y + 1), line, font=font, fill=ink)
    return block


def _wrapped(text: str, columns: int) -> Sequence[str]:
    pieces = [wrap(part, columns, break_long_words=True) or [""] for part in text.split("\n")]
    return [line for piece in pieces for line in piece]
