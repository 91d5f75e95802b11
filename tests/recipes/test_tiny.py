"""The bundled model's recipe, at a size that trains in seconds: every idea, and the whole of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.progress import Progress
from safetensors.torch import load_file
from torch import nn

from recipes.synthetic.kinds import KINDS
from recipes.synthetic.questions import ask
from recipes.synthetic.referring import distance
from recipes.tiny.__main__ import main, train
from recipes.tiny.code import LISTS, Code, truth_of, word_ids
from recipes.tiny.drills import most_extreme, nearest_to_tag
from recipes.tiny.features import load
from recipes.tiny.imagined import imagine
from recipes.tiny.language import LanguageLesson
from recipes.tiny.muon import orthogonal
from recipes.tiny.network import LOUD, build
from recipes.tiny.recipe import RECIPE, Lesson, Recipe, read_recipe
from recipes.tiny.rows import Rows
from recipes.tiny.towers import INPUTS, look_at, source
from recipes.tiny.words import build_tokenizer, id_of, words
from vlm_fo1 import FO1
from vlm_fo1.config import build as build_config
from vlm_fo1.data.collate import Collator
from vlm_fo1.data.example import Example
from vlm_fo1.errors import CheckpointError, ConfigError
from vlm_fo1.model.modeling import EncodedImages, FO1ForConditionalGeneration
from vlm_fo1.tasks import TASKS
from vlm_fo1.train.loss import answer_loss
from vlm_fo1.train.metrics import read_log
from vlm_fo1.train.sets import alternatives

NETWORK: dict[str, Any] = {
    "host_config": {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "vision_config": {
            "depth": 1, "hidden_size": 32, "intermediate_size": 40,
            "num_heads": 1, "patch_size": 14, "spatial_merge_size": 2,
            "deepstack_visual_indexes": [], "num_position_embeddings": 144,
            "out_hidden_size": 64,
        },
        "text_config": {
            "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32,
            "hidden_act": "relu2", "max_position_embeddings": 4096, "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5],
            },
        },
    },
    "auxiliary_config": {
        "embed_dim": [32] * 4, "depths": [1] * 4, "num_heads": [1] * 4, "num_groups": [1] * 4,
        "window_size": 8, "patch_size": [8, 3, 3, 3], "patch_stride": [6, 2, 2, 2],
        "patch_padding": [1] * 4, "patch_prenorm": [False, True, True, True],
    },
    "region_config": {
        "pyramid_channels": 16, "pyramid_strides": [7.0, 14.0],
        "auxiliary_strides": [6, 12, 24, 48],
    },
    "image_connector": "mlp2x_gelu",
    "region_connector": "mlp2x_gelu",
}  # fmt: skip
STAGE = {"steps": 4, "batch_size": 2, "save_every": 2, "schedule": {"name": "constant"}}
TEXT = [
    {"pattern": "*.embed_tokens.weight", "lr": 0.001, "rows": "new_tokens"},
    {"pattern": "model.host.model.language_model", "lr": 0.001},
]
VALUES: dict[str, Any] = {
    "network": NETWORK,
    "threads": 1,
    "renderers": 0,
    "images": {"objects": [2, 4], "kinds": ["star", "moon", "diamond"], "words": ["STOP", "EXIT"]},
    "towers": [
        {
            "name": "see",
            "train": [
                {"pattern": pattern, "lr": 0.002}
                for pattern in ("model.host.model.visual", "model.image_connector", "norms.image",
                                "sharpness")
            ],
            "mixture": {"learns": "cells"},
            **STAGE,
        },
        {
            "name": "align",
            "train": [
                {"pattern": pattern, "lr": 0.002}
                for pattern in ("model.auxiliary", "model.region_encoder", "model.region_connector",
                                "norms.region", "sharpness")
            ],
            "mixture": {"learns": "regions"},
            **STAGE,
        },
    ],
    "features": 5,
    "sides": [96, 112],
    "judged": 1,
    "language": [
        {"name": "look-up", "train": TEXT, "mixture": {"drill": 1.0, "regions": 3},
         **STAGE, "steps": 40, "save_every": 0},
        {
            "name": "phrases",
            "train": TEXT,
            "mixture": {
                "drill": 0.5, "refer": 0.6, "refer_short": 0.3, "regions": 5, "plain_share": 0.3,
                "refer_forms": {"end": 2.0, "extreme": 1.0, "tagged": 1.0}, "seen_share": 0.3,
                "tasks": {"detection": 1.0, "counting": 1.0, "free": 1.0},
            },
            **STAGE,
        },
    ],
}  # fmt: skip
MICRO = build_config(Recipe, VALUES)


class KilledError(Exception):
    """The process is gone."""


class KilledAt(Progress):
    """Ends the run without a word at a step of a stage."""

    def __init__(self, stage: str, step: int) -> None:
        super().__init__(disable=True)
        self.stage, self.step = stage, step

    def update(self, task_id: Any, **values: Any) -> None:
        if self.tasks[task_id].description == self.stage and values.get("completed") == self.step:
            raise KilledError


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run that was killed in the middle of a stage of each kind, and between batches."""
    folder = tmp_path_factory.mktemp("run")
    for stage, step in (("see", 3), ("align", 2), ("features", 2), ("phrases", 3)):
        with pytest.raises(KilledError):
            train(MICRO, None, folder, KilledAt(stage, step))
    assert train(MICRO, None, folder) == folder / "language" / "phrases"
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert train(MICRO, None, folder)
    return folder


