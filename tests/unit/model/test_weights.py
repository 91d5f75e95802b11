"""Reading checkpoints: complete and strict, with errors that name what is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from vlm_fo1.errors import CheckpointError, ConfigError
from vlm_fo1.families.omchat_qwen2_5_vl import region_token_id
from vlm_fo1.model.configuration import FO1Config, from_released
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.weights import rename_released

DATA = Path(__file__).parents[2] / "data"
RELEASED = DATA / "fo1"

QWEN_3B = {
    "model_type": "omchat_qwen2_5_vl",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "mm_vision_tower": "resources/Qwen2.5-VL-3B-Instruct-Vision_Tower",
    "mm_vision_tower_aux": "resources/davit-large.pth",
    "mm_projector_type": "mlp2x_gelu",
    "mm_projector_aux_type": "mlp2x_gelu",
    "mm_region_hidden_size": 5888,
    "aux_image_size": 1024,
    "aux_image_aspect_ratio": "dynamic",
}
"""What is known of the released configuration; sizes that it leaves out follow from tower names."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A released-style checkpoint that a test may damage."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(RELEASED / name, tmp_path / name)
    return tmp_path


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def load(folder: Path) -> FO1ForConditionalGeneration:
    return FO1ForConditionalGeneration.from_pretrained(folder)


def test_every_tensor_of_the_released_3b_model_has_its_place_and_every_place_its_tensor() -> None:
    theirs = json.loads((DATA / "vlm_fo1_3b_tensors.json").read_text())
    config = from_released(QWEN_3B)
    with torch.device("meta"):
        ours = FO1ForConditionalGeneration(config).state_dict()
    renamed = rename_released(theirs, config)
    assert {renamed[name]: shape for name, shape in theirs.items()} == {
        name: list(value.shape) for name, value in ours.items()
    }
    assert len(set(renamed.values())) == len(theirs) == 1265


def test_the_released_3b_configuration_is_understood() -> None:
    config = from_released(QWEN_3B)
    assert config.region_width == 5888
    assert config.hidden_size == 2048
    assert config.region_token_id == 151656


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("mm_region_feature_combination", "mean"),
        ("mm_use_vision_tower_region_feature", False),
        ("mm_pos_embedding_strategy", "feature_map_based"),
        ("mm_projector_type", "resampler"),
        ("mm_vision_tower_aux", "resources/convnext.pth"),
        ("mm_region_hidden_size", 1234),
    ],
)
def test_an_option_no_released_checkpoint_uses_is_refused_by_name(option, value) -> None:
    def build() -> None:
        with torch.device("meta"):
            FO1ForConditionalGeneration(from_released({**QWEN_3B, option: value}))

    with pytest.raises(ConfigError) as caught:
        build()
    text = str(caught.value)
    assert option in text or str(value) in text or "convnext" in text


def test_a_folder_without_configuration_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no config\.json"):
        load(tmp_path)


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused() -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a Hub id"):
        load(Path("no such thing here"))


def test_a_hub_id_that_is_not_cached_says_so_offline() -> None:
    with pytest.raises(
        CheckpointError, match="run `hf download nobody/nothing` where the Hub can be reached"
    ):
        FO1ForConditionalGeneration.from_pretrained("nobody/nothing", local_files_only=True)


def test_a_configuration_of_another_model_is_refused(folder: Path) -> None:
    edit_config(folder, model_type="llava")
    with pytest.raises(CheckpointError, match="model_type 'llava'"):
        load(folder)


def test_a_broken_configuration_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        load(folder)


def test_a_folder_without_weights_says_which_files_are_looked_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load(folder)


