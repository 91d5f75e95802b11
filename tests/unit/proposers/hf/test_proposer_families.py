"""The other detectors that the documentation names: each gives what the library makes of it."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.proposer_cases import scene
from tests.helpers.proposer_cases.hf import (
    D_FINE,
    DETR,
    NAMES,
    OWL,
    PARTS,
    QUERIES,
    RT_DETR,
    SHORT,
    SQUARE,
    build,
    clip_tokenizer,
)
from transformers.models.conditional_detr.image_processing_pil_conditional_detr import (
    ConditionalDetrImageProcessorPil,
)
from transformers.models.deformable_detr.image_processing_pil_deformable_detr import (
    DeformableDetrImageProcessorPil,
)
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

from vlm_fo1.proposers.hf import load as hf_load

LW_DETR = {
    "backbone_config": {
        "model_type": "lw_detr_vit",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "pretrain_image_size": 64,
        "window_block_indices": [0],
        "out_indices": [1, 2],
        "num_windows": 4,
    },
    "projector_scale_factors": [1.0],
    "d_model": 16,
    "num_queries": 12,
    "decoder_layers": 1,
    "decoder_ffn_dim": 16,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "group_detr": 1,
    "id2label": NAMES,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "rt_detr": {"config": RT_DETR, "processor": partial(RTDetrImageProcessorPil, size=SQUARE)},
    "deimv2": {"config": D_FINE, "processor": partial(RTDetrImageProcessorPil, size=SQUARE)},
    "lw_detr": {
        "config": LW_DETR,
        "processor": partial(DeformableDetrImageProcessorPil, size=SQUARE),
    },
    "conditional_detr": {
        "config": DETR,
        "processor": partial(ConditionalDetrImageProcessorPil, size=SHORT),
    },
    "deformable_detr": {
        "config": {**DETR, "d_model": 64, "decoder_layers": 2},
        "processor": partial(DeformableDetrImageProcessorPil, size=SHORT),
    },
    "table-transformer": {"config": DETR, "processor": partial(DetrImageProcessorPil, size=SHORT)},
    "owlvit": {
        "config": OWL,
        "processor": partial(OwlViTImageProcessorPil, size=SQUARE),
        "tokenizer": clip_tokenizer,
    },
}


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_the_best_box_is_that_of_the_library(kind, tmp_path) -> None:
    proposer: Any = build(tmp_path, kind=kind, **FAMILIES[kind])
    image = scene(0)
    queries = QUERIES if proposer.requires_labels else None
    (regions,) = proposer.propose([image], queries=queries)
    assert len(regions)
    text = proposer._prompts(QUERIES)[0].inputs if queries else {}
    with torch.no_grad():
        pixels = proposer.image_processor(images=[image], return_tensors="pt")
        outputs = proposer.model(**pixels, **text)
    (found,) = proposer.image_processor.post_process_object_detection(
        outputs, threshold=-1.0, target_sizes=torch.tensor([image.size[::-1]])
    )
    boxes = np.clip(found["boxes"].numpy(), 0, np.array([*image.size] * 2, np.float32))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, scores = boxes[kept], found["scores"].numpy()[kept]
    best = int(scores.argmax())
    np.testing.assert_allclose(regions.xyxy[0], boxes[best], atol=1e-3)
    assert regions.scores is not None
    assert regions.labels is not None
    np.testing.assert_allclose(regions.scores[0], scores[best], atol=1e-5)
    labels = QUERIES if queries else NAMES
    assert regions.labels[0] == labels[int(found["labels"].numpy()[kept][best])]


def test_every_family_is_tried_somewhere() -> None:
    assert set(FAMILIES) | set(PARTS) == set(hf_load._FAMILIES)