@pytest.fixture(scope="module")
def small():
    return build(0, NETWORK)


@pytest.fixture(scope="module")
def code(small) -> Code:
    model, processor = small
    return Code(word_ids(processor.tokenizer), model.get_input_embeddings().weight)


def view_of(seed: int = 0, regions: int = 6):
    kinds = ("dog", "cat", "car", "star", "apple")
    return imagine(kinds, ("STOP", "EXIT", "TAXI"), regions, np.random.default_rng(seed))


def test_the_committed_recipe_reads():
    recipe = read_recipe(RECIPE)
    assert [stage.name for stage in recipe.language][:3] == ["look-up", "questions", "general"]
    assert set(recipe.images["kinds"]) <= set(KINDS)
    model, _ = build(0, recipe.network)
    assert 6.6e6 < sum(p.numel() for p in model.parameters()) < 6.8e6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("language.0.mixture.drill=2", "drill = 2.0 is a share"),
        ("language.1.mixture.tasks={telling: 1}", "unknown"),
        ("language.1.mixture.regions=1", "at least 2"),
        ("language.2.mixture.seen_share=0.9", "shares of one whole"),
        ("language.0.mixture.drills=1", "did you mean"),
        ("images.sprites=here", "--sprites"),
        ("images.kinds=3", "list those that appear"),
        ("towers.1.mixture.images={size: 3}", "unknown key 'size'"),
        ("towers.0.mixture.learns=words", "learns"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(RECIPE, [override])


def test_words_and_every_listed_truth_are_one_token_each():
    tokenizer = build_tokenizer()
    for word in [*words(), *(word for listed in LISTS.values() for word in listed)]:
        assert tokenizer.decode([id_of(tokenizer, word)]) == word


def test_every_template_comes_back_from_its_tokens_in_a_few_of_them():
    tokenizer = build_tokenizer()
    for template in (spec.template for spec in TASKS.values()):
        text = template.replace("{}", "dog")
        ids = tokenizer([text], add_special_tokens=False)["input_ids"][0]
        assert tokenizer.decode(ids) == text
        assert len(ids) <= 12, template


def test_a_row_has_the_ids_and_the_loss_of_the_record_with_its_questions(small, code):
    model, processor = small
    lesson = Lesson(regions=4, tasks={"brief_caption": 1.0, "region_ocr": 1.0})
    rows = Rows(MICRO, lesson, processor, code, [], lambda: 0)
    row = rows(0, 0)
    tags, collator = processor.region_tag_ids(), Collator(processor)
    assert row.encoded.turns > 1
    padded = collator.pad([row.encoded])
    for layer in model.host.model.language_model.layers:  # they start at nothing
        nn.init.normal_(layer.self_attn.o_proj.weight, std=0.1)
    tokens = [row.image_nD], [row.regions_ND], torch.tensor([[1, *row.grid_hw]])
    batch = dict(zip(("image_tokens", "region_tokens", "grid"), tokens, strict=True)) | padded
    batch |= {"choices_SK": alternatives(padded["labels"], tags), "gate": 1.0}
    with torch.no_grad():
        ours, _ = LanguageLesson(model, tags)(batch)
        theirs = answer_loss(model, {**padded, "encoded": EncodedImages(*tokens)})
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for number in range(1, row.encoded.turns + 1):
        chosen = [i for i, segment in enumerate(row.encoded.segments) if segment == number]
        text = processor.tokenizer.decode([row.encoded.input_ids[i] for i in chosen])
        question, answer = text.split(processor.chat.closing)
        question = question.removeprefix(processor.chat.after_regions)
        prompt = processor.encode_prompt(question, len(row.regions_ND), len(row.image_nD))
        first = row.encoded.segments.index(1)
        alone = row.encoded.input_ids[:first] + [row.encoded.input_ids[i] for i in chosen]
        assert alone[: len(prompt)] == prompt
        assert answer.endswith(processor.chat.stop_token)


def test_the_code_of_a_region_says_its_words(code):
    truth = truth_of([view_of()])
    likeness = nn.functional.normalize(code.tokens(truth), dim=-1) @ code.words["names"].T
    assert (likeness.argmax(-1) == truth["names"]).float().mean() > 0.8


def test_the_most_extreme_thing_is_found_by_a_clear_margin():
    view, rng = view_of(regions=12), np.random.default_rng(0)
    found = dict(filter(None, (most_extreme(view, rng) for _ in range(60))))
    assert len(found) > 3
    if "the leftmost " in found:
        assert found["the leftmost "].x == min(item.x for item in view.items)
    if "the largest " in found:
        assert found["the largest "].box_area == max(item.box_area for item in view.items)


def test_the_nearest_to_a_tag_is_the_nearest_of_its_kind():
    view, rng = view_of(regions=12), np.random.default_rng(0)
    found = list(filter(None, (nearest_to_tag(view, rng) for _ in range(60))))
    assert found
    for phrase, item in found:
        anchor = next(i for i in view.items if phrase.endswith(f" <region{i.region}>"))
        group = view.by_name[item.thing.name]
        assert phrase.startswith(f"the {item.thing.name} nearest")
        assert anchor not in group
        assert distance(item, anchor) == min(distance(other, anchor) for other in group)


def test_places_are_compared_by_a_product(code):
    places = torch.rand(50, 4, generator=torch.manual_seed(2))
    x, y, _, _, away = code.place(places).unbind(-1)
    score = 2 * (x * x[0] + y * y[0]) - 1.26 * away  # as a query of the first would have it
    apart = ((places - places[0])[:, :2] ** 2).sum(-1)
    assert torch.equal(score.argsort(descending=True), apart.argsort())


def test_stretching_moves_places_and_leaves_words(code):
    tokens = torch.randn(5, 64, generator=torch.manual_seed(1))
    told = code.directions_5D
    assert torch.allclose(code.stretched(tokens, 2.5) @ told.T, 2.5 * tokens @ told.T, atol=1e-5)
    rest = tokens - tokens @ told.T @ told
    assert torch.allclose(code.stretched(rest, 2.5), rest, atol=1e-5)


def test_images_get_harder_when_choices_are_right(small):
    lesson = LanguageLesson(small[0], [0])
    for _ in range(30):
        lesson._rise(torch.tensor(0.2), 32, 0.5)
    assert lesson.rises == 0
    for _ in range(25):
        lesson._rise(torch.tensor(1.0), 32, 0.5)
    assert lesson.rises == 2
    assert LanguageLesson(small[0], [0]).rises == 0  # of this stage


def test_muon_steps_are_nearly_orthogonal():
    singular = torch.linalg.svdvals(orthogonal(torch.randn(12, 40, generator=torch.manual_seed(0))))
    assert 0.5 < singular.min() <= singular.max() < 1.3


def test_images_of_a_batch_have_one_size_and_none_comes_twice():
    drawn = iter(source(MICRO, None, {"learns": "cells", "batch": 3}, 1, 2))
    views = [next(drawn)[1] for _ in range(9)]
    sizes = [view.rendered.image.size for view in views]
    assert all(len(set(sizes[at : at + 3])) == 1 for at in (0, 3, 6))
    assert len({view.rendered.image.tobytes() for view in views}) == 9


def test_a_run_killed_anywhere_ends_with_the_weights_of_one_that_was_not(run, whole):
    for part in ("towers/see", "towers/align", "language/look-up", "language/phrases"):
        one, other = (load_file(folder / part / "model.safetensors") for folder in (run, whole))
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), f"{part}: {name}"
    for one, other in zip(load(run / "features"), load(whole / "features"), strict=True):
        assert torch.equal(one.regions_ND, other.regions_ND)
        assert torch.equal(one.image_nD, other.image_nD)


