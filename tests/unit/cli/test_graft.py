"""`fo1 graft` and what it refuses, from a host's folder to answers."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.helpers import hosts
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig
from transformers.models.florence2.modeling_florence2 import Florence2VisionBackbone
from typer.testing import CliRunner

from vlm_fo1.cli.main import app
from vlm_fo1.errors import CheckpointError, ConfigError
from vlm_fo1.families.florence2 import DAVIT_SIZES, davit_sizes
from vlm_fo1.fo1 import FO1
from vlm_fo1.graft import graft_host
from vlm_fo1.markup import Vocabulary
from vlm_fo1.model import graft as network
from vlm_fo1.model.graft import graft
from vlm_fo1.processing.hosts import HOST_CHATS, chat_for_host

BOXES = np.array([[2.0, 3, 40, 30], [30, 10, 90, 50]], np.float32)


def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 100, 3), np.uint8)
    return Image.fromarray(pixels)


BOS = {"idefics3": "<|begin_of_text|>", "smolvlm": "<|im_start|>"}


def save_host(kind: str, folder: Path, *, bos_token: str | None = None) -> Path:
    """A tiny host with the tokenizer of its type."""
    chat = HOST_CHATS[hosts.type_of(kind)]
    text = chat.opening + chat.before_image + chat.image_token + chat.after_image + chat.closing
    control = set(re.findall(r"<[^<>]+>", text + chat.stop_token)) - {"<image>"}
    tokenizer = hosts.make_tokenizer(sorted(control), bos_token or BOS.get(hosts.type_of(kind)))
    host = hosts.make_host(kind)
    host.config.image_token_id = tokenizer.convert_tokens_to_ids(chat.image_token)
    host.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_florence(folder: Path, *, original_names: bool) -> Florence2VisionBackbone:
    """A Florence-2 folder with nothing but a tiny vision tower."""
    torch.manual_seed(5)
    tower = Florence2VisionBackbone(Florence2VisionConfig(**hosts.AUXILIARY))
    vision = dict(hosts.AUXILIARY)
    state = tower.state_dict()
    if original_names:
        vision["dim_embed"] = vision.pop("embed_dim")
        state = {original_name(name): value for name, value in state.items()}
    folder.mkdir()
    config = {"model_type": "florence2", "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config))
    prefix = "vision_tower." if original_names else "model.vision_tower."
    named = {prefix + name: value.contiguous() for name, value in state.items()}
    save_file({**named, "image_projection": torch.zeros(1)}, folder / "model.safetensors")
    return tower


def original_name(name: str) -> str:
    """transformers' name of a DaViT weight to Florence-2's own."""
    for pattern, old in (
        (r"(convs\.\d+)\.conv\.", r"\1.proj."),
        (r"\.(conv[12])\.", r".\1.fn.dw."),
        (r"spatial_block\.norm1\.", "spatial_block.window_attn.norm."),
        (r"channel_block\.norm1\.", "channel_block.channel_attn.norm."),
        (r"\.norm2\.", ".ffn.norm."),
        (r"\.(window|channel)_attn\.(qkv|proj)\.", r".\1_attn.fn.\2."),
        (r"\.ffn\.(fc[12])\.", r".ffn.fn.net.\1."),
    ):
        name = re.sub(pattern, old, name)
    return name


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Towers and pyramids of few channels: at real widths nearly all time goes into convolving."""
    monkeypatch.setitem(DAVIT_SIZES, "davit-tiny", (32, 1))
    monkeypatch.setattr(network, "graft", functools.partial(graft, pyramid_channels=8))


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["graft", *map(str, arguments)])


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("kind", sorted(hosts.CONFIGS))
def test_a_grafted_folder_answers_questions_about_regions(kind: str, tmp_path: Path) -> None:
    host = save_host(kind, tmp_path / "host")
    save_florence(tmp_path / "florence", original_names=False)
    out = tmp_path / "out"
    done = run(host, "--out", out, "--auxiliary-weights", tmp_path / "florence", "--max-regions", 4)
    assert done.exit_code == 0, done.output
    assert "million new weights" in done.output
    fo1 = FO1.from_pretrained(out, device="cpu")
    scene = fo1.open(photo(), BOXES)
    answers = [scene.ask("what is this", max_new_tokens=6).text for _ in range(2)]
    inputs = fo1.processor([photo()], ["what is this"], [BOXES])
    ids = fo1.model.generate(
        **inputs, max_new_tokens=6, do_sample=False, eos_token_id=fo1.processor.stop_token_id
    )
    plain = fo1.processor.decode(ids[0, inputs["input_ids"].shape[1] :])
    assert answers == [plain, plain]
    assert_several_images_and_a_system_message_fit_one_prompt(fo1)


