"""Many images at once give what each gives alone, in few calls and without waiting for a device."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.helpers import hosts
from tests.helpers.hosts import Prompter
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForImageTextToText

from vlm_fo1.model import packed_attention, region_encoder
from vlm_fo1.model.hosts import qwen
from vlm_fo1.model.modeling import EncodedImages, FO1ForConditionalGeneration

WINDOWED = "qwen2_5_vl"
SIZES_HW = [(64, 96), (96, 160), (64, 96), (32, 32), (160, 96), (64, 96), (96, 160)]
"""Some equal, some not; several end in the middle of a window."""
COUNTS = [3, 1, 0, 2, 5, 2, 4]


def make(kind: str) -> Prompter:
    tokenizer = hosts.make_tokenizer()
    return Prompter(hosts.make_graft(hosts.make_host(kind), tokenizer), tokenizer)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "idefics3"])
def prompter(request: pytest.FixtureRequest) -> Prompter:
    return make(request.param)


@pytest.fixture(scope="module")
def windowed() -> Prompter:
    return make(WINDOWED)


def images(sizes_hw: list[tuple[int, int]], counts: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Noise, and boxes of which some stick out."""
    generator = torch.Generator().manual_seed(0)
    shown = [torch.randn(3, height, width, generator=generator) for height, width in sizes_hw]
    boxes: list[Tensor] = []
    for (height, width), count in zip(sizes_hw, counts, strict=True):
        low = torch.rand(count, 2, generator=generator) * 0.8
        high = low + 0.05 + torch.rand(count, 2, generator=generator) * 0.5
        boxes.append(torch.cat([low, high], dim=1) * torch.tensor([width, height] * 2))
    return shown, boxes


def inputs(prompter: Prompter, shown: list[Tensor], boxes: list[Tensor]) -> dict[str, Any]:
    return {**prompter.pixels(shown), "aux_pixel_values": shown, "region_boxes": boxes}


def visual(model: FO1ForConditionalGeneration) -> Any:
    return model.host.model.visual


@contextmanager
def window_after_window(model: FO1ForConditionalGeneration) -> Iterator[None]:
    """transformers' own loop over windows."""
    if not hasattr(model.host.model, "visual"):
        yield
        return
    visual(model).config._attn_implementation = "eager"
    try:
        yield
    finally:
        visual(model).config._attn_implementation = "sdpa"


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


class Calls(TorchFunctionMode):
    """Counts calls of the attention."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_images_of_any_sizes_give_together_what_each_gives_alone(prompter: Prompter) -> None:
    model = prompter.model
    shown, boxes = images(SIZES_HW, COUNTS)
    together = model.encode_images(**inputs(prompter, shown, boxes))
    with window_after_window(model):
        alone = [
            model.encode_images(**inputs(prompter, [image], [some]))
            for image, some in zip(shown, boxes, strict=True)
        ]
    for name in ("image_tokens", "region_tokens", "deep_tokens"):
        assert_close(
            getattr(together, name), [part for one in alone for part in getattr(one, name)]
        )
    assert [len(part) for part in together.region_tokens] == COUNTS
    for one, other in zip(together.one_by_one(), alone, strict=True):
        assert torch.equal(one.image_grid_thw, other.image_grid_thw)
        assert_close(one.region_tokens + one.deep_tokens, other.region_tokens + other.deep_tokens)


@torch.no_grad()
def test_images_without_boxes_are_not_shown_to_the_auxiliary_tower(prompter: Prompter) -> None:
    shown, boxes = images([(64, 96)] * 2, [0, 0])
    with counted(prompter.model.auxiliary) as sizes:
        encoded = prompter.model.encode_images(**inputs(prompter, shown, boxes))
    assert not sizes
    assert [tuple(part.shape) for part in encoded.region_tokens] == [(0, hosts.WIDTH)] * 2


@contextmanager
def counted(module: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of what a module is called with."""
    shapes: list[tuple[int, ...]] = []
    handle = module.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    yield shapes
    handle.remove()


@torch.no_grad()
def test_images_of_one_size_go_through_tower_and_pyramid_in_one_call(prompter: Prompter) -> None:
    model = prompter.model
    shown, boxes = images([(64, 96)] * 4, [2, 3, 1, 1])
    with counted(model.auxiliary) as seen, counted(model.region_encoder.pyramid) as mapped:
        model.encode_images(**inputs(prompter, shown, boxes))
    assert seen == [(4, 3, 64, 96)]
    assert [shape[0] for shape in mapped] == [4]
    shown, boxes = images(SIZES_HW, COUNTS)
    with counted(model.auxiliary) as seen:
        model.encode_images(**inputs(prompter, shown, boxes))
    assert sorted(seen) == [(1, 3, 32, 32), (1, 3, 160, 96), (2, 3, 64, 96), (2, 3, 96, 160)]


