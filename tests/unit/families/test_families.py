"""Released families: one reader of config.json, whose values model and processor share."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from tests.helpers.released import make_released

from vlm_fo1.errors import ConfigError
from vlm_fo1.families import FAMILIES, family_of_tensors, find_family
from vlm_fo1.model.configuration import FO1Config
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.weights import read_config, rename_released
from vlm_fo1.processing import FO1Processor
from vlm_fo1.processing.chat import ChatFormat


def change(folder, **changes):
    """A folder whose config.json says otherwise; None takes a key out."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    kept = {key: value for key, value in values.items() if value is not None}
    path.write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize(
    "changes",
    [{}, {"region_token_id": 3}, {"aux_image_aspect_ratio": None, "aux_image_size": None}],
)
def test_model_and_processor_of_a_released_folder_agree(tmp_path, changes):
    folder = change(make_released(tmp_path), **changes)
    config, processor = read_config(folder), FO1Processor.from_pretrained(folder)
    assert config.region_token_id == processor.region_token_id
    assert config.image_token_id == processor.image_token_id
    vision, primary = config.host.vision_config, processor.image_processor.primary
    assert vision.patch_size == primary["patch_size"]
    assert vision.spatial_merge_size == primary["merge_size"]
    assert vision.temporal_patch_size == primary["temporal_patch_size"]
    assert processor.chat.control_tokens() == ChatFormat().control_tokens()


def test_the_processor_alone_says_how_the_auxiliary_image_is_sized(tmp_path):
    folder = change(make_released(tmp_path), aux_image_aspect_ratio=None, aux_image_size=None)
    images = FO1Processor.from_pretrained(folder).image_processor
    assert (images.aux_image_aspect_ratio, images.aux_image_size) == ("dynamic", 768)
    assert not {"auxiliary_image", "vocabulary"} & set(read_config(folder).to_dict())


def test_a_configuration_that_says_what_the_processor_decides_is_still_read():
    older = {"vocabulary": {"max_regions": 7}, "auxiliary_image": {"size": 9, "mode": "squash"}}
    config = FO1Config.from_dict({"model_type": "vlm_fo1", "region_token_id": 5, **older})
    assert config.region_token_id == 5
    assert not set(older) & set(config.to_dict())


def test_a_family_says_what_a_chat_is_made_of():
    for kind in FAMILIES:
        chat = find_family(kind).processor_values({}, {})[1]["chat"]
        assert set(chat) == {item.name for item in fields(ChatFormat)}


def test_a_family_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"no released family 'llava', there are omchat_qwen2"):
        find_family("llava")


def test_tensors_tell_whether_they_are_released_or_ours(tmp_path):
    config = read_config(make_released(tmp_path))
    with torch.device("meta"):
        ours = list(FO1ForConditionalGeneration(config).state_dict())
    assert family_of_tensors(ours) is None
    assert rename_released(ours, config) == {name: name for name in ours}
    assert family_of_tensors(["model.vision_tower.image_tower.x"]) is not None


def test_reading_a_family_needs_no_torch():
    code = (
        "import sys; from vlm_fo1.families import FAMILIES, find_family; "
        "[find_family(kind) for kind in FAMILIES]; "
        "assert not {'torch', 'transformers', 'PIL'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
