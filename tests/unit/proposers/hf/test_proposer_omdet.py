"""OmDet-Turbo, which reads each name by itself and a task that names all of them."""

import importlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.proposer_cases import scene
from tests.helpers.proposer_cases.hf import PARTS, QUERIES, build, clip_tokenizer

from vlm_fo1.errors import BoxError, MissingExtraError, PromptError
from vlm_fo1.proposers.base import load_proposer
from vlm_fo1.proposers.hf.prompts import task_prompts

IMAGE = scene(0)


@pytest.fixture(scope="module")
def omdet(tmp_path_factory) -> Any:
    return build(tmp_path_factory.mktemp("omdet"), kind="omdet-turbo", **PARTS["omdet-turbo"])


def test_boxes_scores_and_names_are_those_of_the_library(omdet, monkeypatch) -> None:
    def keep_all(boxes: Any, *_: Any) -> Any:
        return torch.arange(len(boxes))

    # Without torchvision the module can only be had by name. Its suppression is torchvision's, too;
    # proposers leave that to `select`.
    library: Any = importlib.import_module("transformers.models.omdet_turbo.processing_omdet_turbo")
    monkeypatch.setattr(library, "batched_nms", keep_all, raising=False)
    (regions,) = omdet.propose([IMAGE], queries=QUERIES)
    pixels = omdet.image_processor(images=[IMAGE], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        outputs = omdet.model(pixels, **omdet._prompts(QUERIES)[0].inputs)
    scores, classes = library.compute_score(outputs.decoder_class_logits)
    boxes, scores, labels = library._post_process_boxes_for_image(
        outputs.decoder_coord_logits[0],
        scores[0],
        classes,
        len(QUERIES),
        IMAGE.size[::-1],
        threshold=-1.0,
        nms_threshold=1.0,
        max_num_det=scores[0].numel(),  # every box with every name
    )
    best: dict[tuple[float, ...], tuple[float, int]] = {}
    for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
        best[tuple(box)] = max(best.get(tuple(box), (-1.0, 0)), (score, label))
    assert len(regions) == len(best) == 12
    order = sorted(best, key=lambda box: -best[box][0])
    np.testing.assert_allclose(regions.xyxy, order, atol=1e-3)
    np.testing.assert_allclose(regions.scores, [best[box][0] for box in order], atol=1e-5)
    assert regions.labels == tuple(QUERIES[best[box][1]] for box in order)


def test_each_name_is_a_text_and_all_are_named_in_the_task() -> None:
    tokenizer = clip_tokenizer()
    (prompt,) = task_prompts(["cat", "red lamp"], tokenizer, template="{}", limit=12)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    cat, red, lamp = (tokenizer.vocab[word] for word in ("cat", "red", "lamp"))
    other = tokenizer.unk_token_id  # this small vocabulary has neither "Detect" nor stops
    classes = prompt.inputs["classes_input_ids"].tolist()
    assert classes == [[start, cat, end] + [0] * 9, [start, red, lamp, end] + [0] * 8]
    assert prompt.inputs["classes_attention_mask"].sum(1).tolist() == [3, 4]
    task = prompt.inputs["tasks_input_ids"][0].tolist()
    assert task[:8] == [start, other, cat, other, red, lamp, other, end]
    assert prompt.inputs["classes_structure"].tolist() == [2]
    assert prompt.labels == ("cat", "red lamp")


def test_a_long_list_is_asked_in_pieces_whose_task_fits(omdet) -> None:
    names = ["cat", "dog", "red lamp", "green lamp", "red cat"]
    pieces = omdet._prompts(names)
    assert [name for piece in pieces for name in piece.labels] == names
    assert len(pieces) > 1
    assert all(piece.inputs["tasks_input_ids"].shape == (1, 12) for piece in pieces)
    (together,) = omdet.propose([IMAGE], queries=names)
    apart = [omdet.propose([IMAGE], queries=list(piece.labels))[0] for piece in pieces]
    assert sorted(together.scores) == pytest.approx(
        sorted(np.concatenate([regions.scores for regions in apart])), abs=1e-5
    )
    with pytest.raises(PromptError, match=r"has 11 tokens and this detector reads 10"):
        omdet.propose([IMAGE], queries=["cat", " ".join(["red"] * 11)])


def test_more_names_than_the_library_remembers_are_no_trouble(omdet, monkeypatch) -> None:
    (before,) = omdet.propose([IMAGE], queries=["cat", "dog", "lamp"])
    monkeypatch.setattr(omdet.model.language_cache_class, "capacity", 1)
    (after,) = omdet.propose([IMAGE], queries=["cat", "dog", "lamp"])
    np.testing.assert_allclose(before.xyxy, after.xyxy, atol=1e-3)


def test_broken_weights_are_told_of(tmp_path) -> None:
    broken: Any = build(tmp_path, kind="omdet-turbo", **PARTS["omdet-turbo"])
    with torch.no_grad():
        for value in broken.model.parameters():
            value.fill_(torch.nan)
    with pytest.raises(BoxError, match=r"hf returned \d+ of \d+ boxes that are no numbers"):
        broken.propose([IMAGE], queries=QUERIES)


def test_released_weights_need_timm_and_say_so(tmp_path) -> None:
    config = {
        "model_type": "omdet-turbo",
        "use_timm_backbone": True,
        "backbone": "swin_tiny_patch4_window7_224",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingExtraError, match=r"backbone is one of timm.*or another detector"):
        load_proposer(f"hf:{tmp_path}", device="cpu")
