"""Plates with a printed word, in Pillow's own letters (the same everywhere) or in given fonts."""

import zlib
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from recipes.synthetic.kinds import KINDS, SYNONYMS, syllables

_WORDS = """
    OPEN STOP EXIT SALE TAXI BANK CAFE HOTEL PIZZA MILK BREAD FRESH NEW FREE HELP PUSH PULL SLOW
    FAST EAST WEST NORTH SOUTH PARK ZOO BEACH LAKE RIVER FARM MARKET SHOP STORE SCHOOL LIBRARY MUSIC
    ART FILM RADIO NEWS POST MAIL GATE DOOR ROOM FLOOR LIFT STAIRS TOILET WATER JUICE TEA SUGAR
    SALT SOUP FRUIT LUNCH DINNER MENU PRICE CASH PAY TICKET TRAIN TRAM METRO BIKE SHIP PORT
    QUIET DANGER HOT COLD WET DRY HIGH LOW LEFT RIGHT UP DOWN START FINISH WIN GAME PLAY TEAM
    RED BLUE GREEN GOLD BLACK WHITE SUMMER WINTER SPRING JUNE JULY MAY MONDAY SUNDAY NIGHT DAY
    ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN KEY LUCKY LOVE HAPPY DREAM VOTE YES
    WORK HOME GARDEN HOUSE STREET BRIDGE TOWER CITY TOWN VILLA JAZZ ROCK BOX QUEEN KING
    """

WORDS = tuple(word for word in dict.fromkeys(_WORDS.split()) if 3 <= len(word) <= 6)
"""What signs say: common words of three to six capitals."""

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PLATES = (
    ((245, 245, 240), (25, 25, 30)),
    ((250, 215, 60), (30, 25, 20)),
    ((25, 90, 60), (245, 245, 240)),
    ((30, 60, 140), (245, 245, 240)),
    ((185, 25, 35), (250, 250, 245)),
    ((35, 35, 40), (250, 230, 120)),
    ((240, 230, 210), (110, 40, 30)),
)


def is_held_out(word: str) -> bool:
    """Whether only `SyntheticConfig.held_out_words` shows the word: a tenth of all, but `WORDS`."""
    return word not in WORDS and zlib.crc32(word.encode()) % 10 == 0


def invented(rng: np.random.Generator, *, held_out: bool = False) -> str:
    """3 to 8 capitals: the name of a kind, syllables, or letters in any order.

    Args:
        rng: Decides.
        held_out: Of the words that are held out, else of all others.
    """
    names = [name.upper() for name in (*KINDS, *SYNONYMS) if 3 <= len(name) <= 8]
    while True:
        form, length = rng.random(), int(rng.integers(3, 9))
        if form < 0.2:
            word = names[rng.integers(len(names))]
        elif form < 0.6:
            word = syllables(rng)[:length].upper()
        else:
            word = "".join(_ALPHABET[index] for index in rng.integers(26, size=length))
        if is_held_out(word) == held_out:
            return word


@lru_cache(maxsize=256)
def _font(letter_height: int, path: str | None) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if path is None:
        # Capitals of Pillow's built-in font are about 0.72 of its size.
        return ImageFont.load_default(size=letter_height / 0.72)
    _, top, _, bottom = ImageFont.truetype(path, 100).getbbox("H")
    return ImageFont.truetype(path, letter_height * 100 / (bottom - top))


def draw_sign(
    word: str, letter_height: int, rng: np.random.Generator, font_path: str | None = None
) -> Image.Image:
    """A plate with a word.

    Args:
        word: What it says.
        letter_height: Height of the capitals in pixels.
        rng: Chooses the colours and the margins.
        font_path: File of a font; None for Pillow's own.

    Returns:
        An RGBA image just large enough.
    """
    paper, ink = _PLATES[rng.integers(len(_PLATES))]
    if font_path is not None and rng.random() < 0.5:
        light, dark = (int(level) for level in rng.uniform((190, 0), (255, 70)))
        pair = [tuple(int(v) for v in rng.integers(level - 40, level + 1, 3).clip(0))
                for level in (light, dark + 20)]  # fmt: skip
        paper, ink = pair if rng.random() < 0.5 else pair[::-1]
    font = _font(letter_height, font_path)
    _, top, _, bottom = font.getbbox(word, stroke_width=0)
    spacing = max(1, letter_height // 8)
    widths = [font.getlength(letter) for letter in word]
    text_width = sum(widths) + spacing * (len(word) - 1)
    margin_x = int(rng.integers(4, 8)) + letter_height // 5
    margin_y = int(rng.integers(4, 8))
    size = (int(text_width) + 2 * margin_x, int(bottom - top) + 2 * margin_y)
    plate = Image.new("RGBA", size, (*paper, 0))
    pen = ImageDraw.Draw(plate)
    pen.rounded_rectangle(
        (0, 0, size[0] - 1, size[1] - 1), radius=3, fill=(*paper, 255), outline=(*ink, 255)
    )
    x = float(margin_x)
    bold = 0.3 + letter_height / 40 if font_path is None else 0
    for letter, width in zip(word, widths, strict=True):
        pen.text((x, margin_y - top), letter, font=font, fill=(*ink, 255), stroke_width=bold)
        x += width + spacing
    return plate