def test_python_grafts_a_host_with_its_processor_as_the_command_does(tmp_path: Path) -> None:
    host = save_host("qwen3_vl", tmp_path / "host")
    done = run(host, "--out", tmp_path / "out", "--auxiliary", "davit-tiny", "--max-regions", 4)
    assert done.exit_code == 0, done.output
    torch.manual_seed(0)
    model, processor = graft_host(
        host, auxiliary="davit-tiny", vocabulary=Vocabulary(max_regions=4)
    )
    saved = FO1.from_pretrained(tmp_path / "out", device="cpu", dtype=model.dtype)
    assert processor.to_dict() == saved.processor.to_dict()
    weights = dict(saved.model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())


def assert_several_images_and_a_system_message_fit_one_prompt(fo1: FO1) -> None:
    answer = fo1.ask(
        photo(), "is this what", BOXES, images=[photo()], system="red", max_new_tokens=6
    )
    processor, boxes = fo1.processor, torch.tensor(BOXES, dtype=torch.float32)
    tokens = processor.image_processor.tokens_of(photo().size)
    ids = processor.encode_prefix(len(BOXES), tokens, system="red")
    ids += processor.encode_question("is this what", len(BOXES), more_images=[tokens])
    batch = processor.image_processor([photo()] * 2, [boxes.numpy(), None])
    out = fo1.model.generate(
        torch.tensor([ids]), **batch, max_new_tokens=6, do_sample=False,
        eos_token_id=processor.stop_token_id,
    )  # fmt: skip
    assert answer.text == processor.decode(out[0, len(ids) :])


@pytest.mark.usefixtures("narrow")
def test_a_host_starts_its_prompts_with_its_own_tokenizers_bos(tmp_path: Path) -> None:
    """The first SmolVLMs are of type idefics3, but start as the second ones do."""
    for name, first in (("idefics3", "<|begin_of_text|>"), ("smolvlm-1", "<|im_start|>")):
        host = save_host("idefics3", tmp_path / name, bos_token=first)
        out = tmp_path / f"{name}-out"
        done = run(host, "--out", out, "--auxiliary", "davit-tiny", "--max-regions", 4)
        assert done.exit_code == 0, done.output
        processor = FO1.from_pretrained(out, device="cpu").processor
        assert processor.chat.opening == f"{first}User:"
        ids = processor.encode_prompt("what is this", 0, 1)
        assert ids[0] == processor.tokenizer.bos_token_id
        assert ids.count(processor.tokenizer.bos_token_id) == 1


def test_a_host_whose_chat_its_tokenizer_does_not_know_is_refused(tmp_path: Path) -> None:
    without = hosts.make_tokenizer()
    with pytest.raises(ConfigError, match=r"no BOS token.*'idefics3'"):
        chat_for_host("idefics3", without)
    host = save_host("qwen3_vl", tmp_path / "host")
    plain = hosts.make_tokenizer(["<|image_pad|>", "<|im_end|>", "<|vision_start|>"])
    plain.save_pretrained(host)
    done = run(host, "--out", tmp_path / "out", "--auxiliary", "davit-tiny")
    assert done.exit_code == 2
    assert re.search(r"splits <\|im_start\|> into .* one is needed", done.output)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("narrow")
