"""Rendered images: the same for the same seed, and asked about truthfully."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from recipes.synthetic import SpriteSet, SyntheticConfig, SyntheticSource
from recipes.synthetic import build as builder
from recipes.synthetic.build import Vendor, build
from recipes.synthetic.colours import COLOURS, dominant_colour, tinted
from recipes.synthetic.config import TASKS, VARIETY
from recipes.synthetic.export import write_images
from recipes.synthetic.kinds import (
    COLOURABLE,
    KINDS,
    SIGN,
    SYNONYMS,
    coined,
    kind_of,
    plural,
    with_article,
)
from recipes.synthetic.questions import ASKERS
from recipes.synthetic.referring import phrases
from recipes.synthetic.render import available_kinds, render
from recipes.synthetic.signs import WORDS, invented, is_held_out
from recipes.synthetic.sprites import SHAPE_KINDS, load_sprites
from vlm_fo1.data.regions import build_regions
from vlm_fo1.errors import ConfigError
from vlm_fo1.markup import RELEASED, scan
from vlm_fo1.parser import parse
from vlm_fo1.regions import Regions
from vlm_fo1.tasks import Task, ask_labels

SMALL = SyntheticConfig(objects=(4, 10), signs=(1, 2))


def views(count=40, config=SMALL, seed=7):
    source = SyntheticSource(config, seed)
    return [source.rendered(index) for index in range(count)]


def turns_of(task, count=60, **changes):
    config = replace(SMALL, tasks={task: 1.0}, turns=(2, 4), **changes)
    return [(view, turn) for example, view in views(count, config) for turn in example.turns]


# Pictures


def test_an_image_is_the_same_whenever_its_index_is_asked_for():
    source, other = SyntheticSource(SMALL, 3), SyntheticSource(SMALL, 3)
    source.example(0)
    first, second = source.example(5), other.example(5)
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert np.array_equal(first.regions_xyxy, second.regions_xyxy)
    assert first.turns == second.turns
    another = SyntheticSource(SMALL, 4).example(5)
    assert not np.array_equal(np.asarray(first.image), np.asarray(another.image))


def test_more_questions_do_not_change_the_picture():
    few = SyntheticSource(replace(SMALL, turns=(1, 1)), 1).example(2)
    many = SyntheticSource(replace(SMALL, turns=(8, 8)), 1).example(2)
    assert np.array_equal(np.asarray(few.image), np.asarray(many.image))
    assert np.array_equal(few.regions_xyxy, many.regions_xyxy)
    assert len(few.turns) == 1
    assert len(many.turns) == 8


def test_what_a_config_asks_for_is_kept():
    config = SyntheticConfig(objects=(2, 3), signs=(0, 0), kinds=4, distractors=(0, 0))
    allowed = set(available_kinds(config, load_sprites(None)))
    assert len(allowed) == 4
    for example, view in views(20, config):
        assert {thing.name for thing in view.rendered.objects} <= allowed
        assert 1 <= len(view.rendered.objects) <= 3
        assert len(example.regions_xyxy) == len(view.rendered.objects)


def test_a_larger_number_of_kinds_keeps_those_of_a_smaller():
    orders = [
        available_kinds(SyntheticConfig(kinds=count), load_sprites(None)) for count in (2, 5, 10)
    ]
    assert orders[2][:5] == orders[1]
    assert orders[1][:2] == orders[0]
    assert sorted(orders[2]) == sorted(SHAPE_KINDS)


def test_a_box_is_what_can_be_seen_of_a_thing():
    # One thing on a plain background: the box is where pixels differ from the background.
    config = SyntheticConfig(
        objects=(1, 1), signs=(0, 0), plain_background=1.0, effects=0.0, object_size=(60, 90)
    )
    for example, view in views(15, config):
        pixels = np.asarray(example.image).astype(int)
        background = np.median(pixels.reshape(-1, 3), axis=0)
        differs = np.abs(pixels - background).max(axis=2) > 24
        ys, xs = np.nonzero(differs)
        seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert np.abs(np.array(view.rendered.objects[0].box_xyxy) - seen).max() <= 2


def test_boxes_lie_in_the_picture_and_hidden_things_are_left_out():
    for example, view in views(30, replace(SMALL, objects=(10, 16), overlap=1.0)):
        width, height = view.rendered.image.size
        for thing in view.rendered.objects:
            x1, y1, x2, y2 = thing.box_xyxy
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            assert thing.visible >= (0.98 if thing.text else 0.4)
        assert len(example.regions_xyxy) >= len(view.rendered.objects)


def test_something_is_hidden_in_part_in_crowded_images():
    shown = [
        thing.visible
        for _, view in views(20, replace(SMALL, objects=(10, 16), overlap=1.0))
        for thing in view.rendered.objects
    ]
    assert any(share < 0.9 for share in shown)


def test_signs_show_words_of_the_lexicon():
    assert len(WORDS) >= 120
    assert all(3 <= len(word) <= 6 and word.isupper() for word in WORDS)
    texts = {thing.text for _, view in views(20) for thing in view.rendered.objects if thing.text}
    assert texts
    assert texts <= set(WORDS)


def test_a_tint_is_the_colour_that_its_word_says():
    for name, colour in COLOURS.items():
        assert dominant_colour(tinted(load_sprites(None).pictures["shapes"][0], colour)) == name


def test_names_do_not_contain_each_other():
    names = list(KINDS)
    assert len(names) >= 150
    assert [(a, b) for a in names for b in names if a != b and a in b] == []
    assert set(SHAPE_KINDS) | set(KINDS) >= COLOURABLE
    assert len({code for _, code in KINDS.values()}) == len(names)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        *(("dog", "dogs"), ("cherry", "cherries"), ("mouse", "mice"), ("fish", "fish")),
        *(("box", "boxes"), ("bus", "buses"), ("tomato", "tomatoes"), ("monkey", "monkeys")),
    ],
)
def test_plurals(one, many):
    assert plural(one) == many


def test_articles():
    assert [with_article(w) for w in ("apple", "dog", "unicorn")] == [
        "an apple",
        "a dog",
        "a unicorn",
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"objects": (3, 2)}, "objects"),
        ({"overlap": 1.5}, "overlap"),
        ({"tasks": {"detect": 1.0}}, "detect"),
        ({"tasks": {"detection": 0.0}}, "above 0"),
        ({"labels": (0, 2)}, "labels"),
        ({"turns": (4, 2)}, "turns"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        SyntheticConfig(**values)


@pytest.mark.parametrize(
    "values", [{"kinds": ("circle", "zebra")}, {"kinds": ("circle",)}, {"styles": ("oil",)}]
)
def test_kinds_and_styles_without_pictures_are_refused(values):
    with pytest.raises(ConfigError):
        render(SyntheticConfig(**values), load_sprites(None), np.random.default_rng(0))


def test_a_missing_sprite_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match=r"synthetic\.build"):
        load_sprites(str(tmp_path))


# Vendors, manners, words


def sprite_folder(folder):
    """Three kinds in a vendor that trains, one in the validation's, two in the final one's."""
    names = ["cat", "dog", "car"]
    folder.mkdir()
    styles = {}
    for style, split, drawn in (("a", "train", 3), ("b", "validation", 1), ("c", "final", 2)):
        atlas = Image.new("RGBA", (256, 64))
        for index in range(drawn):
            atlas.paste((200, 30 * index, 30, 255), (64 * index + 4, 4, 64 * index + 60, 60))
        atlas.save(folder / f"{style}.png")
        styles[style] = {"file": f"{style}.png", "split": split}
    index = {"side": 64, "columns": 4, "kinds": names, "styles": styles}
    (folder / "sprites.json").write_text(json.dumps(index))
    return str(folder)


def test_the_vendor_held_out_to_the_end_is_refused_unless_asked_for(tmp_path):
    folder = sprite_folder(tmp_path / "sprites")
    sprites = load_sprites(folder)
    assert sprites.styles == ("a",)
    assert sorted(sprites.pictures) == ["a", "b"]
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="final = true"):
        render(SyntheticConfig(styles=("c",)), sprites, rng)
    config = SyntheticConfig(sprites=folder, styles=("c",), final=True)
    example, view = SyntheticSource(config).rendered(0)
    assert {thing.style for thing in view.rendered.objects} <= {"c", "sign"}
    assert len(example.turns) == 6


def test_a_kind_that_a_style_does_not_draw_is_drawn_in_another_or_not_at_all(tmp_path):
    sprites = load_sprites(sprite_folder(tmp_path / "sprites"), final=True)
    both = SyntheticConfig(styles=("a", "b"), signs=(0, 0))
    assert available_kinds(both, sprites) != available_kinds(replace(both, styles=("c",)), sprites)
    assert sorted(available_kinds(replace(both, styles=("c",)), sprites)) == ["cat", "dog"]
    seen = set()
    for seed in range(12):
        for thing in render(both, sprites, np.random.default_rng(seed)).objects:
            seen.add((thing.name, thing.style))
    assert seen == {("cat", "a"), ("cat", "b"), ("dog", "a"), ("car", "a")}
    with pytest.raises(ConfigError, match="at least 2"):
        available_kinds(replace(both, styles=("b",)), sprites)


def archive(path, members):
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))


def test_a_package_that_is_not_the_known_one_is_left_out_and_the_rest_is_built(
    tmp_path, monkeypatch
):
    file = io.BytesIO()
    Image.new("RGBA", (20, 10), (255, 0, 0, 255)).save(file, "PNG")
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("good", "bad"):
        archive(packages / f"{name}-1.tgz", {"img/1f431.png": file.getvalue(), "img/x.png": b""})
    vendors = (
        Vendor("bad", "train", "bad@1", "0123", "none", "img"),
        Vendor("good", "train", "good@1", "", "none", "img"),
    )
    monkeypatch.setattr(builder, "VENDORS", vendors)
    monkeypatch.setattr(builder, "FONTS", {})
    monkeypatch.setattr(builder, "TEXTURES", ())
    problems = build(tmp_path / "out", packages)
    assert any("bad-1.tgz has SHA-256" in problem for problem in problems)
    assert not any(problem.startswith("good") for problem in problems)
    sprites = SpriteSet.load(tmp_path / "out")
    assert sprites.drawn == {"good": {"cat"}}
    assert sprites.picture("cat", "good").shape == (32, 64, 4)


def test_boxes_are_exact_whatever_the_manner():
    variety = {"tilted": 1.0, "lines": 0.5, "coarse": 0.5, "recoloured": 1.0, "posterised": 0.3}
    config = SyntheticConfig(
        objects=(1, 1),
        signs=(0, 0),
        plain_background=1.0,
        effects=0.0,
        object_size=(60, 90),
        variety=variety,
        coloured=0.0,
    )
    for seed in range(20):
        rendered = render(config, load_sprites(None), np.random.default_rng(seed))
        pixels = np.asarray(rendered.image).astype(int)
        background = np.median(pixels.reshape(-1, 3), axis=0)
        ys, xs = np.nonzero(np.abs(pixels - background).max(axis=2) > 6)
        seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(np.array(rendered.objects[0].box_xyxy) - seen).max() <= 3


def test_a_colour_word_is_true_after_the_colours_have_changed():
    config = replace(SMALL, variety={"recoloured": 1.0}, coloured=0.0, signs=(0, 0))
    words = {
        thing.colour
        for seed in range(30)
        for thing in render(config, load_sprites(None), np.random.default_rng(seed)).objects
    }
    assert words & set(COLOURS)  # the brown of drawn shapes has no word: these were measured
    assert words <= {*COLOURS, None}
    grey = replace(SMALL, variety={"grey": 1.0}, coloured=1.0, plain_background=1.0)
    rendered = render(grey, load_sprites(None), np.random.default_rng(0))
    assert {thing.colour for thing in rendered.objects} == {None}
    assert rendered.background is None
    assert np.ptp(np.asarray(rendered.image).astype(int), axis=2).max() == 0


def test_every_manner_can_happen_and_changes_the_image():
    sprites = replace(load_sprites(None), textures=(np.full((60, 80, 3), 90, np.uint8),))
    plain = replace(SMALL, plain_background=0.0, coloured=0.0)
    usual = np.asarray(render(plain, sprites, np.random.default_rng(3)).image)
    for name in set(VARIETY) - {"font"}:
        config = replace(plain, variety={name: 1.0})
        image = np.asarray(render(config, sprites, np.random.default_rng(3)).image)
        assert image.shape == usual.shape
        assert not np.array_equal(image, usual), name
    with pytest.raises(ConfigError, match="oil"):
        SyntheticConfig(variety={"oil": 0.5})
    with pytest.raises(ConfigError, match="shares"):
        SyntheticConfig(variety={"blur": 2.0})


def test_a_kind_may_go_by_another_name_that_means_no_other():
    names = [*KINDS, *SYNONYMS]
    assert len(set(names)) == len(names)
    mixed = [(a, b) for a in names for b in names if a in b and kind_of(a) != kind_of(b)]
    assert mixed == []
    assert set(SYNONYMS.values()) <= set(KINDS)
    sprites = replace(
        load_sprites(None), kinds=("cat", "dog", "car", "bus", "book", *SHAPE_KINDS[5:])
    )
    seen = set()
    for seed in range(6):
        config = SyntheticConfig(synonyms=0.5, coined=("book",))
        rendered = render(config, sprites, np.random.default_rng(seed))
        seen |= {thing.name for thing in rendered.objects}
        assert {thing.name for thing in rendered.objects} <= {*rendered.kinds, SIGN}
        assert len({kind_of(name) for name in rendered.kinds}) == 10
        assert coined("book") in rendered.kinds
    assert seen & set(SYNONYMS)
    assert "book" not in seen
    assert len({coined(kind) for kind in KINDS} | set(names)) == 2 * len(KINDS) + len(SYNONYMS)


def test_signs_show_any_letters_and_held_out_words_stay_out():
    rng = np.random.default_rng(0)
    words = [invented(rng) for _ in range(300)]
    assert {len(word) for word in words} == {3, 4, 5, 6, 7, 8}
    assert len(set("".join(words))) == 26
    assert all(word.isupper() and not is_held_out(word) for word in words)
    unseen = {invented(rng, held_out=True) for _ in range(40)}
    assert all(is_held_out(word) and word not in WORDS for word in unseen)
    config = replace(SMALL, signs=(2, 2), held_out_words=True)
    texts = {t.text for _, view in views(6, config) for t in view.rendered.objects if t.text}
    assert texts
    assert all(is_held_out(text) for text in texts)


# Questions


@pytest.mark.parametrize("absent_style", ["omit", "none"])
def test_every_answer_reads_back_without_a_problem(absent_style):
    tasks = dict.fromkeys(TASKS, 1.0)
    seen = set()
    for example, _ in views(60, replace(SMALL, tasks=tasks, absent_style=absent_style)):
        for turn in example.turns:
            seen.add(turn.task)
            found = scan(turn.answer)
            assert found.problems == ()
            for mention in found.mentions:
                assert max(mention.numbers, default=0) < len(example.regions_xyxy)
                assert list(mention.numbers) == sorted(set(mention.numbers))
    assert seen == {*TASKS}
    assert set(ASKERS) == {Task(task) for task in TASKS}


def names_at(view, numbers):
    truth = view.regions.truth
    return [view.rendered.objects[truth[n]].name for n in numbers]


def test_detection_names_all_and_only_the_regions_of_its_labels():
    absent = 0
    for view, turn in turns_of("detection"):
        labels = turn.question.removeprefix("Please detect ").split(" in this image")[0].split(", ")
        mentions = {m.label: m.numbers for m in scan(turn.answer).mentions}
        for label in labels:
            truth = [
                region
                for region, owner in enumerate(view.regions.truth)
                if owner >= 0 and view.rendered.objects[owner].name == label
            ]
            assert list(mentions.get(label, ())) == truth
            absent += not truth
        assert [label for label in labels if label in mentions] == list(mentions)
        if not mentions:
            assert turn.answer == "None"
    assert absent


def test_absent_labels_can_be_spelt_out():
    texts = [turn.answer for _, turn in turns_of("detection", absent_style="none")]
    assert any("<objects>None</objects>" in text for text in texts)
    assert "None" not in texts


def test_a_count_is_what_stands_in_the_picture():
    counts = set()
    for view, turn in turns_of("counting"):
        label = turn.question.removeprefix("How many ").split(" are there")[0]
        regions = Regions(view.regions.xyxy, view.rendered.image.size)
        answer = parse(turn.answer, regions, ask_labels(Task.COUNTING, label))
        names = [thing.name for thing in view.rendered.objects]
        truth = names.count(label) or [plural(name) for name in names].count(label)
        assert answer.count == truth
        assert answer.problems == ()
        counts.add(truth)
    assert counts >= {0, 1, 2, 3}


def test_a_reference_means_one_thing_of_its_kind():
    forms = set()
    for _, view in views(60, replace(SMALL, coloured=1.0, objects=(5, 12))):
        for form, found in phrases(view).items():
            forms.add(form)
            texts = [phrase for phrase, _ in found]
            assert len(texts) == len(set(texts))
            for phrase, item in found:
                assert item.thing.name in phrase
                same = view.by_name[item.thing.name]
                if phrase.startswith("the largest"):
                    assert item.box_area == max(other.box_area for other in same)
                if phrase.startswith("the leftmost"):
                    assert item.x == min(other.x for other in same)
                if form == "colour":
                    colours = [other.thing.colour for other in same]
                    assert colours.count(item.thing.colour) == 1
                if form == "negation":
                    assert phrase.endswith(tuple(COLOURS))
                    assert not phrase.endswith(f" {item.thing.colour}")
    assert forms >= {"size", "end", "colour", "negation", "side", "near", "text", "only"}


def test_captions_and_reading_say_what_stands_in_the_region():
    for view, turn in turns_of("brief_caption", 20):
        region = int(RELEASED.tag_pattern().findall(turn.question)[0])
        owner = view.regions.truth[region]
        if owner < 0:
            assert turn.answer == "background"
            continue
        thing = view.rendered.objects[owner]
        assert (thing.text or thing.name) in turn.answer
        assert thing.colour is None or thing.colour in turn.answer
    for view, turn in turns_of("region_ocr", 20):
        if turn.task != Task.REGION_OCR:
            continue
        region = int(RELEASED.tag_pattern().findall(turn.question)[0])
        assert view.rendered.objects[view.regions.truth[region]].text == turn.answer


def test_a_visual_prompt_is_answered_with_the_others_of_its_kind():
    for view, turn in turns_of("visual_prompt"):
        region = int(RELEASED.tag_pattern().findall(turn.question)[0])
        name = names_at(view, [region])[0]
        numbers = [n for mention in scan(turn.answer).mentions for n in mention.numbers]
        assert region not in numbers
        assert names_at(view, numbers) == [name] * len(numbers)
        assert len(numbers) == len(view.by_name[name]) - 1


def test_a_grounded_caption_says_how_many_it_points_at():
    for view, turn in turns_of("grounded_caption", 20):
        for mention in scan(turn.answer).mentions:
            names = set(names_at(view, mention.numbers))
            assert len(names) == 1
            name = names.pop()
            assert mention.label.endswith(name if len(mention.numbers) == 1 else plural(name))


def test_questions_about_the_picture_are_answered_truly():
    asked = set()
    for view, turn in turns_of("free", 80, no_regions=1.0):
        assert not len(view.regions.xyxy)
        assert turn.answer
        names = [thing.name for thing in view.rendered.objects]
        asked.add(turn.question.split()[0])
        if turn.question.startswith("Is there"):
            name = turn.question.split()[3]
            assert turn.answer == ("yes" if name in names else "no")
        if turn.question.startswith("How many kinds"):
            assert int(turn.answer) == len(set(names))
        if turn.question.startswith("How many things"):
            assert int(turn.answer) == len(names)
    assert asked >= {"Is", "How", "What", "Are"}


def test_reasoning_thinks_with_regions_and_then_answers():
    forms = set()
    for view, turn in turns_of("reasoning"):
        if turn.task != Task.REASONING:
            continue
        assert turn.answer.startswith("<think>")
        assert turn.answer.endswith("</answer>")
        assert len(view.items) == len(view.rendered.objects)
        forms.add(turn.question.split("better. ")[1].split()[0])
    assert forms >= {"Are", "Is", "What"}


def test_things_without_a_region_are_not_asked_for_as_absent():
    for view, turn in turns_of("detection", 30, drop=0.6, absent=1.0):
        labels = turn.question.removeprefix("Please detect ").split(" in this image")[0].split(", ")
        for label in labels:
            assert label not in view.names or label in turn.answer


# Regions


def test_ground_truth_stands_for_itself_and_near_copies_give_way():
    truth = np.array([[10, 10, 60, 60], [100, 100, 160, 150]], np.float32)
    proposals = [[10, 10, 61, 60], [12, 14, 58, 66], [200, 20, 240, 60]]
    built = build_regions(
        truth,
        (256, 256),
        np.random.default_rng(0),
        proposals_xyxy=proposals,
        jitter=0.0,
        distractors=(0, 0),
    )
    assert sorted(map(tuple, built.xyxy.tolist())) == sorted(
        map(tuple, [*truth.tolist(), [200, 20, 240, 60]])
    )
    for region, owner in enumerate(built.truth):
        if owner >= 0:
            assert built.xyxy[region].tolist() == truth[owner].tolist()


def test_regions_keep_to_the_limit_and_truth_comes_first():
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 900, (120, 2))
    truth = np.concatenate([corners, corners + 30], axis=1)
    built = build_regions(truth, (1000, 1000), rng, distractors=(10, 10))
    assert len(built.xyxy) == 100
    assert (built.truth >= 0).all()
    assert len(set(built.truth.tolist())) == 100


def test_dropped_boxes_have_no_region_and_none_is_fine():
    built = build_regions([[0, 0, 20, 20]], (64, 64), np.random.default_rng(0), drop=1.0)
    assert (built.truth < 0).all()
    built = build_regions([], (64, 64), np.random.default_rng(0), distractors=(0, 0))
    assert built.xyxy.shape == (0, 4)


def test_distractors_are_not_the_things():
    from vlm_fo1.boxes import iou

    for _, view in views(20, replace(SMALL, distractors=(5, 8))):
        nothing = view.regions.xyxy[view.regions.truth < 0]
        if len(nothing):
            assert iou(nothing, view.rendered.boxes_xyxy).max() <= 0.46


# Streams and files


def test_images_are_written_as_coco_and_as_records(tmp_path):
    from vlm_fo1.data import check_file, read_examples

    written = write_images(SyntheticSource(SMALL, 0), tmp_path, range(3))
    content = json.loads((tmp_path / "coco.json").read_text())
    assert written["images"] == 3 == len(content["images"])
    assert written["boxes"] == len(content["annotations"])
    assert {row["name"] for row in content["categories"]} >= {SIGN, "circle"}
    assert check_file(tmp_path / "records.jsonl") == []
    examples = list(read_examples(tmp_path / "records.jsonl"))
    assert sum(len(example.turns) for example in examples) == written["questions"]
    assert np.allclose(
        examples[1].regions_xyxy, SyntheticSource(SMALL, 0).example(1).regions_xyxy, atol=0.01
    )
