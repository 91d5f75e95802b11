"""Images, boxes and questions to a batch; folders, and what is refused of them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.helpers.released import Layout, make_released
from tests.helpers.tokenizer import CONTROL, char_tokenizer

from vlm_fo1.config import build
from vlm_fo1.errors import (
    BoxError,
    CheckpointError,
    ConfigError,
    ImageError,
    MissingExtraError,
    PromptError,
)
from vlm_fo1.markup import Vocabulary
from vlm_fo1.processing import ChatFormat, FO1ImageProcessor, FO1Processor, qwen_primary

IMAGE = Image.effect_noise((120, 90), 80).convert("RGB")
BOXES = [[10, 20, 60, 70], [0, 0, 120, 90]]


def text_of(processor: FO1Processor, ids) -> str:
    """Ids as text, image tokens drawn together."""
    tokens = processor.tokenizer.convert_ids_to_tokens(list(ids))
    text = "".join(tokens)
    while "<|image_pad|><|image_pad|>" in text:
        text = text.replace("<|image_pad|><|image_pad|>", "<|image_pad|>")
    return text


def test_regions_without_an_image_or_without_tags_are_refused(processor):
    with pytest.raises(PromptError, match="2 regions but no image"):
        processor.prompt("a", 2, image=False)
    with pytest.raises(PromptError, match="2 regions but no image"):
        processor.encode_prefix(2, 0)
    with pytest.raises(BoxError, match="101 regions, but only 100 region tags"):
        processor.encode_prompt("a", 101, 4)


# Batches


def test_one_question_about_one_image_is_a_batch_of_one(processor):
    batch = processor(IMAGE, "Where?", BOXES)
    assert batch["input_ids"].tolist() == [processor.encode_prompt("Where?", 2, 12)]
    assert batch["attention_mask"].tolist() == [[1] * batch["input_ids"].shape[1]]
    assert (batch["input_ids"] == processor.image_token_id).sum() == 12
    assert (batch["input_ids"] == processor.region_token_id).sum() == 2
    assert batch["region_boxes"][0].tolist() == BOXES
    assert text_of(processor, batch["input_ids"][0]) == processor.prompt("Where?", 2).replace(
        "<image>", "<|image_pad|>"
    )


def test_a_mixed_batch_is_its_rows_padded_on_the_left(processor):
    images = [IMAGE, None, IMAGE.resize((60, 200))]
    questions = ["Where?", "A longer question without an image", "And here?"]
    boxes = [BOXES, None, None]
    batch = processor(images, questions, boxes)
    for row, (image, question, its) in enumerate(zip(images, questions, boxes, strict=True)):
        alone = processor(image, question, its)
        padding = batch["input_ids"].shape[1] - alone["input_ids"].shape[1]
        assert (batch["input_ids"][row, :padding] == processor.tokenizer.pad_token_id).all()
        assert torch.equal(batch["input_ids"][row, padding:], alone["input_ids"][0])
        mask = [0] * padding + [1] * alone["input_ids"].shape[1]
        assert batch["attention_mask"][row].tolist() == mask
    assert batch["image_grid_thw"].shape == (2, 3)
    assert [len(regions) for regions in batch["region_boxes"]] == [2, 0]
    assert len(batch["aux_pixel_values"]) == 2


def test_a_batch_of_texts_has_no_image_keys(processor):
    batch = processor(questions=["Why?", "Who is it?"])
    assert set(batch) == {"input_ids", "attention_mask"}
    assert set(processor(questions="Why?")) == {"input_ids", "attention_mask"}


def test_lists_are_given_when_no_tensors_are_asked_for(processor):
    batch = processor(questions=["Why?", "Who is it?"], padding=False, return_tensors=None)
    assert [len(row) for row in batch["input_ids"]] == [len(row) for row in batch["attention_mask"]]
    assert len(batch["input_ids"][0]) + 6 == len(batch["input_ids"][1])
    with pytest.raises(PromptError, match=r"rows have \d+, \d+ tokens: pass padding=True"):
        processor(questions=["Why?", "Who is it?"], padding=False)


def test_images_boxes_and_questions_must_pair_up(processor):
    with pytest.raises(PromptError, match="no question given"):
        processor(IMAGE)
    with pytest.raises(PromptError, match="2 questions but 1 images"):
        processor(IMAGE, ["a", "b"])
    with pytest.raises(BoxError, match="2 questions but 1 lists of boxes"):
        processor([IMAGE, IMAGE], ["a", "b"], [BOXES])
    with pytest.raises(BoxError, match="row 1 has 2 boxes but no image"):
        processor([IMAGE, None], ["a", "b"], [BOXES, BOXES])
    with pytest.raises(BoxError, match="row 0 has 2 boxes but no image"):
        processor(None, "a", BOXES)


def test_an_image_may_be_a_path(processor, tmp_path):
    path = tmp_path / "image.png"
    IMAGE.save(path)
    first, second = processor(path, "a"), processor(IMAGE, "a")
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    with pytest.raises(ImageError, match=r"gone.png' does not exist"):
        processor(tmp_path / "gone.png", "a")


# Ids to text


def test_decoding_keeps_markup_and_spaces_and_stops_at_the_stop_token(processor):
    text = "Two : <ground>red cat</ground><objects><region3><region17></objects> , that is all ."
    ids = processor.tokenizer(f"{text}<|im_end|>junk")["input_ids"]
    assert processor.decode(ids) == text
    assert processor.decode(torch.tensor(ids)) == text
    assert processor.decode([]) == ""


def test_region_tag_ids_name_every_region(processor):
    ids = processor.region_tag_ids()
    assert len(ids) == 100
    assert processor.tokenizer.convert_ids_to_tokens(ids[42]) == "<region42>"
    assert processor.stop_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_tokenizer_without_the_tags_is_refused_where_they_are_needed():
    few = Vocabulary(max_regions=5)
    processor = FO1Processor(FO1ImageProcessor(), char_tokenizer(few), region_token_id=1)
    with pytest.raises(ConfigError, match=r"splits <region5> into 9 tokens, one is needed"):
        processor.region_tag_ids()


def test_a_processor_that_cannot_work_is_refused():
    other = char_tokenizer(Vocabulary(region_feature="<other>"))
    with pytest.raises(ConfigError, match="no token <regionfeat>: add it, or pass region_token_id"):
        FO1Processor(FO1ImageProcessor(), other)
    with pytest.raises(ConfigError, match="no token <stop>: add it"):
        FO1Processor(FO1ImageProcessor(), char_tokenizer(), chat=ChatFormat(stop_token="<stop>"))
    with pytest.raises(ConfigError, match="max_regions is 7 but the vocabulary has 100"):
        FO1Processor(FO1ImageProcessor(max_regions=7), char_tokenizer())
    with pytest.raises(ConfigError, match=r"unknown key 'chat\.start': "):
        build(ChatFormat, {"start": "a"}, "chat")
    with pytest.raises(ConfigError, match=r"chat\.opening = 3 is a int"):
        build(ChatFormat, {"opening": 3}, "chat")


# Folders


def test_a_saved_processor_loads_as_it_was(tmp_path):
    words = Vocabulary(region_tag="<obj{}>", region_feature="<objfeat>", max_regions=12)
    processor = FO1Processor(
        FO1ImageProcessor(primary=qwen_primary(patch_size=16), max_regions=12),
        char_tokenizer(words, with_feature=False),
        words,
        ChatFormat(opening="<|im_start|>user\n"),
        region_token_id=500,
        chat_template="{{ messages }}",
    )
    processor.save_pretrained(tmp_path)
    loaded = FO1Processor.from_pretrained(tmp_path)
    assert loaded.vocabulary == words
    assert loaded.chat == processor.chat
    assert loaded.chat_template == "{{ messages }}"
    assert loaded.to_dict() == processor.to_dict()
    first, second = processor(IMAGE, "<obj1>?", BOXES), loaded(IMAGE, "<obj1>?", BOXES)
    for key in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw"):
        assert torch.equal(first[key], second[key])
    assert first["input_ids"].max() == 500


RELEASED_CONFIG = {
    "model_type": "omchat_qwen2_5_vl",
    "vocab_size": 400,
    "aux_image_size": 1024,
    "aux_image_aspect_ratio": "squash",
    "mm_num_region_tokens": 100,
    "vision_config": {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2},
}


def released_folder(folder: Path, **changes) -> Path:
    """A folder as the authors publish: a host's tokenizer and a configuration."""
    char_tokenizer(with_feature=False).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**RELEASED_CONFIG, **changes}))
    return folder