def test_losses_fall_and_are_judged_on_what_does_not_train(whole):
    first, last = [line for line in read_log(whole / "language") if line["stage"] == "look-up"]
    assert last["loss"] < 0.9 * first["loss"]
    for part in ("towers", "language"):
        judged = read_log(whole / part, "eval")
        assert [line["stage"] for line in judged] == [s.name for s in getattr(MICRO, part)]
        assert all(line["loss"] > 0 for line in judged)


def test_features_are_what_the_towers_say_of_the_image(whole):
    seen = load(whole / "features")
    assert len(seen) == MICRO.features
    fo1 = FO1ForConditionalGeneration.from_pretrained(whole / "towers" / "align")
    _, processor = build(0, NETWORK)
    draw = source(MICRO, None, {"learns": "regions", "stream": 1_000_003}, 0, 1).draw
    _, view = draw(3, 1)
    assert seen[3].view.rendered.objects == view.rendered.objects
    assert seen[3].view.rendered.image.size == view.rendered.image.size
    with torch.no_grad():
        inputs = look_at(processor, [view])
        found = fo1.encode_images(*(inputs[name] for name in INPUTS))
    for ours, theirs in (
        (seen[3].image_nD, found.image_tokens[0]),
        (seen[3].regions_ND, found.region_tokens[0]),
    ):
        assert (ours.float() - theirs).norm() < 0.05 * theirs.norm()


