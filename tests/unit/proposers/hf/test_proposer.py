"""Detectors of transformers: the library's own boxes come out, bad ones and bad weights do not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers.proposer_cases import scene
from tests.helpers.proposer_cases.hf import (
    NAMES,
    PARTS,
    QUERIES,
    bert_tokenizer,
    build,
    clip_tokenizer,
)
from transformers import BertConfig
from transformers.models.grounding_dino.processing_grounding_dino import GroundingDinoProcessor

from vlm_fo1.errors import BoxError, CheckpointError, ConfigError, MissingExtraError, PromptError
from vlm_fo1.proposers.base import load_proposer
from vlm_fo1.proposers.hf import proposer as hf
from vlm_fo1.proposers.hf.load import Family
from vlm_fo1.proposers.hf.prompts import grounding_prompts, owl_prompts
from vlm_fo1.proposers.hf.proposer import DetectorProposer
from vlm_fo1.regions import Regions

IMAGE = scene(0)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory) -> dict[str, DetectorProposer]:
    """One of each family that these tests look into."""
    made: dict[str, DetectorProposer] = {}
    for kind in ("rt_detr_v2", "detr", "grounding-dino", "owlv2"):
        proposer = build(tmp_path_factory.mktemp(kind), kind=kind, **PARTS[kind])
        assert isinstance(proposer, DetectorProposer)
        made[kind] = proposer
    return made


def outputs_of(proposer: DetectorProposer, **text: Any) -> Any:
    pixels = proposer.image_processor(images=[IMAGE], return_tensors="pt")
    with torch.no_grad():
        return proposer.model(**pixels, **text)


def expected(found: Any, labels: list[str]) -> Regions:
    """What the library found, as regions."""
    size = np.array([*IMAGE.size] * 2, np.float32)
    boxes = np.clip(found["boxes"].numpy(), 0, size)
    scores = found["scores"].numpy()
    order = np.argsort(-scores, kind="stable")
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
    return Regions(boxes[order], IMAGE.size, scores[order], labels=tuple(labels[i] for i in order))


def assert_equal(ours: Regions, theirs: Regions) -> None:
    np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-3)
    assert ours.scores is not None
    assert theirs.scores is not None
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    assert ours.labels == theirs.labels


def test_detr_gives_what_the_library_makes_of_it(detectors) -> None:
    detr = detectors["detr"]
    (found,) = detr.image_processor.post_process_object_detection(
        outputs_of(detr), threshold=-1.0, target_sizes=[IMAGE.size[::-1]]
    )
    labels = [NAMES[int(number)] for number in found["labels"]]
    assert_equal(detr.propose([IMAGE])[0], expected(found, labels))


def test_rt_detr_gives_each_box_once_with_its_best_class(detectors) -> None:
    detector = detectors["rt_detr_v2"]
    outputs = outputs_of(detector)
    (found,) = detector.image_processor.post_process_object_detection(
        outputs, threshold=-1.0, target_sizes=[IMAGE.size[::-1]]
    )
    (regions,) = detector.propose([IMAGE])
    assert len(regions) == outputs.logits.shape[1] == 12
    best = expected(found, [NAMES[int(number)] for number in found["labels"]])
    assert_equal(regions[:1], best[:1])


def test_owl_gives_what_the_library_makes_of_it(detectors) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed: OWLv2 resizes with it")
    owl = detectors["owlv2"]
    text = owl.tokenizer(
        [f"<start> a photo of a {name} <end>" for name in QUERIES],
        padding="max_length",
        max_length=12,
        return_tensors="pt",
    )
    outputs = outputs_of(owl, input_ids=text["input_ids"], attention_mask=text["attention_mask"])
    (found,) = owl.image_processor.post_process_object_detection(
        outputs, threshold=-1.0, target_sizes=[IMAGE.size[::-1]]
    )
    labels = [QUERIES[int(number)] for number in found["labels"]]
    assert_equal(owl.propose([IMAGE], queries=QUERIES)[0], expected(found, labels))


def test_grounding_dino_gives_the_boxes_of_the_library_and_whole_names(detectors) -> None:
    dino = detectors["grounding-dino"]
    processor = GroundingDinoProcessor(dino.image_processor, dino.tokenizer)
    text = dino.tokenizer("[CLS] cat. red lamp. dog. [SEP]", return_tensors="pt")
    outputs = outputs_of(dino, **{**text, "token_type_ids": torch.zeros_like(text["input_ids"])})
    (found,) = processor.post_process_grounded_object_detection(
        outputs, text["input_ids"], threshold=-1.0, target_sizes=[IMAGE.size[::-1]]
    )
    (regions,) = dino.propose([IMAGE], queries=QUERIES)
    assert regions.labels is not None
    assert set(regions.labels) <= set(QUERIES)
    theirs = expected(found, found["text_labels"])
    apart = np.abs(regions.xyxy[:, None] - theirs.xyxy).max(2)
    assert apart.min(1).max() < 1e-2
    words = outputs.logits[0][:, [1, 3, 4, 6]].sigmoid().amax(1)  # all but the special tokens
    assert regions.scores is not None
    np.testing.assert_allclose(regions.scores, words.sort(descending=True).values, atol=1e-5)


# --- names as text -------------------------------------------------------------------------------


def test_names_share_sentences_under_the_limit_and_keep_their_tokens() -> None:
    tokenizer = bert_tokenizer()
    names = ["cat", "red lamp", "Dog", "green red cat", "lamp"] * 8
    prompts = grounding_prompts(names, tokenizer, template="{}", limit=16)
    assert [label for prompt in prompts for label in prompt.labels] == names
    for prompt in prompts:
        (ids,) = prompt.inputs["input_ids"].tolist()
        assert len(ids) <= 16
        assert (ids[0], ids[-1]) == (101, 102)
        for label, (start, end) in zip(prompt.labels, prompt.spans, strict=True):
            assert tokenizer.decode(ids[start:end]) == label.lower()
            assert ids[end] == 1012
    assert len(prompts) < len(names) / 2


def test_a_full_stop_in_a_name_does_not_end_it() -> None:
    (prompt,) = grounding_prompts(["red. lamp?"], bert_tokenizer(), template="{}", limit=16)
    assert prompt.labels == ("red. lamp?",)
    assert prompt.spans == ((1, 3),)


@pytest.mark.parametrize("limit", [4, 5])
def test_a_name_as_long_as_the_limit_fits_and_a_longer_one_is_refused(limit) -> None:
    fits = " ".join(["cat"] * (limit - 3))
    grounding_prompts([fits], bert_tokenizer(), template="{}", limit=limit)
    with pytest.raises(PromptError, match=f"has {limit - 2} tokens .* reads {limit - 3}: shorten"):
        grounding_prompts([f"{fits} cat"], bert_tokenizer(), template="{}", limit=limit)
    with pytest.raises(PromptError, match="no letter"):
        grounding_prompts(["..."], bert_tokenizer(), template="{}", limit=limit)


def test_owl_reads_each_name_by_itself(monkeypatch) -> None:
    monkeypatch.setattr("vlm_fo1.proposers.hf.prompts.NAMES_AT_ONCE", 2)
    prompts = owl_prompts(QUERIES, clip_tokenizer(), template="a {}", limit=8)
    assert [prompt.labels for prompt in prompts] == [("cat", "red lamp"), ("dog",)]
    ids = prompts[0].inputs["input_ids"]
    assert ids.shape == (2, 8)
    assert ids.argmax(1).tolist() == [3, 4]  # where the model looks for the end
    assert prompts[0].inputs["attention_mask"].sum(1).tolist() == [4, 5]
    with pytest.raises(PromptError, match="has 8 tokens and this detector reads 6"):
        owl_prompts([" ".join(["cat"] * 7)], clip_tokenizer(), template="a {}", limit=8)


def test_a_long_list_is_asked_in_pieces_and_merged(detectors) -> None:
    dino = detectors["grounding-dino"]
    names = [f"red {word}" for word in ("cat", "dog", "lamp", "photo")] * 6
    (regions,) = dino.propose([IMAGE], queries=names)
    pieces = grounding_prompts(names, dino.tokenizer, template="{}", limit=24)
    assert len(pieces) > 2
    assert len(regions) == len(pieces) * 12
    (alone,) = dino.propose([IMAGE], queries=list(pieces[0].labels))
    assert {tuple(box) for box in alone.xyxy.tolist()} <= {
        tuple(box) for box in regions.xyxy.tolist()
    }
    assert regions.scores is not None
    assert (np.diff(regions.scores) <= 0).all()


# --- images ------------------------------------------------------------------------------------


def test_images_of_one_size_go_through_together(detectors, monkeypatch) -> None:
    detr = detectors["detr"]
    seen: list[int] = []
    forward = detr.model.forward

    def counted(**inputs: Any) -> Any:
        seen.append(len(inputs["pixel_values"]))
        return forward(**inputs)

    monkeypatch.setattr(detr.model, "forward", counted)
    images = [scene(i) for i in range(5)] + [scene(9, (64, 96))]
    regions = detr.propose(images)
    assert sorted(seen) == [1, 1, 4]
    assert [r.size_wh for r in regions] == [image.size for image in images]


def test_a_very_long_image_keeps_its_boxes_in_place(detectors) -> None:
    detr = detectors["detr"]
    wide = Image.new("RGB", (2000, 10), "white")
    (regions,) = detr.propose([wide])
    assert regions.size_wh == (2000, 10)
    assert detr._canvas((2000, 10)) == (2000, 125)
    assert detectors["rt_detr_v2"]._canvas((2000, 10)) == (2000, 10)
    assert detectors["owlv2"]._canvas((2000, 10)) == (2000, 2000)


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rt_detr_v2", "detr", "grounding-dino", "owlv2"])
def test_a_detector_that_gives_no_numbers_is_told_of(kind, tmp_path) -> None:
    broken: Any = build(tmp_path, kind=kind, **PARTS[kind])
    with torch.no_grad():
        for value in broken.model.parameters():
            value.fill_(torch.nan)
    with pytest.raises(BoxError, match=r"hf returned \d+ of \d+ boxes that are no numbers"):
        broken.propose([IMAGE], queries=QUERIES if broken.requires_labels else None)


def test_weights_of_another_network_are_refused(tmp_path) -> None:
    build(tmp_path, kind="detr", **PARTS["detr"])
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    lost = "class_labels_classifier.weight"
    save_file({k: v for k, v in tensors.items() if k != lost}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"of another network: 1 of .* missing.*{lost}"):
        load_proposer(f"hf:{tmp_path}", device="cpu")
    save_file({**tensors, lost: torch.zeros(7, 7)}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_proposer(f"hf:{tmp_path}", device="cpu")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_proposer(f"hf:{tmp_path}", device="cpu")


def test_a_folder_without_a_detector_is_refused(tmp_path, monkeypatch) -> None:
    with pytest.raises(CheckpointError, match="holds no detector of transformers"):
        DetectorProposer.from_pretrained(str(tmp_path), device="cpu")
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"'bert' cannot offer boxes here.*rt_detr_v2"):
        DetectorProposer.from_pretrained(str(tmp_path), device="cpu")


def test_a_detector_that_needs_torchvision_is_refused_with_the_reason(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"rf_detr.*torchvision"):
        Family.of("rf_detr")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rf_detr"}))
    with pytest.raises((ConfigError, MissingExtraError), match=r"torchvision|timm"):
        DetectorProposer.from_pretrained(str(tmp_path), device="cpu")


def test_a_backbone_of_timm_is_refused_with_a_way_out(tmp_path) -> None:
    config = {"model_type": "detr", "use_timm_backbone": True, "backbone": "resnet50"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((MissingExtraError, CheckpointError), match="timm"):
        DetectorProposer.from_pretrained(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "quantum"}, "device 'quantum' cannot be used here"),
        ({"dtype": "int8"}, "dtype 'int8' is none that weights can have"),
        ({"dtype": "float99"}, "dtype 'float99' is none"),
    ],
)
def test_a_device_or_dtype_that_is_none_is_refused(options, words) -> None:
    with pytest.raises(ConfigError, match=words):
        DetectorProposer.from_pretrained("somewhere", **options)


def test_settings_that_cannot_be_are_refused(detectors) -> None:
    detr, owl = detectors["detr"], detectors["owlv2"]
    with pytest.raises(ConfigError, match="batch_size = 0"):
        DetectorProposer(detr.model, detr.image_processor, batch_size=0)
    with pytest.raises(ConfigError, match="pass its tokenizer"):
        DetectorProposer(owl.model, owl.image_processor)
    with pytest.raises(ConfigError, match="template 'a cat' has no place for the name"):
        DetectorProposer(owl.model, owl.image_processor, owl.tokenizer, template="a cat")


def test_the_defaults_are_asked_for_by_name(monkeypatch) -> None:
    asked: list[str] = []

    def loaded(source: str, **_: Any) -> Any:
        asked.append(source)
        raise ConfigError("enough")

    monkeypatch.setattr(hf, "load_detector", loaded)
    for name in ("hf", "hf:zero-shot", "hf:google/owlv2-base-patch16-ensemble"):
        with pytest.raises(ConfigError, match="enough"):
            load_proposer(name)
    assert asked == [hf.CLOSED_SET, hf.ZERO_SHOT, "google/owlv2-base-patch16-ensemble"]


def test_the_template_tells_fingerprints_apart_and_bfloat16_runs(detectors, tmp_path) -> None:
    owl = detectors["owlv2"]
    other = DetectorProposer(owl.model, owl.image_processor, owl.tokenizer, template="{}")
    assert other.fingerprint != owl.fingerprint
    folder = Path(tmp_path)
    half: Any = build(folder, kind="rt_detr_v2", dtype="bfloat16", **PARTS["rt_detr_v2"])
    assert half.model.dtype == torch.bfloat16
    assert half.fingerprint != detectors["rt_detr_v2"].fingerprint
    assert len(half.propose([IMAGE])[0])