@torch.no_grad()
def test_a_batch_holds_no_more_pixels_than_the_largest_image(
    windowed: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = windowed.model
    shown, boxes = images([(64, 96)] * 5, [2, 3, 1, 4, 1])
    given = inputs(windowed, shown, boxes)
    whole = model.encode_images(**given)
    monkeypatch.setattr(region_encoder, "PIXELS_AT_ONCE", 2 * 64 * 96 + 1)
    with counted(model.auxiliary) as seen:
        parts = model.encode_images(**given)
    assert [shape[0] for shape in seen] == [2, 2, 1]
    assert_close(parts.region_tokens, whole.region_tokens)


@torch.no_grad()
def test_the_vit_attends_once_for_all_windows_of_one_size(windowed: Prompter) -> None:
    vit = visual(windowed.model)
    assert (vit.config.depth, vit.config.fullatt_block_indexes) == (3, [1])
    for sizes_hw, calls in (
        ([(112, 112)], 3),  # 2 x 2 whole windows
        ([(112, 112)] * 4, 3),
        ([(140, 196)], 7),  # windows of 16, 8 and 4 patches
        ([(140, 196), (140, 196), (112, 112)], 8),  # and two sizes of images
    ):
        shown, boxes = images(sizes_hw, [0] * len(sizes_hw))
        with Calls() as attention:
            windowed.model.encode_images(**inputs(windowed, shown, boxes))
        assert attention.count == calls


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_encoding_never_waits_for_a_value(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the meta device have none: whoever reads one fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # not on that device
    prompter = make(kind)
    shown, boxes = images(SIZES_HW, COUNTS)
    given = inputs(prompter, shown, boxes)
    grid = given.pop("image_grid_thw")
    real = prompter.model.encode_images(**given, image_grid_thw=grid)
    model: Any = prompter.model
    model.to("meta")
    nowhere = model.encode_images(
        given["pixel_values"].to("meta"),
        grid,
        [image.to("meta") for image in shown],
        [some.to("meta") for some in boxes],
    )
    for name in ("image_tokens", "region_tokens", "deep_tokens"):
        pairs = zip(getattr(nowhere, name), getattr(real, name), strict=True)
        assert all(one.shape == other.shape for one, other in pairs)
    assert nowhere.region_tokens[0].is_meta


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_training_has_the_gradients_of_one_window_after_another(kind: str) -> None:
    """Also with checkpointing, and on grids that were first seen while answering."""
    prompter = make(kind)
    model = prompter.model
    shown, boxes = images(SIZES_HW[:4], COUNTS[:4])
    given = inputs(prompter, shown, boxes)
    with torch.inference_mode():
        model.encode_images(**given)
    model.train()
    old = model.gradient_checkpointing_enable
    getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        encoded = model.encode_images(**given)
        tokens = encoded.image_tokens + encoded.region_tokens + encoded.deep_tokens
        torch.stack([part.square().sum() for part in tokens]).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    found = gradients()
    with window_after_window(model):
        wanted = gradients()
    assert found.keys() == wanted.keys()
    assert any(name.startswith("host.model.visual") for name in found)
    for name, value in found.items():
        scale = wanted[name].abs().max().clamp(min=1e-3)
        assert (value - wanted[name]).abs().max() < 2e-4 * scale, name


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_another_attention_is_used_when_asked_for(kind: str) -> None:
    model = make(kind).model
    prompter = Prompter(model, hosts.make_tokenizer())
    given = inputs(prompter, *images([(64, 96)], [1]))

    def used() -> str:
        model.encode_images(**given)
        (name,) = {block.attn.config._attn_implementation for block in visual(model).blocks}
        return name

    assert used() == packed_attention.PACKED
    model.set_attn_implementation("eager")
    assert used() == "eager"
    visual(model).set_attn_implementation("sdpa")  # 5.17 changes a part of a part once only
    assert used() == packed_attention.PACKED


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_configurations_say_nothing_of_it_so_other_models_can_be_made_of_them(kind: str) -> None:
    prompter = make(kind)
    model = prompter.model
    given = inputs(prompter, *images([(64, 96)], [1]))
    wanted = model.encode_images(**given)
    config: Any = model.config
    assert config.host.vision_config._attn_implementation == "sdpa"
    again = FO1ForConditionalGeneration(config).eval()
    again.load_state_dict(model.state_dict())
    assert_close(again.encode_images(**given).region_tokens, wanted.region_tokens)
    AutoModelForImageTextToText.from_config(copy.deepcopy(model.host.config))
    copied = copy.deepcopy(model).encode_images(**given)
    assert_close(copied.image_tokens, wanted.image_tokens)


def with_stand_in(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """torch's kernel, for a CPU: attends inside each segment, and keeps how many and how long."""
    module = pytest.importorskip("torch.nn.attention.varlen")
    calls: list[tuple[int, int]] = []

    def varlen_attn(
        query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor,
        max_q: int, max_k: int,
    ) -> Tensor:  # fmt: skip
        assert query.ndim == key.ndim == value.ndim == 3
        assert cu_seq_q is cu_seq_k
        assert cu_seq_q.dtype == torch.int32
        ends = cu_seq_q.tolist()
        lengths = [high - low for low, high in pairwise(ends)]
        assert (ends[0], ends[-1]) == (0, len(query))
        assert max_q == max_k == max(lengths)
        assert all(part.stride(-1) == 1 for part in (query, key, value))
        calls.append((len(lengths), max_q))
        return torch.cat(
            [
                functional.scaled_dot_product_attention(*(x.transpose(0, 1) for x in some))
                for some in zip(*(x.split(lengths) for x in (query, key, value)), strict=True)
            ],
            dim=1,
        ).transpose(0, 1)

    monkeypatch.setattr(module, "varlen_attn", varlen_attn)
    monkeypatch.setattr(packed_attention, "has_kernel", lambda query: query.ndim == 4)
    return calls


@torch.no_grad()
def test_the_kernel_gets_all_segments_with_their_ends(
    windowed: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(windowed, *images([(140, 196), (112, 112)], [2, 1]))
    wanted = windowed.model.encode_images(**given)
    calls = with_stand_in(monkeypatch)
    found = windowed.model.encode_images(**given)
    assert_close(found.image_tokens, wanted.image_tokens)
    assert_close(found.region_tokens, wanted.region_tokens)
    assert calls == [(12 + 4, 16), (2, 140), (12 + 4, 16)]


class OnCuda(Tensor):
    """Says that it lies on a GPU."""

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("dtype", "width", "capability", "cuda", "taken"),
    [
        (torch.bfloat16, 80, (9, 0), "13.0", True),
        (torch.float16, 64, (8, 0), "12.6", True),
        (torch.float32, 80, (9, 0), "13.0", False),
        (torch.bfloat16, 20, (9, 0), "13.0", False),
        (torch.bfloat16, 80, (7, 5), "12.6", False),
        (torch.bfloat16, 80, (9, 0), None, False),  # ROCm calls its devices cuda too
    ],
)
def test_the_kernel_is_asked_for_what_it_can_do(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, width: int, capability: Any, cuda: Any, taken: bool
) -> None:
    pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    packed_attention._device_has_kernel.cache_clear()
    query = torch.zeros(1, 2, 4, width, dtype=dtype)
    assert packed_attention.has_kernel(query.as_subclass(OnCuda)) is taken
    assert not packed_attention.has_kernel(query)
    packed_attention._device_has_kernel.cache_clear()


def test_ends_of_segments_lie_where_the_attention_reads_them(windowed: Prompter) -> None:
    vit = copy.deepcopy(visual(windowed.model))
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert packed_attention.ends_device(vit, gpu) == cpu  # float32: batches, laid out by Python
    vit.config._attn_implementation = "flash_attention_2"
    assert packed_attention.ends_device(vit, gpu) == gpu
    vit.config._attn_implementation = "sdpa"
    assert packed_attention.ends_device(vit.bfloat16(), gpu) == gpu
    assert packed_attention.ends_device(vit, torch.device("mps")) == cpu


@torch.no_grad()
def test_tables_of_grids_are_kept_and_their_number_is_bounded(windowed: Prompter) -> None:
    qwen._patch_places.cache_clear()
    vit, cpu = visual(windowed.model), torch.device("cpu")
    for rows in (*range(2, 202, 2), 200):
        qwen.grid_tables(vit, [(1, rows, 2)], cpu)
    kept = qwen._patch_places.cache_info()
    assert kept.hits == 1
    assert kept.maxsize is not None
    assert kept.currsize == kept.maxsize < 100


@torch.no_grad()
def test_hooks_that_move_arguments_leave_the_auxiliary_tower_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    prompter = make("idefics3")
    model = prompter.model
    for part in (model.region_encoder, model.auxiliary):
        hooks.add_hook_to_module(part, hooks.AlignDevicesHook(execution_device="cpu"))
    moved: list[Any] = []
    monkeypatch.setattr(type(model.auxiliary), "to", lambda self, *_, **__: moved.append(self))
    model.encode_images(**inputs(prompter, *images([(64, 96)], [1])))
    assert not moved


def test_images_taken_apart_do_not_keep_the_memory_of_the_others() -> None:
    tokens = torch.zeros(100, 4)
    whole = EncodedImages(
        list(tokens.split(50)), list(tokens.split(50)), torch.ones(2, 3, dtype=torch.long)
    )
    for one in whole.one_by_one():
        assert one.image_tokens[0].untyped_storage().nbytes() == 50 * 4 * 4
        assert one.region_tokens[0].untyped_storage().nbytes() == 50 * 4 * 4
    (alone,) = EncodedImages([tokens], [tokens], torch.ones(1, 3)).one_by_one()
    assert alone.image_tokens[0] is tokens  # nothing to take apart
