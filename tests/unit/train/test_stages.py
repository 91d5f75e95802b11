"""What trains in a stage is what its patterns say, and nothing else."""

from pathlib import Path

import pytest
import torch
from tests.helpers.training import NEW, tiny_model

from vlm_fo1.config import read
from vlm_fo1.errors import ConfigError
from vlm_fo1.train.config import LoraConfig, StageConfig, TrainConfig, TrainRule
from vlm_fo1.train.lora import merge
from vlm_fo1.train.stages import apply_stage, assign

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "train").glob("*.yaml"))
CONFIGS = [path for path in CONFIGS if not path.stem.startswith("tiny")]  # other programs


def stage(*patterns: str, **options) -> StageConfig:
    rules = tuple(TrainRule(pattern=pattern, lr=1e-3) for pattern in patterns)
    return StageConfig(**{"name": "one", "train": rules, "steps": 10, **options})


def trained(model) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


def test_a_module_name_means_all_of_it_and_the_rest_is_frozen():
    model = tiny_model()
    apply_stage(model, stage("region_connector"))
    assert trained(model) == {
        "region_connector.0.weight", "region_connector.0.bias",
        "region_connector.2.weight", "region_connector.2.bias",
    }  # fmt: skip


def test_the_first_rule_that_matches_counts_and_freeze_beats_all():
    rules = (
        TrainRule(pattern="host.model.language_model.layers.0", lr=1e-2),
        TrainRule(pattern="host.*", lr=1e-4),
    )
    found = assign(tiny_model(), stage(train=rules, freeze=("host.model.visual", "*.bias")))
    rates = {name: rule.lr for name, rule in found.items()}
    assert rates["host.model.language_model.layers.0.mlp.up_proj.weight"] == 1e-2
    assert rates["host.model.language_model.layers.1.mlp.up_proj.weight"] == 1e-4
    assert not [name for name in rates if "visual" in name or name.endswith(".bias")]


@pytest.mark.parametrize("where", ["train", "freeze"])
def test_a_pattern_that_matches_nothing_names_the_nearest(where):
    options = {"freeze": ("region_conector",)} if where == "freeze" else {}
    wanted = stage("region_conector" if where == "train" else "host", **options)
    with pytest.raises(
        ConfigError, match=r"'region_conector' matches no parameter: nearest are region_connector"
    ):
        apply_stage(tiny_model(), wanted)


def test_freezing_all_that_trains_is_refused():
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        apply_stage(tiny_model(), stage("region_connector", freeze=("region*",)))


def test_norms_biases_and_embeddings_do_not_decay():
    model = tiny_model()
    plan = apply_stage(model, stage("*", weight_decay=0.1))
    decays = {name: group.weight_decay for group in plan.groups for name in group.names}
    assert decays["region_connector.0.weight"] == 0.1
    assert decays["host.lm_head.weight"] == 0.1
    assert decays["region_connector.0.bias"] == 0
    assert decays["host.model.language_model.norm.weight"] == 0
    assert decays["host.model.language_model.embed_tokens.weight"] == 0
    assert set(decays) == {name for name, _ in model.named_parameters()} == set(plan.names)


def test_only_rows_of_new_tokens_get_a_gradient():
    rule = TrainRule(pattern="host.lm_head.weight", lr=1e-3, rows="new_tokens", weight_decay=0.1)
    model = tiny_model()
    plan = apply_stage(model, stage(train=(rule,)), NEW)
    assert plan.counts == {"host.lm_head.weight": 3 * 24}
    assert plan.groups[0].weight_decay == 0
    weight = model.get_parameter("host.lm_head.weight")
    weight.grad = torch.ones_like(weight)
    plan.row_masks[0].apply(weight)
    touched = weight.grad.sum(1).nonzero()[:, 0].tolist()
    assert tuple(touched) == NEW


def test_rows_of_new_tokens_need_ids_and_a_matrix_that_has_them():
    rule = TrainRule(pattern="host.lm_head.weight", lr=1e-3, rows="new_tokens")
    with pytest.raises(ConfigError, match="needs the ids of the region markup"):
        apply_stage(tiny_model(), stage(train=(rule,)))
    other = TrainRule(pattern="region_connector.0", lr=1e-3, rows="new_tokens")
    with pytest.raises(ConfigError, match="needs a matrix with a row for token 63"):
        apply_stage(tiny_model(), stage(train=(other,)), NEW)


def test_a_tied_head_goes_by_either_name_and_trains_once():
    model = tiny_model(tie_word_embeddings=True)
    plan = apply_stage(model, stage("host.lm_head"))
    assert plan.names == ("host.model.language_model.embed_tokens.weight",)
    assert plan.groups[0].weight_decay == 0


def test_adapters_train_on_frozen_layers_and_merge_to_the_same_function():
    model = tiny_model()
    lora = LoraConfig(targets=("host.model.language_model.*.q_proj",), rank=2, lr=5e-4)
    plan = apply_stage(model, stage("region_connector", lora=lora))
    adapters = [name for name in plan.names if "lora" in name]
    assert len(adapters) == 4  # two layers, up and down
    assert {group.lr for group in plan.groups} == {1e-3, 5e-4}
    with torch.no_grad():
        for name in adapters:
            model.get_parameter(name).normal_(std=0.5)
    plain = tiny_model(seed=1)
    plain.load_state_dict(merge(model.state_dict(), lora))
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(model.eval()(ids).logits, plain.eval()(ids).logits)
    assert not torch.allclose(tiny_model().eval()(ids).logits, plain(ids).logits)


def test_adapters_on_nothing_are_refused():
    lora = LoraConfig(targets=("host.model.language_model.*.qq_proj",))
    with pytest.raises(ConfigError, match=r"matches no linear module: nearest are host"):
        apply_stage(tiny_model(), stage("region_connector", lora=lora))


def test_frozen_weights_can_be_held_in_bfloat16_and_trained_ones_are_float32():
    model = tiny_model().bfloat16()
    apply_stage(model, stage("region_connector", frozen_precision="bf16"))
    kinds = {name: value.dtype for name, value in model.named_parameters()}
    assert kinds.pop("region_connector.0.weight") is torch.float32
    assert kinds["host.lm_head.weight"] is torch.bfloat16


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_patterns_of_every_config_file_match(path, tied):
    for each in read(path, TrainConfig).stages:
        model = tiny_model(tie_word_embeddings=tied)
        plan = apply_stage(model, each, NEW)
        assert any(name.startswith("region_connector") for name in plan.names)
        if path.stem in ("stage1", "stage2"):
            assert not any(name.startswith("host.model.visual") for name in plan.names)
