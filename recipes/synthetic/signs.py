"""Plates with a printed word. The letters are Pillow's own, so every machine draws the same."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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

_PLATES = (
    ((245, 245, 240), (25, 25, 30)),
    ((250, 215, 60), (30, 25, 20)),
    ((25, 90, 60), (245, 245, 240)),
    ((30, 60, 140), (245, 245, 240)),
    ((185, 25, 35), (250, 250, 245)),
    ((35, 35, 40), (250, 230, 120)),
    ((240, 230, 210), (110, 40, 30)),
)


@lru_cache(maxsize=64)
def _font(letter_height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Capitals of Pillow's built-in font are about 0.72 of its size.
    return ImageFont.load_default(size=letter_height / 0.72)


def draw_sign(word: str, letter_height: int, rng: np.random.Generator) -> Image.Image:
    """A plate with a word.

    Args:
        word: What it says.
        letter_height: Height of the capitals in pixels.
        rng: Chooses the colours and the margins.

    Returns:
        An RGBA image just large enough.
    """
    paper, ink = _PLATES[rng.integers(len(_PLATES))]
    font = _font(letter_height)
    left, top, right, bottom = font.getbbox(word, stroke_width=0)
    spacing = max(1, letter_height // 8)
    widths = [font.getlength(letter) for letter in word]
    text_width = sum(widths) + spacing * (len(word) - 1)
    margin_x = int(rng.integers(4, 8)) + letter_height // 5
    margin_y = int(rng.integers(4, 8))
    size = (int(text_width) + 2 * margin_x, int(bottom - top) + 2 * margin_y)
    del left, right
    plate = Image.new("RGBA", size, (*paper, 0))
    pen = ImageDraw.Draw(plate)
    pen.rounded_rectangle(
        (0, 0, size[0] - 1, size[1] - 1), radius=3, fill=(*paper, 255), outline=(*ink, 255)
    )
    x = float(margin_x)
    bold = 0.3 + letter_height / 40
    for letter, width in zip(word, widths, strict=True):
        pen.text((x, margin_y - top), letter, font=font, fill=(*ink, 255), stroke_width=bold)
        x += width + spacing
    return plate
