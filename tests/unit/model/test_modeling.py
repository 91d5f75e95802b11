"""The network as a module: batches, gradients, threads, errors with both counts."""

import copy
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vlm_fo1.errors import ConfigError, SpliceError
from vlm_fo1.model.connectors import build_connector
from vlm_fo1.model.generation import CACHE
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.splice import cut_prompt

RECORDED = Path(__file__).parents[2] / "data" / "fo1"
IMAGE, REGION = 255, 256  # of videos, which no prompt here holds


@cache
def model() -> FO1ForConditionalGeneration:
    return FO1ForConditionalGeneration.from_pretrained(RECORDED)


def photo(seed: int, grid_hw: tuple[int, int] = (4, 6), regions: int = 2) -> dict[str, Any]:
    """One made-up image with boxes, as the image processor would hand it over."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = grid_hw
    corners = torch.rand(regions, 2, generator=generator) * 20
    return {
        "pixel_values": torch.randn(rows * columns, 1176, generator=generator),
        "image_grid_thw": torch.tensor([[1, rows, columns]]),
        "aux_pixel_values": [torch.randn(3, rows * 12, columns * 12, generator=generator)],
        "region_boxes": [torch.cat([corners, corners + 15], dim=1)],
    }


def row(image: dict[str, Any] | None, seed: int = 0) -> list[int]:
    words = torch.randint(0, 240, (6,), generator=torch.Generator().manual_seed(seed)).tolist()
    if image is None:
        return words
    tokens = int(image["image_grid_thw"].prod()) // 4
    regions = len(image["region_boxes"][0])
    return [*words[:2], *[IMAGE] * tokens, 252, *[REGION] * regions, *words[2:]]


def batch(images: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    rows = [row(image, seed) for seed, image in enumerate(images)]
    longest = max(map(len, rows))
    shown = [image for image in images if image is not None]
    result: dict[str, Any] = {
        "input_ids": torch.tensor([[250] * (longest - len(ids)) + ids for ids in rows]),
        "attention_mask": torch.tensor(
            [[0] * (longest - len(ids)) + [1] * len(ids) for ids in rows]
        ),
    }
    if shown:
        for key in ("pixel_values", "image_grid_thw"):
            result[key] = torch.cat([image[key] for image in shown])
        for key in ("aux_pixel_values", "region_boxes"):
            result[key] = [value for image in shown for value in image[key]]
    return result


def logits(inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return model()(**inputs).logits


def test_rows_with_many_few_and_no_regions_and_without_an_image_equal_single_runs() -> None:
    images = [photo(1, regions=5), None, photo(2, (6, 4), regions=0), photo(3, (8, 8))]
    together = logits(batch(images))
    for index, image in enumerate(images):
        single = batch([None] * index + [image])
        alone = logits(single)[-1, single["attention_mask"][-1].bool()]
        torch.testing.assert_close(together[index, -len(alone) :], alone, atol=2e-5, rtol=1e-4)


def test_text_alone_needs_no_image_keys() -> None:
    assert logits(batch([None])).shape == (1, 6, 300)


def test_a_batch_generates_what_its_rows_generate_alone() -> None:
    images = [photo(1, regions=3), None, photo(2, (6, 4), regions=0)]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    together = model().generate(**batch(images), **options)[:, -8:]
    for index, image in enumerate(images):
        alone = model().generate(**batch([None] * index + [image]), **options)[-1, -8:]
        assert together[index].tolist() == alone.tolist()


def test_encoded_images_can_be_used_for_many_questions() -> None:
    inputs = batch([photo(1)])
    ids = {key: inputs.pop(key) for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        encoded = model().encode_images(**inputs)
        assert torch.equal(model()(**ids, encoded=encoded).logits, logits({**ids, **inputs}))


def test_beam_search_runs_with_regions() -> None:
    tokens = model().generate(**batch([photo(1)]), max_new_tokens=4, num_beams=2, do_sample=False)
    assert tokens.shape[0] == 1


def test_gradients_reach_every_parameter_that_an_image_with_regions_uses() -> None:
    trained = copy.deepcopy(model()).train()
    inputs = batch([photo(1)])
    loss = trained(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    without = [
        name
        for name, parameter in trained.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    # A bias right before a norm that removes it, or a key's bias under softmax, gets no gradient.
    assert [name for name in without if not name.endswith("bias")] == []


def test_two_threads_generate_what_they_generate_alone() -> None:
    inputs = [batch([photo(1, regions=4)]), batch([photo(2, (8, 6), regions=1)])]

    def run(which: int) -> list[int]:
        tokens = model().generate(
            **inputs[which], max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        return tokens[0].tolist()

    alone = [run(0), run(1)]
    found: dict[int, list[list[int]]] = {0: [], 1: []}

    def repeat(which: int) -> Callable[[], None]:
        return lambda: found[which].extend(run(which) for _ in range(5))

    threads = [threading.Thread(target=repeat(which)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: [alone[0]] * 5, 1: [alone[1]] * 5}


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_generated_placeholder_is_text_and_the_cache_goes_by_both_its_names(name) -> None:
    inputs = batch([photo(1)])
    with torch.no_grad():
        started = model()(**inputs, use_cache=True)[CACHE]
        before = started.get_seq_length()
        model()(
            input_ids=torch.tensor([[REGION]]),
            position_ids=torch.full((3, 1, 1), 50),
            **{name: started},
        )
    assert started.get_seq_length() == before + 1


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_generation_goes_on_from_a_cache_by_both_its_names(name) -> None:
    inputs = batch([photo(1, regions=2)])
    ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    with torch.no_grad():
        prompt = model().embed_prompt(ids, mask, model().encode_images(**inputs))
        started = model()(**cut_prompt(prompt, 0, ids.shape[1] - 2), use_cache=True)[CACHE]
        plain = model().generate(ids, mask, **prompt, **options)
        assert torch.equal(
            model().generate(ids, mask, **prompt, **{name: started}, **options), plain
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x["region_boxes"].__setitem__(0, torch.zeros(1, 4)),
         "row 0: 2 region placeholders but 1 boxes"),
        (lambda x: x.update(region_boxes=None), "row 0: 2 region placeholders but 0 boxes"),
        (lambda x: x["region_boxes"].append(torch.zeros(1, 4)), "2 region_boxes for 1 images"),
        (lambda x: x.update(aux_pixel_values=None), "region_boxes need aux_pixel_values"),
        (lambda x: x.update(image_grid_thw=None), "pixel_values need image_grid_thw"),
        (lambda x: x.update(input_ids=x["input_ids"][:, 3:], attention_mask=None),
         "row 0: 5 image placeholders but its images give 6 tokens"),
        (lambda x: [x.pop(k) for k in ("pixel_values", "image_grid_thw", "aux_pixel_values",
                                       "region_boxes")],
         "row 0: 6 image placeholders but its images give 0 tokens"),
        (lambda x: x.update(input_ids=torch.tensor([[1, 2]]), attention_mask=None),
         "1 images but the text has room for 0"),
        (lambda x: x.pop("input_ids"), "input_ids or inputs_embeds are needed"),
    ],
)  # fmt: skip
def test_a_batch_that_does_not_add_up_is_refused_with_both_counts(change, message) -> None:
    inputs = batch([photo(1)])
    change(inputs)
    with pytest.raises(SpliceError, match=message):
        model()(**inputs)


def test_embeddings_without_positions_are_refused() -> None:
    with pytest.raises(SpliceError, match="position_ids are needed"):
        model()(inputs_embeds=torch.zeros(1, 3, 48))


def test_connectors_are_built_by_their_released_names() -> None:
    assert len(list(build_connector("mlp3x_gelu", 8, 4).children())) == 5
    assert build_connector("linear", 8, 4)(torch.zeros(2, 8)).shape == (2, 4)
    assert build_connector("identity", 8, 8)(torch.ones(2, 8)).sum() == 16
    with pytest.raises(ConfigError, match="identity connector cannot turn width 8 into 4"):
        build_connector("identity", 8, 4)
    with pytest.raises(ConfigError, match="'qformer' is not supported"):
        build_connector("qformer", 8, 4)
