from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from vlm_fo1.answer import Answer, Mention
from vlm_fo1.draw import draw_regions, labels
from vlm_fo1.draw import regions as draw
from vlm_fo1.draw.labels import Item
from vlm_fo1.errors import ConfigError, ImageError
from vlm_fo1.regions import Regions

ORANGE, SKY = (230, 159, 0), (86, 180, 233)
SIZES = [(28, 28), (64, 48), (640, 480), (200, 2000), (8000, 30), (3000, 2000)]


def draw_answer(image, answer, **options):
    return answer.draw(image, **options)


def blank(size_wh=(640, 480)):
    return Image.new("RGB", size_wh, (40, 40, 40))


def scattered(count, size_wh, **fields):
    random = np.random.default_rng(count)
    sides = random.uniform(0.05, 0.3, (count, 2)) * size_wh
    corners = random.uniform(0, 1, (count, 2)) * (size_wh - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    return Regions(boxes, size_wh, **fields)


def about(regions, **indices):
    """An answer that points at regions: label=indices."""
    mentions = tuple(
        Mention(label, tuple(which), (0.93,) * len(which)) for label, which in indices.items()
    )
    return Answer("", regions, mentions, labels=tuple(indices))


def one_box(x1, y1, x2, y2, size_wh=(640, 480), **fields):
    return Regions(np.array([[x1, y1, x2, y2]], np.float32), size_wh, **fields)


def badges_of(answer, image_wh, monkeypatch, **options):
    """What `draw_answer` places on an image, in reading order of numbers."""
    seen = []
    place = draw.place_badges
    monkeypatch.setattr(draw, "place_badges", lambda *args: seen.extend(place(*args)) or seen)
    draw_answer(blank(image_wh), answer, **options)
    return sorted(seen, key=lambda badge: int(badge.item.number or 0))


def pixels(image, colour):
    return int((np.asarray(image) == colour).all(axis=2).sum())


@pytest.mark.parametrize("size_wh", SIZES)
@pytest.mark.parametrize("count", [1, 10, 60])
def testlabels_stay_inside_the_image_and_off_each_other(size_wh, count, monkeypatch):
    answer = about(
        scattered(count, size_wh),
        orange=range(0, count, 2),
        **{"a long caption of a person in a red coat who walks": range(1, count, 2)},
    )
    badges = badges_of(answer, size_wh, monkeypatch)
    assert badges
    cover = np.zeros(size_wh[::-1], int)
    for badge in badges:
        left, top, right, bottom = badge.rect
        assert 0 <= left < right <= size_wh[0]
        assert 0 <= top < bottom <= size_wh[1]
        cover[top:bottom, left:right] += 1
    assert (cover > 1).sum() <= 0.15 * (cover > 0).sum()


def test_ten_regions_on_an_ordinary_image_are_all_named_in_full(monkeypatch):
    answer = about(scattered(10, (640, 480)), orange=range(5), apple=range(5, 10))
    badges = badges_of(answer, (640, 480), monkeypatch)
    assert [badge.lines for badge in badges] == [
        (f"{i} {'orange' if i < 5 else 'apple'} 0.93",) for i in range(10)
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "0 orange 0.93"),
        ({"numbers": False}, "orange 0.93"),
        ({"show_confidence": False}, "0 orange"),
        ({"numbers": False, "show_confidence": False}, "orange"),
    ],
)
def test_a_badge_says_what_was_asked_for(options, line, monkeypatch):
    answer = about(one_box(200, 200, 300, 300), orange=[0])
    (badge,) = badges_of(answer, (640, 480), monkeypatch, **options)
    assert badge.lines == (line,)


def test_unknown_confidence_is_not_written(monkeypatch):
    regions = one_box(200, 200, 300, 300)
    for confidence in (None, (float("nan"),)):
        answer = Answer("", regions, (Mention("orange", (0,), confidence),))
        with monkeypatch.context() as patch:
            (badge,) = badges_of(answer, (640, 480), patch)
        assert badge.lines == ("0 orange",)


def test_a_badge_stands_above_its_box_where_there_is_room(monkeypatch):
    (badge,) = badges_of(about(one_box(200, 200, 300, 300), cat=[0]), (640, 480), monkeypatch)
    assert badge.rect[0] == 200
    assert badge.rect[3] == 200


def test_a_badge_stands_below_a_box_at_the_top(monkeypatch):
    (badge,) = badges_of(about(one_box(200, 0, 300, 90), cat=[0]), (640, 480), monkeypatch)
    assert badge.rect[1] == 90


def test_a_badge_stands_inside_a_box_that_fills_the_image(monkeypatch):
    (badge,) = badges_of(about(one_box(0, 0, 640, 480), cat=[0]), (640, 480), monkeypatch)
    assert badge.rect[:2] == (0, 0)


