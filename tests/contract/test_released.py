"""What a released folder must do in every form that it may have, at tiny sizes.

The forms are `helpers.released.pairwise`: any two unknowns meet in some folder.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.helpers.released import (
    ADDED,
    LEFT_OVER,
    TOKENS,
    VALUES,
    Layout,
    make_released,
    pairwise,
)
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import vlm_fo1  # noqa: F401 - the Auto classes know released folders from here on
from vlm_fo1.boxes import as_boxes
from vlm_fo1.data.collate import Collator
from vlm_fo1.data.example import Example, Turn
from vlm_fo1.fo1 import FO1
from vlm_fo1.model.configuration import FO1Config
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.processing import FO1Processor

LAYOUTS = pairwise()
BOXES = [[4, 4, 40, 40], [30, 10, 80, 60], [10, 30, 30, 50]]
ANSWER = "<ground>orange</ground><objects><region1></objects>"
PLACEHOLDERS = {ADDED["<|image_pad|>"], ADDED["<|video_pad|>"]}


def photo(width=84, height=70, seed=0):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (height // 7, width // 7, 3), generator=draw, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((width, height), Image.Resampling.BICUBIC)


@dataclass
class Loaded:
    layout: Layout
    folder: Path
    fo1: FO1
    said: list[str]


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def loaded(request, tmp_path_factory):
    folder = make_released(tmp_path_factory.mktemp("released"), request.param)
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("vlm_fo1")
    logger.addHandler(handler)
    fo1 = FO1.from_pretrained(folder, device="cpu")
    logger.removeHandler(handler)
    return Loaded(request.param, folder, fo1, said)


@pytest.fixture(scope="session")
def told():
    """What the first folder of a kind answered."""
    return {}


def test_any_two_values_of_two_unknowns_meet_in_some_folder():
    for first in VALUES:
        for second in VALUES:
            met = {(getattr(one, first), getattr(one, second)) for one in LAYOUTS}
            if first != second:
                assert len(met) == len(VALUES[first]) * len(VALUES[second])


def test_what_the_file_says_more_than_the_model_reads_is_told(loaded):
    left_over = LEFT_OVER if loaded.layout.left_over else {}
    wanted = [f"{len(left_over)} tensors have no place"] if left_over else []
    wanted += ["the stored lm_head differs"] if loaded.layout.head == "stored other, tied" else []
    assert len(loaded.said) == len(wanted), loaded.said
    for message, start in zip(loaded.said, wanted, strict=True):
        assert start in message
    for name in left_over:
        assert name in loaded.said[0]


def test_detecting_answers_alike_whatever_the_form(loaded, told):
    answer = loaded.fo1.detect(photo(), ["orange", "the apple"], BOXES, max_new_tokens=6)
    kind = (loaded.layout.projector, loaded.layout.head.endswith(" tied"))
    assert answer.text == told.setdefault(kind, answer.text)
    assert len(answer.regions) == 3
    assert answer.text
    tied = loaded.fo1.model.get_output_embeddings().weight is (
        loaded.fo1.model.get_input_embeddings().weight
    )
    assert tied is loaded.layout.head.endswith(" tied")


def test_a_padded_batch_is_its_rows_alone(loaded):
    processor, model = loaded.fo1.processor, loaded.fo1.model
    rows = [
        (photo(seed=1), "Where is the orange?", BOXES),
        (photo(112, 56, seed=2), "in", BOXES[:1]),
        (None, "the", None),
    ]
    images, questions, boxes = (list(column) for column in zip(*rows, strict=True))
    batch = processor(images, questions, boxes)
    padding = batch["input_ids"][batch["attention_mask"] == 0]
    assert len(padding)
    assert not PLACEHOLDERS & {*padding.tolist()}
    assert batch["input_ids"].max() < TOKENS
    with torch.inference_mode():
        together = model(**batch).logits
        alone = [model(**processor(*row)).logits[0] for row in rows]
    for row, logits in enumerate(alone):
        torch.testing.assert_close(together[row, -len(logits) :], logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>"])
def test_a_batch_that_others_padded_with_a_placeholder_is_read_as_its_rows(loaded, token):
    if loaded.layout not in LAYOUTS[::6]:
        return  # how a batch is read depends on none of the unknowns: a few are enough
    processor, model = loaded.fo1.processor, loaded.fo1.model
    batch = processor([photo(seed=1), None], ["Where?", "in"], [BOXES, None])
    padding = batch["attention_mask"] == 0
    padded = {**batch, "input_ids": batch["input_ids"].masked_fill(padding, ADDED[token])}
    with torch.inference_mode():
        ours, theirs = model(**batch).logits, model(**padded).logits
    torch.testing.assert_close(theirs[~padding], ours[~padding], atol=2e-5, rtol=1e-4)


def test_the_first_batch_of_training_gives_a_loss_and_gradients(loaded):
    examples = [
        Example(
            image=photo(seed=3),
            regions_xyxy=as_boxes(BOXES),
            turns=(Turn(question="Where is the orange?", answer=ANSWER),),
            source="made.jsonl",
            id="0",
        ),
        Example(
            image=None,
            regions_xyxy=as_boxes([]),
            turns=(Turn(question="in", answer="the"),),
            source="made",
            id="1",
        ),
    ]
    batch = Collator(loaded.fo1.processor)(examples)
    assert not PLACEHOLDERS & {*batch["input_ids"][batch["attention_mask"] == 0].tolist()}
    model = loaded.fo1.model
    loss = model(**batch).loss
    loss.backward()
    gradient = model.region_connector[0].weight.grad
    model.zero_grad()
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_the_auto_classes_load_it(loaded):
    config = AutoConfig.from_pretrained(loaded.folder)
    processor = AutoProcessor.from_pretrained(loaded.folder)
    assert isinstance(config, FO1Config)
    assert isinstance(processor, FO1Processor)
    assert processor.region_token_id == config.region_token_id == ADDED["<|video_pad|>"]
    if loaded.layout not in LAYOUTS[::3]:
        return  # the model comes the same way in all: a few are enough
    model = AutoModelForImageTextToText.from_pretrained(loaded.folder)
    assert isinstance(model, FO1ForConditionalGeneration)
    ours = loaded.fo1.model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, ours[name])
