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
    parts: list[Image.Image] = []
    if example.image is not None:
        image = read_image(example.image)
        answer = Answer(
            text="",
            regions=Regions(example.regions_xyxy, image.size),
            mentions=_mentions(example),
        )
        drawn = answer.draw(image, show_unchosen=True, font_size=max(12, image.width // 32))
        height = max(1, round(drawn.height * width / drawn.width))
        parts.append(drawn.resize((width, height), Image.Resampling.BICUBIC))
    parts.append(_text_block(example, width))
    whole = Image.new("RGB", (width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
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
    columns = min(columns, len(cells))
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


def _text_block(example: Example, width: int) -> Image.Image:
    font = ImageFont.load_default(_FONT_PX)
    columns = max(10, int((width - 2 * _PAD) / (_FONT_PX * 0.56)))
    where = " ".join(filter(None, (example.source, example.id)))
    lines: list[tuple[str, tuple[int, int, int], bool]] = [
        (line, _INK, False)
        for line in _wrapped(f"{where}: {counted(len(example.regions_xyxy), 'region')}", columns)
    ]
    for turn in example.turns:
        asked = _wrapped(f"[{turn.task}] {turn.question}", columns)
        lines += [(line, _GREY, False) for line in asked]
        learnt = _wrapped(turn.answer or "(nothing)", columns)
        lines += [(line, _LEARNT, True) for line in learnt]
    block = Image.new("RGB", (width, len(lines) * _LINE_PX + 2 * _PAD), "white")
    pen = ImageDraw.Draw(block)
    for number, (line, colour, marked) in enumerate(lines):
        y = _PAD + number * _LINE_PX
        if marked:
            pen.rectangle((0, y, width, y + _LINE_PX - 1), fill=_MARKED)
        pen.text((_PAD, y + 1), line, font=font, fill=colour)
    return block


def _wrapped(text: str, columns: int) -> Sequence[str]:
    pieces = [wrap(part, columns, break_long_words=True) or [""] for part in text.split("\n")]
    return [line for piece in pieces for line in piece]