def test_a_caption_takes_two_lines_and_then_an_ellipsis(monkeypatch):
    caption = "A wooden table with a white bowl that holds several ripe oranges and one green apple"
    answer = about(one_box(300, 200, 350, 250), **{caption: [0]})
    (badge,) = badges_of(answer, (640, 480), monkeypatch)
    first, second = badge.lines
    assert caption.startswith(first.removeprefix("0 "))
    assert second.endswith("… 0.93")
    assert second.removesuffix("… 0.93") in caption
    assert badge.rect[2] - badge.rect[0] < 400


def test_a_long_word_is_broken(monkeypatch):
    answer = about(one_box(0, 0, 20, 20, (100, 400)), **{"x" * 300: [0]})
    (badge,) = badges_of(answer, (100, 400), monkeypatch)
    assert len(badge.lines) == 2
    assert badge.rect[2] <= 100


@pytest.mark.parametrize(("label", "line"), [("cat", "0 cat 0.93"), ("orange", "0 orange")])
def test_on_a_tiny_image_the_confidence_goes_before_the_label_is_cut(label, line, monkeypatch):
    answer = about(one_box(30, 30, 40, 40, (64, 48)), **{label: [0]})
    (badge,) = badges_of(answer, (64, 48), monkeypatch)
    assert badge.lines == (line,)


@pytest.mark.parametrize(
    "label",
    ["一只猫", "😀👩‍👩‍👧", "قطة", "a\x00b\n\tc", "\ud800", "\u200b", "", "e\u0301" * 50, "🇩🇪"],
)
def test_no_label_is_beyond_drawing(label):
    answer = about(one_box(200, 200, 300, 300), **{label: [0]})
    assert pixels(draw_answer(blank(), answer), ORANGE) > 100


def test_accents_are_taken_off_where_no_font_has_them(monkeypatch):
    monkeypatch.setattr(labels, "_FALLBACK_FONTS", ())
    (badge,) = badges_of(
        about(one_box(200, 200, 300, 300), **{"café crème": [0]}), (640, 480), monkeypatch
    )
    assert badge.lines == ("0 cafe creme 0.93",)


def test_ascii_labels_are_written_in_the_font_that_pillow_brings(monkeypatch):
    answer = about(one_box(9, 90, 99, 190), **{"a 'cat' & <dog> 100%": [0]})
    (badge,) = badges_of(answer, (640, 480), monkeypatch)
    own = ImageFont.load_default(10)
    assert isinstance(own, ImageFont.FreeTypeFont)
    assert badge.font.getname() == own.getname()


def test_a_label_has_one_colour_in_the_order_of_the_answer():
    regions = scattered(3, (640, 480))
    answer = Answer("", regions, (Mention("dog", (1,)),), labels=("cat", "dog"))
    image = draw_answer(blank(), answer)
    assert pixels(image, SKY) > 100
    assert pixels(image, ORANGE) == 0


def test_text_stands_out_from_every_colour_of_the_palette():
    def luminance(colour):
        linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 3294 for c in colour]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    for colour in draw._PALETTE:
        low, high = sorted([luminance(colour), luminance(labels.contrast(colour))])
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_the_outline_lies_inside_its_box():
    answer = about(one_box(100, 100, 200, 200), cat=[0])
    image = draw_answer(blank(), answer, line_width=3, font_size=10)
    row = np.asarray(image)[150]
    assert np.flatnonzero((row == ORANGE).all(axis=1)).tolist() == [100, 101, 102, 197, 198, 199]


def test_a_region_under_two_labels_shows_both():
    regions = one_box(100, 100, 200, 200)
    image = draw_answer(blank(), about(regions, cat=[0], animal=[0]), line_width=3)
    row = np.asarray(image)[150, 100:110]
    assert (row == ORANGE).all(axis=1).any()
    assert (row == SKY).all(axis=1).any()


def test_regions_that_were_not_chosen_appear_when_asked():
    regions = Regions(np.array([[10, 10, 60, 60], [300, 300, 400, 400]], np.float32), (640, 480))
    answer = about(regions, cat=[0])
    corner = (300, 300, 410, 410)
    assert not np.ptp(np.asarray(draw_answer(blank(), answer).crop(corner)), axis=(0, 1)).any()
    shown = np.asarray(draw_answer(blank(), answer, show_unchosen=True).crop(corner))
    assert np.ptp(shown, axis=(0, 1)).all()


def test_masks_are_blended_in():
    mask = np.zeros((1, 480, 640), bool)
    mask[0, 150:160, 150:160] = True
    regions = one_box(100, 100, 200, 200, masks=mask)
    image = draw_answer(blank(), about(regions, cat=[0]))
    assert image.getpixel((165, 165)) == (40, 40, 40)
    red, green, blue = np.asarray(image)[155, 155].tolist()
    assert 40 < red < ORANGE[0]
    assert 40 < green < ORANGE[1]
    assert blue < 40