def test_a_file_cut_short_is_named(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read .*cut short"):
        load(folder)


def split(folder: Path, suffix: str) -> list[str]:
    """Turn the one file into three shards with an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = sorted(state)
    shards = [f"{stem}-{number}-of-3.{suffix}" for number in range(3)]
    where = {name: shards[index % 3] for index, name in enumerate(names)}
    for shard in shards:
        part = {name: state[name] for name in names if where[name] == shard}
        if suffix == "safetensors":
            save_file(part, folder / shard)
        else:
            torch.save(part, folder / shard)
    index = json.dumps({"weight_map": where})
    (folder / f"{stem}.{suffix}.index.json").write_text(index)
    return shards


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_load_like_one_file(folder: Path, suffix: str) -> None:
    whole = load(folder).state_dict()
    split(folder, suffix)
    for name, value in load(folder).state_dict().items():
        assert torch.equal(value, whole[name])


def test_a_missing_shard_is_named(folder: Path) -> None:
    shards = split(folder, "safetensors")
    (folder / shards[1]).unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of 3 shards: {shards[1]}"):
        load(folder)


def test_a_shard_that_the_index_lacks_says_that_the_download_goes_on(folder: Path) -> None:
    shards = split(folder, "bin")
    (folder / shards[0]).unlink()
    with pytest.raises(CheckpointError, match="same download, run again, goes on where it stop"):
        load(folder)


def test_one_whole_file_is_read_before_shards_and_the_log_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = load_file(folder / "model.safetensors")
    split(folder, "safetensors")
    for shard in folder.glob("model-*.safetensors"):
        save_file({name: value + 1 for name, value in load_file(shard).items()}, shard)
    save_file(whole, folder / "model.safetensors")
    loaded = load(folder).state_dict()["region_connector.0.bias"]
    assert torch.equal(loaded, whole["model.mm_projector_aux.0.bias"])
    assert "model.safetensors is read, and not the shards" in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_what_git_lfs_left_in_place_of_a_file_is_named_as_such(folder: Path, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 70316\n"
    (folder / name).write_text(pointer)
    with pytest.raises(CheckpointError, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
        load(folder)


def test_an_index_that_names_no_shards_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match=r"index\.json names no shards"):
        load(folder)


def test_a_folder_with_an_adapter_alone_says_to_merge_it(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(
        CheckpointError, match=r"LoRA adapter without its model: .*merge_and_unload"
    ):
        load(folder)


def test_a_file_in_place_of_a_folder_says_to_name_the_folder(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file: name the folder"):
        load(folder / "model.safetensors")


def test_a_host_without_regions_says_how_they_are_added(folder: Path) -> None:
    edit_config(folder, model_type="qwen2_5_vl")
    with pytest.raises(CheckpointError, match=r"host without regions: `fo1 graft .*` adds them"):
        load(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_size": "wide"}, r"config\.json cannot be used: .*hidden_size"),
        ({"vision_config": {"depth": "x"}}, r"config\.json cannot be used: .*depth"),
        ({"model_type": None}, "model_type None"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(folder: Path, values, words) -> None:
    edit_config(folder, **values)
    with pytest.raises((CheckpointError, ConfigError), match=words):
        load(folder)


def test_a_stored_head_gives_way_to_the_embeddings_where_the_configuration_ties_them(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_config(folder, tie_word_embeddings=True)
    model = load(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert "the stored lm_head differs from the embeddings and is not used" in caplog.text
    caplog.clear()
    words = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    damage(folder, lambda state: state.update({"lm_head.weight": words.clone()}))
    head = load(folder).state_dict()["host.lm_head.weight"]
    assert torch.equal(head, words)
    assert not caplog.messages


def test_the_placeholder_of_regions_is_that_of_videos_unless_the_configuration_names_one() -> None:
    assert region_token_id({"vocab_size": 151771}) == 151656
    assert region_token_id({"vocab_size": 400, "video_token_id": 256}) == 256
    assert region_token_id({"vocab_size": 400, "region_token_id": 9}) == 9
    assert region_token_id({"vocab_size": 400}) == 399
    nested = {"text_config": {"vocab_size": 400}, "video_token_id": 7}
    assert region_token_id(nested) == 7


def test_a_pickle_that_runs_code_is_not_run(folder: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (folder / "ran",))

    (folder / "model.safetensors").unlink()
    torch.save({"x": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load(folder)
    assert not (folder / "ran").exists()


def damage(folder: Path, edit) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors")


def test_a_missing_tensor_is_named(folder: Path) -> None:
    damage(folder, lambda state: state.pop("model.mm_projector_aux.0.bias"))
    with pytest.raises(CheckpointError, match=r"1 of 309 missing: region_connector\.0\.bias"):
        load(folder)


def test_tensors_left_over_are_counted_and_named_and_refused_where_that_is_asked_for(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = load(folder).state_dict()
    assert not caplog.messages
    extra = {"model.extra.weight": torch.zeros(2), "model.layers.0.inv_freq": torch.zeros(3)}
    damage(folder, lambda state: state.update(extra))
    for name, value in load(folder).state_dict().items():
        assert torch.equal(value, whole[name])
    (message,) = caplog.messages
    assert "2 tensors have no place" in message
    assert "model.extra.weight, model.layers.0.inv_freq" in message
    with pytest.raises(CheckpointError, match=r"2 left over: model\.extra\.weight"):
        FO1ForConditionalGeneration.from_pretrained(folder, strict=True)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    damage(folder, lambda state: state.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(CheckpointError, match=r"norm\.weight is \(7,\), \(48,\) expected"):
        load(folder)


def test_a_tied_head_may_be_absent_and_is_the_embedding(folder: Path) -> None:
    damage(folder, lambda state: state.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"1 of 309 missing: host\.lm_head\.weight"):
        load(folder)
    edit_config(folder, tie_word_embeddings=True)
    model = load(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("tied", [False, True])
def test_saving_and_loading_in_our_layout_is_exact(folder: Path, tied: bool) -> None:
    edit_config(folder, tie_word_embeddings=tied)
    model = load(folder)
    model.save_pretrained(folder / "ours")
    again = load(folder / "ours")
    assert isinstance(again.config, FO1Config)
    assert again.config.to_dict()["region_config"] == model.config.to_dict()["region_config"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_weights_load_in_the_type_asked_for(folder: Path) -> None:
    model = FO1ForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_generation_configuration_in_the_folder_is_used(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"top_k": 7}')
    assert load(folder).generation_config.top_k == 7


def test_eight_bit_weights_come_through_transformers_quantisation(folder: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit needs bitsandbytes: pip install bitsandbytes")
    quantised = FO1ForConditionalGeneration.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    names = {type(module).__name__ for module in quantised.modules()}
    assert "Linear8bitLt" in names