def test_the_command_exports_a_folder_that_answers_and_says_how_it_was_made(run, tmp_path):
    path = tmp_path / "micro.yaml"
    path.write_text(yaml.safe_dump(VALUES), encoding="utf-8")
    assert main([str(path), "--out", str(run), "--export", str(tmp_path / "model")]) == 0
    fo1 = FO1.from_pretrained(tmp_path / "model")
    answer = fo1.detect(
        Image.new("RGB", (288, 256), "white"), ["star"], boxes=[[10, 10, 60, 60]], max_new_tokens=4
    )
    assert answer.task == "detection"
    table: Any = fo1.model.get_input_embeddings()
    assert table.weight.detach().float().norm(dim=-1).mean().item() == pytest.approx(LOUD, rel=0.1)
    assert fo1.processor.vocabulary.max_regions == 32
    card = (tmp_path / "model" / "README.md").read_text()
    assert "seed 0" in card
    assert "| `look-up` | 40 | 80 |" in card


def test_connectors_come_out_as_loud_as_words_with_loud_places(whole):
    state = load_file(whole / "towers" / "align" / "model.safetensors")
    fresh, _ = build(0, NETWORK)
    assert (
        state["region_connector.2.weight"].norm()
        > 5 * fresh.state_dict()["region_connector.2.weight"].norm()
    )


def test_the_command_says_what_is_wrong_with_the_recipe_in_a_line(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--set", "towers.0.batch=2"]) == 2
    assert "batch_size" in capsys.readouterr().err


def test_a_changed_recipe_is_not_resumed(run):
    see = replace(MICRO.towers[0], weight_decay=0.5)
    with pytest.raises(CheckpointError, match="weight_decay"):
        train(replace(MICRO, towers=(see, *MICRO.towers[1:])), None, run)


def test_a_question_of_a_row_is_one_that_can_be_asked():
    view = view_of()
    turns = ask(view, np.random.default_rng(5))
    image = Image.new("RGB", view.rendered.image.size)
    assert Example(image=image, regions_xyxy=view.regions.xyxy, turns=turns).turns == turns