def test_an_answer_without_mentions_is_the_image_alone():
    image = blank()
    image = draw_answer(image, about(scattered(5, (640, 480)), cat=[]))
    assert image.tobytes() == image.tobytes()


def test_the_image_is_not_changed():
    image = blank()
    before = image.tobytes()
    draw_answer(image, about(scattered(5, (640, 480)), cat=range(5)))
    assert image.tobytes() == before


def test_the_same_answer_gives_the_same_image():
    answer = about(scattered(30, (640, 480)), cat=range(30))
    assert draw_answer(blank(), answer).tobytes() == draw_answer(blank(), answer).tobytes()


@pytest.mark.parametrize(
    "box", [[-50, -50, 30, 30], [600, 400, 900, 900], [5, 5, 5, 5], [0, 0, 0.2, 0.2]]
)
def test_boxes_at_the_edge_are_drawn_as_far_as_they_are_inside(box):
    assert pixels(draw_answer(blank(), about(one_box(*box), cat=[0])), ORANGE) > 0


def test_a_box_outside_the_image_is_not_drawn():
    image = blank()
    answer = about(one_box(700, 10, 800, 50), cat=[0])
    assert draw_answer(image, answer).tobytes() == image.tobytes()


def test_the_image_can_be_shrunk_but_not_enlarged():
    answer = about(one_box(300, 300, 600, 450), cat=[0])
    small = draw_answer(blank(), answer, max_side=320, line_width=1)
    assert small.size == (320, 240)
    column = np.asarray(small)[:, 225]
    assert (column[[150, 224]] == ORANGE).all()
    assert draw_answer(blank(), answer, max_side=10_000).size == (640, 480)


def test_masks_shrink_with_the_image():
    regions = one_box(0, 0, 640, 480, masks=np.ones((1, 480, 640), bool))
    small = draw_answer(blank(), about(regions, cat=[0]), max_side=64)
    assert np.asarray(small)[40, 40, 0] > 40


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ImageError, match=r"is 320 x 240 pixels .* one of 640 x 480: pass the"):
        draw_answer(blank((320, 240)), about(one_box(0, 0, 9, 9), cat=[0]))


@pytest.mark.parametrize("option", [{"line_width": 0}, {"font_size": 0}, {"max_side": 0}])
def test_sizes_below_a_pixel_are_refused(option: dict[str, Any]):
    answer = about(one_box(0, 0, 9, 9), cat=[0])
    with pytest.raises(ConfigError, match=f"{next(iter(option))} is 0: pass at least 1 pixel"):
        draw_answer(blank(), answer, **option)


@pytest.mark.parametrize("options", [{"line_width": 500}, {"font_size": 400}, {"font_size": 1}])
def test_sizes_far_from_reason_are_drawn_all_the_same(options):
    answer = about(scattered(3, (64, 48)), cat=range(3))
    assert draw_answer(blank((64, 48)), answer, **options).size == (64, 48)


def test_bare_regions_take_turns_in_colour():
    regions = Regions(np.array([[10, 50, 90, 90], [200, 200, 300, 300]], np.float32), (640, 480))
    image = draw_regions(blank(), regions)
    assert pixels(image, ORANGE) > 100
    assert pixels(image, SKY) > 100


def test_regions_of_one_label_share_a_colour():
    boxes = np.array([[10, 50, 90, 90], [200, 200, 300, 300]], np.float32)
    image = draw_regions(blank(), Regions(boxes, (640, 480), labels=("cat", "cat")))
    assert pixels(image, SKY) == 0


def test_scores_of_proposals_are_written_when_asked(monkeypatch):
    seen = []
    write = draw.write_badges
    monkeypatch.setattr(draw, "write_badges", lambda *args: seen.extend(write(*args)) or seen)
    regions = one_box(100, 100, 200, 200, scores=np.array([0.456], np.float32), labels=("cat",))
    draw_regions(blank(), regions, show_scores=True)
    draw_regions(blank(), regions)
    assert [badge.lines for badge in seen[:2]] == [("0 cat 0.46",), ("0 cat",)]


def test_no_regions_are_the_image_alone():
    image = blank()
    assert draw_regions(image, Regions.empty((640, 480))).tobytes() == image.tobytes()


def test_a_badge_that_had_to_move_away_is_tied_to_its_region(monkeypatch):
    item = Item(rect=(300, 300, 310, 310), colour=ORANGE, number="0", label="cat")
    (badge,) = labels.write_badges([item], 12, (640, 480))
    moved = draw.place_badges([badge], [item], (640, 480))[0]
    assert moved.rect[3] == 300
    away = type(badge)(item=item, lines=badge.lines, font=badge.font, pad=2, rect=(10, 10, 60, 30))
    monkeypatch.setattr(draw, "place_badges", lambda *_: [away])
    answer = about(one_box(300, 300, 310, 310), cat=[0])
    image = np.asarray(draw_answer(blank(), answer))
    assert (image[100:250, 60:300] == ORANGE).all(axis=2).sum() > 100
