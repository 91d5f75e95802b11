"""Images and boxes to tensors: sizes, limits, and what is refused with which words."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from vlm_fo1.errors import (
    BoxError,
    ConfigError,
    ImageError,
)
from vlm_fo1.processing import FO1ImageProcessor, qwen_primary

IMAGE = Image.effect_noise((120, 90), 80).convert("RGB")
BOXES = [[10, 20, 60, 70], [0, 0, 120, 90]]


# Images and boxes


def test_the_batch_has_the_shapes_and_types_the_model_reads():
    batch = FO1ImageProcessor()(IMAGE, BOXES)
    assert batch["image_grid_thw"].tolist() == [[1, 6, 8]]
    assert batch["image_grid_thw"].dtype == torch.int64
    assert batch["pixel_values"].shape == (48, 1176)
    assert batch["pixel_values"].dtype == torch.float32
    assert [tuple(aux.shape) for aux in batch["aux_pixel_values"]] == [(3, 90, 120)]
    assert batch["aux_pixel_values"][0].dtype == torch.float32
    assert batch["region_boxes"][0].tolist() == BOXES
    assert batch["region_boxes"][0].dtype == torch.float32


def test_several_images_give_what_each_gives_alone():
    process = FO1ImageProcessor(aux_image_aspect_ratio="squash", aux_image_size=64)
    images = [IMAGE, IMAGE.resize((60, 200)), IMAGE.convert("L")]
    boxes = [BOXES, None, [[1, 2, 3, 4]]]
    together = process(images, boxes)
    alone = [process(image, its) for image, its in zip(images, boxes, strict=True)]
    assert torch.equal(together["pixel_values"], torch.cat([b["pixel_values"] for b in alone]))
    assert torch.equal(together["image_grid_thw"], torch.cat([b["image_grid_thw"] for b in alone]))
    for key in ("aux_pixel_values", "region_boxes"):
        for one, batch in zip(together[key], alone, strict=True):
            assert torch.equal(one, batch[key][0])


def test_no_boxes_give_an_empty_list_of_regions():
    for boxes in (None, [], np.zeros((0, 4))):
        assert FO1ImageProcessor()(IMAGE, boxes)["region_boxes"][0].shape == (0, 4)


def test_images_and_boxes_given_are_not_changed():
    boxes = np.array([[-5, 0, 400, 90]], np.float32)
    before, pixels = boxes.copy(), IMAGE.tobytes()
    FO1ImageProcessor()(IMAGE, boxes)
    assert np.array_equal(boxes, before)
    assert IMAGE.tobytes() == pixels


def test_a_box_that_sticks_out_is_clamped_and_scaled_with_the_image():
    process = FO1ImageProcessor(aux_image_aspect_ratio="squash", aux_image_size=240)
    boxes = process(IMAGE, [[-10, 45, 60, 500]])["region_boxes"][0]
    assert boxes.tolist() == [[0, 120, 120, 240]]


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[0, 0, 5, 5], [50, 50, 20, 60]], r"box 1 = \(50, 50, 20, 60\) is reversed"),
        ([[130, 0, 140, 10]], r"box 0 .* lies outside the image of 120 x 90"),
        ([[0, 0, np.nan, 5]], "box 0 .* NaN"),
        ([[5, 5, 5, 9]], "box 0 .* has no area"),
        ([[1, 2, 3]], r"shape \(N, 4\)"),
        ([[0, 0, 9, 9]] * 101, "101 boxes for one image, at most 100 fit: keep the best by score"),
    ],
)
def test_boxes_that_cannot_be_used_are_refused_with_their_index(boxes, words):
    with pytest.raises(BoxError, match=words):
        FO1ImageProcessor()(IMAGE, boxes)


def test_more_boxes_than_a_question_holds_pass_where_the_caller_says_so():
    batch = FO1ImageProcessor()(IMAGE, [[0, 0, 9, 9]] * 101, max_regions=101)
    assert batch["region_boxes"][0].shape == (101, 4)


def test_a_bad_box_in_a_batch_is_named_with_its_image():
    with pytest.raises(BoxError, match=r"image 1: box 0 .* has no area"):
        FO1ImageProcessor()([IMAGE, IMAGE], [None, [[5, 5, 5, 9]]])


def test_images_and_lists_of_boxes_must_pair_up():
    with pytest.raises(BoxError, match="2 images but 1 lists of boxes"):
        FO1ImageProcessor()([IMAGE, IMAGE], [BOXES])
    with pytest.raises(ImageError, match="no image given"):
        FO1ImageProcessor()([])


@pytest.mark.parametrize(
    ("size_wh", "aux_hw"),
    [
        ((1, 1), (28, 28)),
        ((20, 40), (40, 28)),
        ((2048, 30), (30, 2048)),
        ((2100, 50), (48, 2048)),
        ((100, 4096), (2048, 50)),
    ],
)
def test_sides_are_raised_by_themselves_and_the_long_side_is_limited(size_wh, aux_hw):
    batch = FO1ImageProcessor()(Image.new("RGB", size_wh))
    assert tuple(batch["aux_pixel_values"][0].shape[1:]) == aux_hw


@pytest.mark.parametrize(
    ("max_side", "size_wh", "aux_hw"),
    [
        (2048, (1, 30_000), (2048, 28)),
        (2048, (40_000, 100), (28, 2048)),
        (448, (3000, 30), (28, 448)),
        (448, (40_000, 40), (28, 448)),
        (448, (40, 40_000), (448, 28)),
        (None, (6001, 30), (61, 6001)),
    ],
)
def test_the_short_side_of_a_narrow_image_stays_what_the_encoders_can_take(
    max_side, size_wh, aux_hw
):
    width, height = size_wh
    process = FO1ImageProcessor(max_side=max_side)
    whole = np.array([[0, 0, width, height], [0, 0, width / 2, height]])
    batch = process(Image.new("RGB", size_wh), whole)
    assert tuple(batch["aux_pixel_values"][0].shape[1:]) == aux_hw
    rows, columns = batch["image_grid_thw"][0, 1:].tolist()
    assert process.seen_size(size_wh) == (columns * 14, rows * 14)
    if min(size_wh) >= 28:  # else boxes stay in the smaller frame, as in the official code
        (x1, y1, x2, y2), half = batch["region_boxes"][0].tolist()
        assert (x1, y1, round(x2), round(y2)) == (0, 0, aux_hw[1], aux_hw[0])
        assert half == pytest.approx([0, 0, aux_hw[1] / 2, aux_hw[0]])


@pytest.mark.parametrize(
    ("size_wh", "side"), [((100, 100), 384), ((640, 480), 576), ((2048, 2048), 2048)]
)
def test_dynamic_square_takes_the_side_nearest_in_area(size_wh, side):
    process = FO1ImageProcessor(aux_image_aspect_ratio="dynamic_square")
    assert process(Image.new("RGB", size_wh))["aux_pixel_values"][0].shape == (3, side, side)


def test_the_primary_is_that_of_transformers_where_the_order_of_resizing_cannot_show():
    ours = FO1ImageProcessor()(IMAGE.resize((140, 112)))
    theirs = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 2048 * 2048})(
        images=[IMAGE.resize((140, 112))], return_tensors="pt"
    )
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])
    assert torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])


def test_another_host_is_other_settings():
    process = FO1ImageProcessor(
        primary=qwen_primary(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        max_side=None,
        min_side=1,
        aux_image_mean=(0.0, 0.0, 0.0),
        aux_image_std=(1.0, 1.0, 1.0),
    )
    batch = process(Image.new("RGB", (2240, 64), "white"))
    assert batch["image_grid_thw"].tolist() == [[1, 4, 140]]
    assert batch["pixel_values"].shape == (560, 16 * 16 * 3 * 2)
    assert batch["pixel_values"].unique().tolist() == [1]
    assert batch["aux_pixel_values"][0].unique().tolist() == [1]
    assert process.image_tokens(batch["image_grid_thw"]) == [140]


def test_the_image_processor_survives_its_file(tmp_path):
    process = FO1ImageProcessor(
        primary=qwen_primary(patch_size=16),
        max_side=512,
        aux_image_aspect_ratio="squash",
        aux_image_size=64,
        max_regions=7,
    )
    process.save_pretrained(tmp_path)
    loaded = FO1ImageProcessor.from_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    assert loaded.to_dict() == process.to_dict()
    first, second = process(IMAGE, BOXES), loaded(IMAGE, BOXES)
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    assert torch.equal(first["aux_pixel_values"][0], second["aux_pixel_values"][0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"aux_image_aspect_ratio": "pad"}, "'pad' is unknown: one of dynamic, squash"),
        ({"aux_size": 3}, r"settings \['aux_size'\] are unknown"),
        ({"primary": {"image_processor_type": "Nothing"}}, "'Nothing' is not an image processor"),
        ({"primary": {"image_processor_type": "AutoModel"}}, "is not an image processor"),
        ({"primary": {"patch_size": 14}}, "has no image_processor_type"),
    ],
)
def test_unknown_image_settings_are_refused_by_name(settings, words):
    with pytest.raises(ConfigError, match=words):
        FO1ImageProcessor(**settings)


def test_a_host_named_without_its_pillow_form_gets_that_form():
    process = FO1ImageProcessor(primary={"image_processor_type": "Qwen2VLImageProcessorFast"})
    assert isinstance(process._primary, Qwen2VLImageProcessorPil)