def test_a_released_folder_needs_no_processor_files(tmp_path):
    processor = FO1Processor.from_pretrained(released_folder(tmp_path))
    assert processor.region_token_id == 399
    assert processor.image_token_id == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert processor.image_processor.aux_image_aspect_ratio == "squash"
    batch = processor(IMAGE, "Where?", BOXES)
    assert batch["aux_pixel_values"][0].shape == (3, 1024, 1024)
    assert (batch["input_ids"] == 399).sum() == 2


def test_a_released_folder_with_the_hosts_files_keeps_the_fixed_limits(tmp_path):
    host = {
        "processor_class": "Qwen2_5_VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 3136,
        "max_pixels": 5000,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "patch_size": 14,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(host))
    processor = FO1Processor.from_pretrained(released_folder(tmp_path))
    batch = processor(Image.new("RGB", (1400, 1400), "white"), "a")
    assert batch["image_grid_thw"].tolist() == [[1, 100, 100]]
    assert batch["pixel_values"].unique().tolist() == [1]


def test_a_released_folder_may_name_its_tokens(tmp_path):
    folder = released_folder(tmp_path, image_token_id=3, region_token_id=4)
    processor = FO1Processor.from_pretrained(folder)
    assert (processor.image_token_id, processor.region_token_id) == (3, 4)
    assert FO1Processor.from_pretrained(folder, region_token_id=5).region_token_id == 5


