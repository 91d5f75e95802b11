"""Regions learn their names on standardised features, with words of their own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.training import tiny_model

from vlm_fo1.data import Example, Turn
from vlm_fo1.data.answers import label_answer
from vlm_fo1.errors import ConfigError
from vlm_fo1.fo1 import FO1
from vlm_fo1.model.connectors import build_connector
from vlm_fo1.tasks import Task, ask_labels, ask_regions
from vlm_fo1.train.assemble import assemble, make_collator
from vlm_fo1.train.config import (
    DistributedConfig,
    ModelConfig,
    OutputConfig,
    StageConfig,
    TrainConfig,
    TrainRule,
)
from vlm_fo1.train.frozen import KeptMaps
from vlm_fo1.train.loop import train
from vlm_fo1.train.metrics import read_log
from vlm_fo1.train.names import STAYS, NameCollate, NameLoss, named_loss, region_names
from vlm_fo1.train.stages import apply_stage
from vlm_fo1.train.standardise import CONNECTOR, Standard
from vlm_fo1.train.words import ALIKE, add_words, grow, new_words

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("hexagon", "car")


def record(turns, regions=2, **values):
    boxes = np.array([[4 + 20 * i, 8, 18 + 20 * i, 30] for i in range(regions)], np.float32)
    image = Image.new("RGB", (96, 64), "navy")
    return Example(image=image, regions_xyxy=boxes, turns=tuple(turns), **values)


def lists(**labels):
    question = ask_labels(Task.DETECTION, list(labels))
    return Turn.asked(question, label_answer(labels))


@pytest.mark.parametrize("kind", ["linear", "mlp1x_gelu", "mlp2x_gelu"])
def test_a_connector_on_standardised_features_computes_what_it_did_and_is_saved_as_it_was(kind):
    connector = build_connector(kind, 6, 4)
    before = {
        f"{CONNECTOR}.{name}": value.clone() for name, value in connector.state_dict().items()
    }
    features = 50 + torch.tensor([1.0, 10, 100, 1, 0.1, 3]) * torch.randn(40, 6)
    wanted = connector(features)
    standard = Standard.of([features[:30], features[30:]])
    standard.enter(connector)
    torch.testing.assert_close(connector(features), wanted, atol=1e-3, rtol=1e-4)
    seen = []
    linear = next(module for module in connector.modules() if isinstance(module, torch.nn.Linear))
    linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    connector(features)
    assert seen[0].mean(0).abs().max() < 1e-4
    assert (seen[0].std(0, correction=0) - 1).abs().max() < 1e-2
    state = {f"{CONNECTOR}.{name}": value for name, value in connector.state_dict().items()}
    assert set(state) == set(before)
    for name, value in standard.leave(state).items():
        torch.testing.assert_close(value, before[name], atol=1e-4, rtol=1e-4)


def test_names_come_from_lists_and_captions():
    turns = [
        lists(dog=[0, 2], cat=[]),
        lists(animal=[0, 3]),
        Turn.asked(ask_regions(Task.BRIEF_CAPTION, [1], 4), "a red car"),
        Turn.asked(ask_labels(Task.REFERRING, "the last"), label_answer({"the last": [3]})),
    ]
    assert region_names(record(turns, 4)) == {0: "dog", 2: "dog", 3: "animal", 1: "red car"}


def test_the_loss_of_names_is_its_formula():
    words = [torch.tensor([2.0, 0, 0]), torch.tensor([0, 4.0, 0])]
    tokens = torch.tensor([[1.0, 2, 9], [2, 0, 0], [5, 5, 5]])
    before = torch.tensor([[0.0, 0, 0], [2, 0, 1], [5, 5, 5]])
    loss, stays, right = named_loss(tokens, before, torch.tensor([0, 0, -1]), words)
    shares = torch.tensor([0.5, 0.5])  # of the region that did not say its name
    wanted = torch.log(torch.exp(10 * shares).sum()) - 5 + 0.25 + 0.25
    assert loss.item() == pytest.approx(wanted.item())
    assert stays.tolist() == [False, True, True], "one says it already, one has no name"
    assert right.item() == 1.0


def test_names_that_are_spelled_get_a_token_and_others_do_not():
    tokenizer = FO1.from_pretrained("tiny").processor.tokenizer
    names = ("hexagon", "car", "six sided nut", "sports car", "red car", "Kühlschrank",
             "großes Rad", "猫", "4x4", "7")  # fmt: skip
    examples = [record([lists(**{name: [0]})]) for name in names]
    assert tokenizer.tokenize("hexagon") == list("hexagon")
    found = new_words(examples, tokenizer)
    assert found == ["4x4", "großes Rad", "hexagon", "six sided nut", "sports car", "猫"]
    ids = add_words(found, tokenizer, len(tokenizer) + 3)
    assert ids == list(range(len(tokenizer) - 6, len(tokenizer)))
    for name, id_ in zip(found, ids, strict=True):
        text = f"Please detect {name}, car in this image."
        assert id_ in tokenizer(text)["input_ids"]
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        assert id_ not in tokenizer(f"{name}s")["input_ids"], "a longer word stays as it was"
    assert new_words(examples, tokenizer) == []
    assert tokenizer.decode(tokenizer("Kühlschrank")["input_ids"]) == "Kühlschrank"


def test_a_new_word_starts_near_the_known_word_that_its_regions_say():
    fo1 = FO1.from_pretrained("tiny")
    model: Any = fo1.model.float()
    tokenizer = fo1.processor.tokenizer
    table = model.get_input_embeddings().weight
    rows, old = table.shape[0], table.detach().clone()
    dog, car = table[tokenizer.convert_tokens_to_ids(["dog", "car"])].detach()
    add_words(["hexagon"], tokenizer, rows)
    grow(model, tokenizer, ["hexagon"], {"hexagon": dog[None] + 1, "car": car[None] + 1})
    table = model.get_input_embeddings().weight
    (id_,) = tokenizer.convert_tokens_to_ids(["hexagon"])
    assert model.get_output_embeddings().weight is table
    assert torch.equal(table[:rows], old)
    cosine = torch.nn.functional.cosine_similarity(table[id_], dog, dim=0).item()
    assert cosine == pytest.approx(ALIKE, abs=1e-3)


def test_rows_of_new_words_train_alone_and_without_new_words_none_does():
    rule = TrainRule(pattern="host.model.language_model.embed_tokens", lr=1e-2, rows="new_words")
    both = (rule, TrainRule(pattern="region_connector", lr=1e-3))
    stage = StageConfig(name="one", train=both, steps=1)
    plan = apply_stage(tiny_model(), stage, (61,), (3, 5))
    assert [mask.rows for mask in plan.row_masks] == [(3, 5)]
    plan = apply_stage(tiny_model(), stage, (61,), ())
    assert not plan.row_masks
    assert all(name.startswith("region_connector") for name in plan.names)


def test_maps_of_a_frozen_tower_are_computed_once_for_each_image():
    tower: Any = tiny_model().auxiliary.requires_grad_(False)
    computed = []
    plain = tower.forward
    tower.forward = lambda pixels: computed.append(len(pixels)) or plain(pixels)
    images = torch.randn(3, 3, 32, 32)
    wanted = plain(images)
    size = sum(stage[0].nbytes for stage in wanted)
    kept = KeptMaps(tower, most_bytes=2 * size)
    for order in ([0, 1], [1, 0], [1, 2], [1, 0]):
        for found, whole in zip(tower(images[order]), wanted, strict=True):
            torch.testing.assert_close(found, whole[order], atol=1e-5, rtol=1e-4)
    assert computed == [2, 1, 1], "the third image took the place of the first"
    assert kept.bytes <= 2 * size
    tower.requires_grad_(True)
    tower(images)
    assert computed[-1] == 3, "what trains is computed"


def coco_folder(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(8):
        image = Image.fromarray(rng.integers(0, 60, (64, 96, 3), np.uint8).astype(np.uint8))
        for slot, colour in enumerate(("gold", "teal")):
            image.paste(colour, (8 + 44 * slot, 12, 40 + 44 * slot, 50))
            box = [8 + 44 * slot, 12, 32, 38]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": slot, "bbox": box}
            )
        image.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
    categories = [{"id": index, "name": name} for index, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def run(folder: Path, data: Path, **stage) -> TrainConfig:
    source = {
        "type": "coco", "annotations": str(data / "coco.json"), "images": str(data),
        "questions": {"turns": [2, 2], "labels": [2, 2], "tasks": {"detection": 1}, "jitter": 0},
    }  # fmt: skip
    rules = (TrainRule(pattern="region_connector", lr=3e-3),)
    options = {"objective": "names", "train": rules, "batch_size": 4, "precision": "fp32", **stage}
    return TrainConfig(
        stages=(StageConfig(name="names", mixture={"sources": [source]}, **options),),
        model=ModelConfig(path="tiny", new_words=True, standardise=8),
        output=OutputConfig(folder=folder, tensorboard=False, log_every=5),
        distributed=DistributedConfig(device="cpu"),
    )


def test_a_stage_of_names_teaches_new_things_and_its_weights_load_alone(tmp_path):

    data = coco_folder(tmp_path)
    config = run(tmp_path / "run", data, steps=20)
    result = train(config, assemble(config))
    assert result.folder is not None
    lines = [line for line in read_log(tmp_path / "run") if line["kind"] == "train"]
    assert lines[-1]["named"] == 1.0
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    fo1 = FO1.from_pretrained(result.folder)
    boxes = np.array([[8, 12, 40, 50], [52, 12, 84, 50]], np.float32)
    images = fo1.processor.image_processor([data / "3.png"], [boxes])
    with torch.no_grad():
        tokens = fo1.model.get_region_features(**images)[0].float()
    ids = fo1.processor.tokenizer.convert_tokens_to_ids(list(NAMES))
    model: Any = fo1.model
    words = model.get_input_embeddings().weight[ids].float()
    assert (tokens @ words.T).argmax(-1).tolist() == [0, 1]


def test_a_stage_of_names_goes_on_exactly_where_it_was_killed(tmp_path):

    data = coco_folder(tmp_path)
    whole = run(tmp_path / "whole", data, steps=2, save_every=1, batch_size=2)
    train(whole, assemble(whole))
    killed = run(tmp_path / "killed", data, steps=2, save_every=1, batch_size=2)

    def kill(report):
        if report.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(killed, assemble(killed), watch=kill)
    train(killed, assemble(killed))
    first, second = (
        dict(FO1.from_pretrained(tmp_path / name / "names").model.named_parameters())
        for name in ("whole", "killed")
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_replayed_regions_cost_what_they_moved_and_others_are_not_to_say_their_names():
    model: Any = FO1.from_pretrained("tiny").model.float()
    collate = NameCollate(make_collator("tiny", 2048))
    loss = NameLoss()
    loss.begin(model)
    batch = collate([record([lists(dog=[0], car=[1])], replay=True)])
    assert batch["named"].tolist() == [-1, -1]
    both = [record([lists(dog=[0], car=[1])], replay=True), record([lists(cat=[1])])]
    assert collate(both)["named"].tolist() == [-1, -1, -1, 2]
    tokenizer = collate.collator.processor.tokenizer
    assert [tokenizer.decode(ids) for ids in collate(both)["name_ids"]] == ["dog", "car", "cat"]
    assert loss(model, batch)[0].item() == 0
    with torch.no_grad():
        model.region_connector[-1].bias.add_(0.5)
    assert loss(model, batch)[0].item() == pytest.approx(STAYS * 0.25, rel=1e-4)


def test_names_with_fsdp_are_refused(tmp_path):
    rules = (TrainRule(pattern="region_connector", lr=1e-3),)
    with pytest.raises(ConfigError, match="strategy: ddp"):
        TrainConfig(
            stages=(StageConfig(name="one", objective="names", train=rules, steps=1),),
            model=ModelConfig(path="tiny"),
            output=OutputConfig(folder=tmp_path),
            distributed=DistributedConfig(strategy="fsdp"),
        )
