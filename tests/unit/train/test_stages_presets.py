"""The committed configurations against a network of the released size, without its weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_parts.made import RELEASED_3B as QWEN_3B
from vlm_fo1.config import read
from vlm_fo1.data.recipe import make_mixture
from vlm_fo1.errors import DataError
from vlm_fo1.model.configuration import from_released
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.train.config import TrainConfig
from vlm_fo1.train.stages import StagePlan, apply_stage

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "train").glob("*.yaml"))
CONFIGS = [path for path in CONFIGS if not path.stem.startswith("tiny")]  # other programs
NEW = tuple(range(151_829, 151_936))
"""Stand-ins for the ids of the region markup, at the end of the vocabulary."""


def plan_of(path: Path) -> tuple[StagePlan, dict[str, int], FO1ForConditionalGeneration]:
    """What the only stage of a configuration trains in a 3B model: the plan, and sizes by name."""
    (stage,) = read(path, TrainConfig).stages
    with torch.device("meta"):
        model = FO1ForConditionalGeneration(from_released(QWEN_3B))
        plan = apply_stage(model, stage, NEW)
    return plan, {name: value.numel() for name, value in model.named_parameters()}, model


def whole(sizes: dict[str, int], *modules: str) -> int:
    """Numbers in some modules, adapters left out."""
    return sum(n for name, n in sizes.items() if name.startswith(modules) and ".lora_" not in name)


RELEASED = [path for path in CONFIGS if path.stem != "finetune"]  # that is for the bundled model


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_every_pattern_fits_a_model_of_the_released_size(path):
    plan, sizes, model = plan_of(path)
    assert not any(name.startswith("host.model.visual.") for name in plan.names)
    new = {name for name in plan.names if name.startswith(("region_encoder.", "region_connector."))}
    assert sum(sizes[name] for name in new) == whole(sizes, "region_encoder.", "region_connector.")
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == set(plan.names)


def test_stage_1_trains_the_region_parts_and_the_rows_of_new_tokens_alone():
    plan, sizes, _ = plan_of(CONFIGS[0].with_name("stage1.yaml"))
    rows = {mask.name for mask in plan.row_masks}
    assert all(name in rows or name.startswith("region_") for name in plan.names)
    assert rows == {"host.model.language_model.embed_tokens.weight", "host.lm_head.weight"}
    assert sum(plan.counts.values()) == whole(sizes, "region_") + 2 * len(NEW) * 2048


def test_stage_2_trains_the_auxiliary_tower_and_the_language_model_as_well():
    plan, sizes, _ = plan_of(CONFIGS[0].with_name("stage2.yaml"))
    modules = ("auxiliary.", "region_", "host.model.language_model.", "host.lm_head.")
    assert sum(plan.counts.values()) == whole(sizes, *modules)


def test_adapters_sit_on_every_linear_layer_of_the_language_model():
    plan, sizes, _ = plan_of(CONFIGS[0].with_name("stage2-lora.yaml"))
    adapters = [name for name in plan.names if ".lora_" in name]
    assert len(adapters) == 2 * 7 * QWEN_3B["num_hidden_layers"]
    assert plan.counts["lora"] == sum(sizes[name] for name in adapters)
    assert not any(name.startswith("host.") for name in set(plan.names) - set(adapters))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_source_of_a_mixture_lacks_its_files_only(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no data lies here
    config = read(path, TrainConfig)
    mixtures: list[dict[str, Any]] = [stage.mixture for stage in config.stages]
    if config.evaluation is not None:
        mixtures.append(config.evaluation.mixture)
    sources = [source for mixture in mixtures for source in mixture["sources"]]
    for source in (source for source in sources if source["type"] != "bundled"):
        with pytest.raises(DataError, match="does not exist"):  # a wrong key is a ConfigError
            make_mixture({"sources": [source]})