def test_a_released_folder_survives_being_saved(tmp_path):
    processor = FO1Processor.from_pretrained(released_folder(tmp_path / "released"))
    processor.save_pretrained(tmp_path / "ours")
    assert FO1Processor.from_pretrained(tmp_path / "ours").to_dict() == processor.to_dict()


def test_a_released_tokenizer_of_the_older_kind_is_read(tmp_path):
    characters = [chr(code) for code in range(33, 127)] + ["Ċ", "Ġ"]
    vocabulary = {character: index for index, character in enumerate(characters)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    added = ["<|endoftext|>", *CONTROL, *Vocabulary().special_tokens()[:-1]]
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "added_tokens_decoder": {
            str(len(characters) + index): {
                "content": token,
                "special": token.startswith("<|"),
                **dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False),
            }
            for index, token in enumerate(added)
        },
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps(RELEASED_CONFIG))
    processor = FO1Processor.from_pretrained(tmp_path)
    assert processor.region_tag_ids()[7] == len(characters) + added.index("<region7>")
    assert processor.stop_token_id == len(characters) + added.index("<|im_end|>")
    assert processor.decode(processor.encode_question("is <region1> red?", 2)) == (
        "\nis <region1> red?"
    )


def test_rows_are_filled_with_no_placeholder_though_the_tokenizer_pads_with_one():
    tokenizer = char_tokenizer()
    tokenizer.pad_token = "<|image_pad|>"
    processor = FO1Processor(FO1ImageProcessor(), tokenizer)
    batch = processor([IMAGE, None], ["ab", "c"], [BOXES, None])
    padding = batch["input_ids"][batch["attention_mask"] == 0]
    assert set(padding.tolist()) == {processor.stop_token_id}
    images = (batch["input_ids"] == processor.image_token_id).sum(-1)
    assert images.tolist() == [batch["image_grid_thw"].prod().item() // 4, 0]
    filled = FO1Processor(FO1ImageProcessor(), char_tokenizer())([None, None], ["ab", "c"])
    assert filled["input_ids"][1, 0] == tokenizer.convert_tokens_to_ids("<|endoftext|>")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 7031645\n"


@pytest.mark.parametrize(
    ("layout", "change", "words"),
    [
        ("slow", {"merges.txt": None}, r"has no tokenizer: merges\.txt missing; it needs"),
        ("slow", {"vocab.json": None}, r"has no tokenizer: vocab\.json missing"),
        ("slow", {"vocab.json": None, "merges.txt": None}, r"vocab\.json and merges\.txt missing"),
        (
            "fast",
            {"tokenizer.json": None},
            r"has no tokenizer: vocab\.json and merges\.txt missing",
        ),
        ("both", {"tokenizer.json": POINTER}, r"tokenizer\.json is a Git LFS pointer"),
        ("slow", {"merges.txt": POINTER}, r"merges\.txt is a Git LFS pointer.*git lfs pull"),
        (
            "slow",
            {"tokenizer_config.json": POINTER},
            r"tokenizer_config\.json is a Git LFS pointer",
        ),
        ("fast", {"tokenizer.json": '{"model": {'}, r"cannot be loaded \(.*\): download its files"),
    ],
)
def test_a_tokenizer_that_is_not_whole_is_refused_by_the_file(tmp_path, layout, change, words):
    folder = make_released(tmp_path, Layout(tokenizer=layout))
    for name, text in change.items():
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=words) as caught:
        FO1Processor.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_needs_another_package_names_it(tmp_path, monkeypatch):
    def load(*_, **__):
        raise ImportError("LlamaTokenizer requires the SentencePiece library\nbut it was not found")

    monkeypatch.setattr("vlm_fo1.processing.tokenizer.AutoTokenizer.from_pretrained", load)
    with pytest.raises(MissingExtraError, match="needs sentencepiece: pip install sentencepiece"):
        FO1Processor.from_pretrained(make_released(tmp_path))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "is not a checkpoint: it has neither processor_config.json nor config.json"),
        (
            {"config.json": {"model_type": "llama"}},
            "its model_type is 'llama': pass a folder saved",
        ),
        (
            {"config.json": {"model_type": "omchat_qwen2_5_vl"}},
            "neither region_token_id nor vocab_size",
        ),
    ],
)
def test_a_folder_that_is_not_a_checkpoint_is_refused_by_name(tmp_path, files, words):
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=words) as caught:
        FO1Processor.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)