def test_a_hosts_repetition_penalty_does_not_reach_decoding(tmp_path: Path) -> None:
    host = save_host("qwen2_5_vl", tmp_path / "host")
    settings = {"repetition_penalty": 1e6, "no_repeat_ngram_size": 1, "max_new_tokens": 6}
    (host / "generation_config.json").write_text(json.dumps(settings))
    out = tmp_path / "out"
    done = run(host, "--out", out, "--auxiliary", "davit-tiny", "--max-regions", 4)
    assert done.exit_code == 0, done.output
    assert "repetition" not in (out / "generation_config.json").read_text()
    (out / "generation_config.json").write_text(json.dumps(settings))  # as released folders have it
    fo1 = FO1.from_pretrained(out, device="cpu")
    inputs = fo1.processor([photo()], ["what is this"], [BOXES])
    shown = inputs["input_ids"].shape[1]

    def written(**options: Any) -> list[int]:
        return fo1.model.generate(**inputs, **options)[0, shown:].tolist()

    plain = written(repetition_penalty=1.0, no_repeat_ngram_size=0)
    assert written() == plain
    assert len(written()) == 6  # the rest of the settings holds
    assert written(repetition_penalty=1e6) != plain
    scene = fo1.open(photo(), BOXES)
    assert scene.ask("what is this", max_new_tokens=6).text == fo1.processor.decode(plain)


@pytest.mark.usefixtures("narrow")
def test_the_same_seed_grafts_the_same_weights(tmp_path: Path) -> None:
    host = save_host("qwen3_vl", tmp_path / "host")
    states = []
    for name in ("one", "two"):
        done = run(host, "--out", tmp_path / name, "--auxiliary", "davit-tiny")
        assert done.exit_code == 0, done.output
        states.append((tmp_path / name / "model.safetensors").read_bytes())
    assert states[0] == states[1]


@pytest.mark.parametrize("original_names", [True, False])
def test_the_auxiliary_tower_starts_from_a_florence_2(original_names: bool, tmp_path: Path) -> None:
    tower = save_florence(tmp_path / "florence", original_names=original_names)
    model = graft(
        hosts.make_host("qwen2_5_vl"),
        hosts.make_tokenizer(),
        auxiliary_weights=tmp_path / "florence",
        pyramid_channels=8,
    )
    loaded = model.auxiliary.tower.state_dict()
    assert loaded.keys() == tower.state_dict().keys()
    for name, value in tower.state_dict().items():
        assert torch.equal(loaded[name], value), name


def test_weights_that_do_not_fit_the_named_tower_are_refused(tmp_path: Path) -> None:
    save_florence(tmp_path / "florence", original_names=False)
    with pytest.raises(CheckpointError, match=r"auxiliary tower; .*another shape"):
        graft(
            hosts.make_host("qwen2_5_vl"),
            hosts.make_tokenizer(),
            auxiliary="davit-tiny",
            auxiliary_weights=tmp_path / "florence",
        )


def test_auxiliary_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    host = save_host("qwen3_vl", tmp_path / "host")
    with pytest.raises(CheckpointError, match=r"'qwen3_vl'.*Florence-2"):
        graft(host, hosts.make_tokenizer(), auxiliary_weights=host)


def test_an_unknown_tower_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'davit-huge'.*davit-tiny, davit-base, davit-large"):
        davit_sizes("davit-huge")


def test_a_host_without_adapter_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match=r"'llava'.*qwen2_5_vl, qwen3_vl, idefics3, smolvlm"):
        graft(tmp_path, hosts.make_tokenizer())


def test_a_host_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    host = save_host("idefics3", tmp_path / "host")
    weights = {"model.text_model.norm.weight": torch.ones(hosts.WIDTH)}
    save_file(weights, host / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks \d+ weights: .*lm_head"):
        graft(host, hosts.make_tokenizer())


def test_the_command_names_the_reason_and_fails(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    done = run(tmp_path, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "no adapter for hosts of type 'llava'" in done.output
    assert not (tmp_path / "out").exists()


def test_a_host_without_tokenizer_is_refused(tmp_path: Path) -> None:
    host = save_host("idefics3", tmp_path / "host")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (host / name).unlink()
    done = run(host, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "has no tokenizer: " in done.output


def test_a_folder_with_a_model_is_not_written_over(tmp_path: Path) -> None:
    host = save_host("qwen3_vl", tmp_path / "host")
    before = (host / "config.json").read_bytes()
    assert run(host, "--out", host).exit_code == 2
    assert (host / "config.json").read_bytes() == before
