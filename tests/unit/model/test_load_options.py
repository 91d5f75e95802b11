"""Keywords of transformers: taken as there, or refused by name before anything is loaded."""

import importlib.util

import pytest
import torch
from transformers import BitsAndBytesConfig

from vlm_fo1.errors import ConfigError, MissingExtraError
from vlm_fo1.fo1 import FO1
from vlm_fo1.model.load_options import load_options
from vlm_fo1.model.modeling import FO1ForConditionalGeneration

NOWHERE = "no such folder at all"
"""Loading it would fail, so an error about an option shows that the option was looked at first."""


@pytest.fixture
def with_bitsandbytes(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name if name == "bitsandbytes" else real(name)
    )


def test_the_older_name_of_dtype_means_dtype():
    assert load_options({"torch_dtype": torch.bfloat16}) == {"dtype": torch.bfloat16}
    assert load_options({"torch_dtype": "auto", "dtype": "auto"}) == {"dtype": "auto"}


def test_what_has_no_effect_is_dropped_and_so_is_what_is_none():
    assert not load_options(
        {"low_cpu_mem_usage": True, "trust_remote_code": True, "_from_auto": True, "dtype": None}
    )


@pytest.mark.parametrize("name", ["load_in_8bit", "load_in_4bit"])
def test_eight_and_four_bits_become_a_quantization_config(with_bitsandbytes, name):
    options = load_options({name: True, "dtype": "bfloat16"})
    assert getattr(options.pop("quantization_config"), name) is True
    assert options == {"dtype": "bfloat16"}
    assert not load_options({name: False})


@pytest.mark.parametrize(
    "options",
    [
        {"load_in_8bit": True},
        {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    ],
    ids=["by name", "as an object", "as a dict"],
)
def test_without_bitsandbytes_fewer_bits_are_refused_at_once(monkeypatch, options):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for load in (FO1.from_pretrained, FO1ForConditionalGeneration.from_pretrained):
        with pytest.raises(MissingExtraError, match="pip install bitsandbytes"):
            load(NOWHERE, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"atn_implementation": "sdpa"}, "no option atn_implementation: did you mean attn_impl"),
        ({"revison": "main"}, "no option revison: did you mean revision"),
        ({"use_cache": False}, "no option use_cache: known are dtype, device_map"),
        ({"use_safetensors": True}, "use_safetensors is not an option here: safetensors are read"),
        ({"resume_download": True}, "always goes on where it stopped"),
        ({"torch_dtype": "float32", "dtype": "bfloat16"}, "torch_dtype = float32 and dtype = bf"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_anything_is_loaded(options, words):
    for load in (FO1.from_pretrained, FO1ForConditionalGeneration.from_pretrained):
        with pytest.raises(ConfigError, match=words):
            load(NOWHERE, **options)


def test_two_places_for_a_model_are_refused():
    with pytest.raises(ConfigError, match="device = cpu and device_map = auto: pass device alone"):
        FO1.from_pretrained(NOWHERE, device="cpu", device_map="auto")


def test_fewer_bits_and_a_quantization_config_are_refused_together(with_bitsandbytes):
    config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ConfigError, match="load_in_4bit and quantization_config: pass one"):
        load_options({"load_in_4bit": True, "quantization_config": config})
