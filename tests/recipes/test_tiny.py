"""The bundled model's recipe, at a size that trains in seconds: every idea, and the whole of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress
from torch import nn

from recipes.synthetic.config import SyntheticConfig
from recipes.synthetic.kinds import KINDS
from recipes.synthetic.questions import ask
from recipes.synthetic.referring import distance
from recipes.tiny import pool, shards
from recipes.tiny.__main__ import main, train
from recipes.tiny.code import LISTS, Code, truth_of
from recipes.tiny.drills import most_extreme, nearest_to_tag
from recipes.tiny.export import export_run
from recipes.tiny.imagined import imagine
from recipes.tiny.muon import orthogonal, rate_share
from recipes.tiny.network import LOUD, build
from recipes.tiny.packing import Packer, Positions, alternatives, as_sets, collate
from recipes.tiny.phases import train_phase
from recipes.tiny.recipe import RECIPE, NetworkSizes, Recipe, read_recipe
from recipes.tiny.rows import Level
from recipes.tiny.run import Run
from recipes.tiny.speak import set_loss
from recipes.tiny.tower_training import train_towers
from recipes.tiny.towers import encode
from recipes.tiny.words import FastIds, build_tokenizer, id_of, words
from vlm_fo1 import FO1
from vlm_fo1.config import build as build_config
from vlm_fo1.errors import CheckpointError, ConfigError, TrainingError
from vlm_fo1.model.region_encoder import HybridRegionEncoder
from vlm_fo1.tasks import TASKS
from vlm_fo1.train.metrics import read_log
from vlm_fo1.train.stop import Stop

SMALL: dict[str, Any] = {
    "hidden": 64,
    "layers": 1,
    "heads": 1,
    "inner": 32,
    "vision": 32,
    "vision_layers": 1,
    "davit": [32, 32, 32, 32],
    "davit_depths": [1, 1, 1, 1],
    "pyramid": 16,
}
TOWERS = {"steps": 4, "matrix_lr": 0.01, "lr": 0.002, "warmup": 2, "log_every": 1, "check_every": 2}
PHASE = {
    "steps": 4,
    "batch": 2,
    "matrix_lr": 0.01,
    "lr": 0.001,
    "words_lr": 0.001,
    "warmup": 2,
    "kinds": 3,
    "questions": 2,
    "log_every": 1,
    "save_every": 2,
    "tasks": {"detection": 1.0, "counting": 1.0, "free": 1.0},
}
REFER = {
    "refer": 0.6,
    "refer_extreme": 0.3,
    "refer_short": 0.3,
    "refer_forms": {"end": 2.0},
    "stretch": 2.5,
    "sharp_lr": 0.005,
    "planned_steps": 8,
}
VALUES: dict[str, Any] = {
    "network": SMALL,
    "images": {"objects": [2, 4], "kinds": ["star", "moon", "diamond"], "words": ["STOP", "EXIT"]},
    "pools": {
        "train": {"count": 4, "per_shard": 2, "seed": 1},
        "check": {"count": 2, "per_shard": 2, "seed": 2},
        "heldout": {"count": 2, "per_shard": 2, "seed": 3},
        "more": {"count": 4, "per_shard": 2, "seed": 4},
    },
    "towers": [
        {**TOWERS, "name": "see", "learns": "cells", "pool": "train", "keep": 2},
        {**TOWERS, "name": "align", "learns": "regions", "pool": "train", "keep": 2},
        {**TOWERS, "name": "polish", "learns": "regions", "pool": "more", "keep": 2},
    ],
    "phases": [
        {**PHASE, "name": "first", "drill": 0.5, "refer": 0.3, "sharpness": 2.0},
        {**PHASE, "name": "second", "drill": 0.3, "plain_share": 0.3, "seen_share": 0.5, **REFER},
        {**PHASE, "name": "third", "drill": 0.3, "seen_share": 0.9, "seen_by": "polish"},
    ],
}
MICRO = build_config(Recipe, VALUES)
SIZES = build_config(NetworkSizes, SMALL)


def run_in(folder: Path, recipe: Recipe = MICRO) -> Run:
    return Run(recipe, folder, None, Progress(disable=True), Stop())


def losses(folder: Path, stage: str) -> list[float]:
    return [line["loss"] for line in read_log(folder) if line["stage"] == stage]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert train(run_in(folder))
    return folder


@pytest.fixture(scope="module")
def small():
    return build(0, SIZES)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def view_of(seed: int = 0, regions: int = 6):
    config = SyntheticConfig(turns=(4, 4), absent_style="none")
    kinds = ("dog", "cat", "car", "star", "apple")
    return imagine(config, kinds, ("STOP", "EXIT", "TAXI"), regions, np.random.default_rng(seed))


def test_the_committed_recipe_reads():
    recipe = read_recipe(RECIPE)
    assert [phase.name for phase in recipe.phases][:3] == ["look-up", "questions", "general"]
    assert set(recipe.images["kinds"]) <= set(KINDS)
    assert recipe.network == NetworkSizes()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("phases.0.drill=2", "drill = 2.0 is a share"),
        ("phases.1.tasks={telling: 1}", "unknown"),
        ("pools.train.count=33", "multiple of per_shard"),
        ("images.sprites=here", "--sprites"),
        ("network.vision=50", "a multiple of 32"),
        ("phases.1.name=look-up", "no name twice"),
        ("towers.1.name=seen", "no name twice"),
        ("towers.1.name=look-up", "no name twice"),
        ("pools.check=null", "a mapping of keys"),
        ("towers.3.pool=elsewhere", r"'refine': pool 'elsewhere' is not there: there are fresh"),
        ("towers.3.pool=check", "is not there"),
        ("towers.3.keep=0", "seen_by 'refine' is not there: there are align"),
        ("towers.0.keep=0", "let stage 'see' keep shards"),
        ("towers.0.learns=regions", "the first of the towers' stages learns cells"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(RECIPE, [override])


def test_words_and_every_listed_truth_are_one_token_each(tokenizer):
    for word in [*words(), *(word for listed in LISTS.values() for word in listed)]:
        assert tokenizer.decode([id_of(tokenizer, word)]) == word


def test_every_template_comes_back_from_its_tokens_in_a_few_of_them(tokenizer):
    for template in (spec.template for spec in TASKS.values()):
        text = template.replace("{}", "dog")
        ids = tokenizer([text], add_special_tokens=False)["input_ids"][0]
        assert tokenizer.decode(ids) == text
        assert len(ids) <= 12, template


def test_fast_ids_equal_the_tokenizer(tokenizer):
    fast = FastIds(tokenizer)
    texts = [
        turn.question + turn.answer for seed in range(12) for turn in ask(view_of(seed), _rng())
    ]
    for text in [*texts, "dogs and a zebrafish, 77 of them", "naïve\tCAFE", ""]:
        assert fast(text) == tokenizer([text], add_special_tokens=False)["input_ids"][0], text


def _rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_questions_in_one_row_see_the_prefix_and_themselves_and_score_as_alone(small):
    model, processor = small
    packer, positions = Packer(processor), Positions(model)
    turns = ask(view_of(), _rng())
    assert len(turns) > 2
    together = collate([packer.row(6, turns, (4, 4))], positions, 0)
    part, mask = together.part_BT[0], together.mask_B1TT[0, 0]
    for at in range(len(part)):
        wanted = (part == 0) | (part == part[at])
        assert torch.equal(mask[at], wanted & (torch.arange(len(part)) <= at))
    language_model = model.host.model.language_model
    for layer in language_model.layers:  # they start at nothing
        nn.init.normal_(layer.self_attn.o_proj.weight, std=0.1)
        nn.init.normal_(layer.mlp.down_proj.weight, std=0.1)

    def hidden(packed):
        with torch.inference_mode():
            return language_model(
                inputs_embeds=model.get_input_embeddings()(packed.ids_BT),
                position_ids=packed.positions_3BT,
                attention_mask=torch.where(packed.mask_B1TT, 0.0, -1e9),
                use_cache=False,
            ).last_hidden_state

    whole = hidden(together)
    for number, turn in enumerate(turns, start=1):
        alone = collate([packer.row(6, [turn], (4, 4))], positions, 0)
        chosen, own = part == number, alone.part_BT[0] == 1
        assert torch.equal(together.ids_BT[0, chosen], alone.ids_BT[0, own])
        assert torch.equal(together.positions_3BT[:, 0, chosen], alone.positions_3BT[:, 0, own])
        assert torch.allclose(whole[0, chosen], hidden(alone)[0, own], atol=1e-5)


def test_a_packed_question_has_the_ids_of_a_prompt(small):
    _, processor = small
    turn = ask(view_of(), _rng())[0]
    row = Packer(processor).row(6, [turn], (4, 4))
    prompt = processor.encode_prompt(turn.question, 6, 4)
    assert row.ids[: len(prompt)].tolist() == prompt
    assert row.ids[-1] == processor.stop_token_id


def test_any_order_of_tags_is_right_and_a_tag_is_not_right_twice(small):
    _, processor = small
    packer = Packer(processor)
    first, second = (int(number) for number in packer.tag_ids[:2])
    row = packer.pack(2, [([300], [first, second, 301])], ("point",), (2, 2))
    choices = alternatives([row], packer.tag_ids, len(row.ids))[0, -3:]
    logits = torch.zeros(3, len(processor.tokenizer))
    logits[0, second] = logits[1, first] = logits[2, 301] = 20.0
    loss, right = set_loss(logits, choices)
    assert right.tolist() == [True, False, True]  # in the row, first stands there already
    mixed = [as_sets(row, packer.tag_ids, np.random.default_rng(seed)) for seed in range(8)]
    swapped = next(item for item in mixed if item.labels[-3] == second)
    loss, right = set_loss(logits, alternatives([swapped], packer.tag_ids, len(row.ids))[0, -3:])
    assert right.all()
    assert loss.max() < 1e-3


def test_batched_towers_give_the_features_of_the_model(small, monkeypatch):
    model, processor = small
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 168, 168, 3), dtype=np.uint8)
    boxes = [np.array([[3, 5, 60, 80], [100, 20, 160, 160]], np.float32), np.array([[0, 0, 9, 9]])]
    features = []
    plain = HybridRegionEncoder.forward
    monkeypatch.setattr(
        HybridRegionEncoder,
        "forward",
        lambda *given: features.extend(found := plain(*given)) or found,
    )
    with torch.inference_mode():
        found = encode(
            model,
            processor,
            pool.to_unit(torch.from_numpy(pixels)),
            [torch.from_numpy(item).float() for item in boxes],
        )
        images = model.image_connector(found.image_BnD)
        for index, (picture, given) in enumerate(zip(pixels, boxes, strict=True)):
            inputs = processor.image_processor(Image.fromarray(picture), given)
            names = ("pixel_values", "image_grid_thw", "aux_pixel_values", "region_boxes")
            encoded = model.encode_images(*(inputs[name] for name in names))
            assert torch.allclose(images[index], encoded.image_tokens[0], atol=1e-4)
    assert torch.allclose(found.regions_MR, torch.cat(features), atol=1e-4)


def test_shards_give_back_images_and_pixels(tmp_path):
    assert list(pool.fill(MICRO, MICRO.pools["check"], None, tmp_path)) == [0, 1]
    [path] = pool.list_shards(tmp_path)
    pixels, views = pool.load(path)
    assert pixels.shape[0] == 2
    assert pixels.shape[2:0:-1] == views[0].rendered.image.size
    shards.write(tmp_path / "again.safetensors", views, {})
    again, _ = shards.read(tmp_path / "again.safetensors")
    for one, other in zip(views, again, strict=True):
        assert one.rendered.objects == other.rendered.objects
        assert np.array_equal(one.regions.xyxy, other.regions.xyxy)
    other = replace(MICRO.pools["check"], seed=9)
    with pytest.raises(CheckpointError, match="other images"):
        list(pool.fill(MICRO, other, None, tmp_path))


@pytest.mark.slow
def test_two_renderers_draw_the_images_of_one(tmp_path):
    for workers in (1, 2):
        list(pool.fill(MICRO, MICRO.pools["train"], None, tmp_path / str(workers), workers))
    one, two = (pool.list_shards(tmp_path / str(workers)) for workers in (1, 2))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_the_code_of_a_region_says_its_words(small):
    model, processor = small
    code = Code(processor.tokenizer, SIZES.hidden)
    table = model.get_input_embeddings().weight.detach()
    truth = truth_of([view_of()])
    tokens = code.tokens(table, truth)
    likeness = nn.functional.normalize(tokens, dim=-1) @ table[code.ids["names"]].T
    assert (likeness.argmax(-1) == truth["names"]).float().mean() > 0.8


def test_the_most_extreme_thing_is_found_by_a_clear_margin():
    view, rng = view_of(regions=12), np.random.default_rng(0)
    found = dict(filter(None, (most_extreme(view, rng) for _ in range(60))))
    assert len(found) > 3
    if "leftmost" in found:
        assert found["leftmost"].x == min(item.x for item in view.items)
    if "largest" in found:
        assert found["largest"].box_area == max(item.box_area for item in view.items)


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


def test_places_are_compared_by_a_product(small):
    _, processor = small
    code = Code(processor.tokenizer, SIZES.hidden)
    places = torch.rand(50, 4, generator=torch.manual_seed(2))
    x, y, _, _, away = code.place(places).unbind(-1)
    score = 2 * (x * x[0] + y * y[0]) - 1.26 * away  # as a query of the first would have it
    apart = ((places - places[0])[:, :2] ** 2).sum(-1)
    assert torch.equal(score.argsort(descending=True), apart.argsort())


def test_stretching_moves_places_and_leaves_words(small):
    _, processor = small
    plain, long = (Code(processor.tokenizer, SIZES.hidden, stretch=by) for by in (1.0, 2.5))
    tokens = torch.randn(5, SIZES.hidden, generator=torch.manual_seed(1))
    told = plain.directions_5D
    assert torch.allclose(long.stretched(tokens) @ told.T, 2.5 * tokens @ told.T, atol=1e-5)
    rest = tokens - tokens @ told.T @ told
    assert torch.allclose(long.stretched(rest), rest, atol=1e-5)


def test_the_level_rises_when_answers_are_good():
    phase = replace(MICRO.phases[0], batch=64, gate=0.5)
    level = Level(3, 10.0)
    for _ in range(20):
        level = level.after(1.0, phase, 152)
    assert level.regions > 3
    assert level.kinds > 10
    low = Level(3, 10.0)
    for _ in range(20):
        low = low.after(0.2, phase, 152)
    assert (low.regions, low.kinds) == (3, 10.0)


def test_muon_steps_are_nearly_orthogonal_and_rates_fall_at_the_end():
    singular = torch.linalg.svdvals(orthogonal(torch.randn(12, 40, generator=torch.manual_seed(0))))
    assert 0.5 < singular.min() <= singular.max() < 1.3
    shares = [rate_share(step, 100, 10, 0.5) for step in (0, 10, 49, 75, 99)]
    assert shares == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.02])


def test_a_micro_recipe_runs_to_a_model_that_answers(finished, tmp_path):
    folder = export_run(MICRO, finished, tmp_path / "model")
    fo1 = FO1.from_pretrained(folder)
    picture = Image.new("RGB", (288, 256), "white")
    answer = fo1.detect(picture, ["star"], boxes=[[10, 10, 60, 60]], max_new_tokens=4)
    assert answer.task == "detection"
    stages = {line["stage"] for line in read_log(finished)}
    assert stages == {"see", "align", "polish", "first", "second", "third"}
    words: Any = fo1.model.get_input_embeddings()
    assert words.weight.detach().float().norm(dim=-1).mean().item() == pytest.approx(LOUD, rel=0.1)
    assert fo1.processor.vocabulary.max_regions == 32


@pytest.mark.parametrize(("number", "before"), [(0, ()), (1, ("see",)), (2, ("align",))])
def test_towers_that_were_stopped_go_on_with_equal_losses(
    number, before, finished, tmp_path, monkeypatch
):
    stage = MICRO.towers[number]
    run = _beside(finished, tmp_path, before)
    _stop_after(run, monkeypatch, 2)
    assert not train_towers(run, stage)
    assert train_towers(run_in(tmp_path), stage)
    assert losses(tmp_path, stage.name) == losses(finished, stage.name)


def test_a_phase_that_was_stopped_goes_on_with_equal_losses(finished, tmp_path, monkeypatch):
    run = _beside(finished, tmp_path, ("first",))
    _stop_after(run, monkeypatch, 2)
    assert not train_phase(run, MICRO.phases[1])
    assert train_phase(run_in(tmp_path), MICRO.phases[1])
    assert losses(tmp_path, "second") == losses(finished, "second")


def _beside(finished: Path, folder: Path, stages: tuple[str, ...]) -> Run:
    """A run that has what an other one made up to some stage."""
    for name in ("pools", "seen"):
        (folder / name).symlink_to(finished / name)
    for stage in stages:
        (folder / f"{stage}.safetensors").symlink_to(finished / f"{stage}.safetensors")
    return run_in(folder)


def _stop_after(run: Run, monkeypatch, steps: int) -> None:
    """Ask to stop once so many lines of training are in the log."""
    write = run.journal.write

    def watched(stage, step, kind, values):
        write(stage, step, kind, values)
        if kind == "train" and step == steps:
            run.stop.signal_number = 15

    monkeypatch.setattr(run.journal, "write", watched)


@pytest.mark.slow
def test_two_processes_train_on_the_mean_of_their_gradients(finished, tmp_path):
    phases = (replace(MICRO.phases[0], processes=2, steps=2),)
    run = run_in(tmp_path, replace(MICRO, phases=phases))
    assert train_phase(run, phases[0])
    assert len(losses(tmp_path, "first")) == 2


def test_stages_out_of_order_say_what_is_missing(tmp_path, finished, capsys):
    run = _beside(finished, tmp_path, ())
    with pytest.raises(TrainingError, match="starts from stage 'see'"):
        train_towers(run, MICRO.towers[1])
    with pytest.raises(TrainingError, match="starts from phase 'first'"):
        train_phase(run, MICRO.phases[1])
    assert main([str(RECIPE), "--out", str(tmp_path / "x"), "--from", "nowhere"]) == 2
    assert (
        "the stages are pools, see, align, polish, refine, seen, look-up" in capsys.readouterr().err
    )


def test_a_changed_stage_is_not_resumed(finished):
    see = replace(MICRO.towers[0], lr=0.5)
    changed = replace(MICRO, towers=(see, *MICRO.towers[1:]))
    with pytest.raises(CheckpointError, match=r"see\.lr"):
        train_towers(run_in(finished, changed), see)
