"""UPN beyond the recorded numbers: the proposer, weights, bad input, exports."""

import argparse
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers.regions import same

from vlm_fo1.errors import BoxError, CheckpointError, ConfigError, PromptError
from vlm_fo1.proposers.base import Proposer, Selection, load_proposer, select
from vlm_fo1.proposers.upn import (
    OFFICIAL_FILTER,
    PROMPTS,
    UPN,
    OnnxUPN,
    UPNConfig,
    UPNOutput,
    UPNProposer,
    export_onnx,
    regions_of,
)  # fmt: skip
from vlm_fo1.proposers.upn.__main__ import main
from vlm_fo1.proposers.upn.levels import Geometry
from vlm_fo1.proposers.upn.preprocessing import collate, normalised, resized_wh
from vlm_fo1.proposers.upn.sampling import RowSampling
from vlm_fo1.proposers.upn.slices import in_slices
from vlm_fo1.proposers.upn.weights import TABLE, released_names

RECORDED = Path(__file__).parents[3] / "data" / "upn"
TINY = UPNConfig(
    embed_dim=8, depths=(2, 1, 1, 1), backbone_heads=(1, 2, 2, 4), window=3, encoder_layers=1,
    decoder_layers=2, heads=4, points=2, ffn_dim=32, queries=20,
)  # fmt: skip


@cache
def tiny() -> UPN:
    torch.manual_seed(3)
    return UPN(TINY).eval().requires_grad_(False)


def proposer(**options: Any) -> UPNProposer:
    return UPNProposer(tiny(), **{"shorter": 64, "longer_max": 100, **options})


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


# The proposer


def test_it_is_a_proposer_that_offers_scored_boxes_within_each_image_best_first():
    ours = proposer()
    assert isinstance(ours, Proposer)
    images = [photo(90, 60), photo(40, 120), photo(1, 1), photo(1, 700)]
    before = [image.tobytes() for image in images]
    for image, regions in zip(images, ours.propose(images), strict=True):
        assert regions.size_wh == image.size
        assert 0 < len(regions) <= TINY.queries
        assert regions.xyxy.dtype == np.float32
        assert (regions.xyxy >= 0).all()
        assert (regions.xyxy[:, 2:] <= image.size).all()
        assert regions.scores is not None
        assert (np.diff(regions.scores) <= 0).all()
    assert [image.tobytes() for image in images] == before
    assert ours.propose([]) == []


def test_it_takes_no_queries():
    with pytest.raises(PromptError, match="leave out queries"):
        proposer().propose([photo(9, 9)], queries=["cat"])


def test_threads_get_what_one_thread_gets():
    ours = proposer()
    images = [photo(50 + 7 * seed, 40, seed) for seed in range(6)]
    alone = ours.propose(images)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda image: ours.propose([image])[0], images))
    assert all(map(same, alone, together))


def test_one_image_at_a_time_its_neighbours_do_not_matter_and_in_batches_padding_is_seen():
    images = [photo(64, 64), photo(100, 50, 1), photo(64, 64, 2)]
    alone = [proposer().propose([image])[0] for image in images]
    assert all(map(same, proposer().propose(images), alone))
    pair = proposer(batch_size=2).propose(images)
    assert same(pair[2], alone[2])
    pixels, mask = collate(
        [normalised(image, resized_wh(image.size, 64, 100)) for image in images[:2]]
    )
    with torch.inference_mode():
        batch = regions_of(tiny()(pixels, mask), [image.size for image in images[:2]])
    for ours, whole in zip(pair, batch, strict=False):
        np.testing.assert_array_equal(np.asarray(ours.scores)[:5], np.asarray(whole.scores)[:5])


def test_images_of_one_size_in_a_batch_get_what_each_gets_alone():
    images = [photo(64, 48, seed) for seed in range(3)]
    for ours, alone in zip(
        proposer(batch_size=3).propose(images), proposer().propose(images), strict=True
    ):
        np.testing.assert_allclose(ours.xyxy, alone.xyxy, atol=1e-3)


def test_the_two_prompts_find_different_boxes_and_another_one_is_refused():
    fine, coarse = (proposer(prompt=prompt).propose([photo(64, 64)])[0] for prompt in PROMPTS)
    assert not same(fine, coarse)
    with pytest.raises(ConfigError, match="'fine_grained' or 'coarse_grained'"):
        proposer(prompt="medium")
    with pytest.raises(PromptError, match="'fine_grained' and 'coarse_grained'"):
        tiny()(torch.zeros(1, 3, 32, 32), prompt="medium")


def test_a_selection_is_made_before_boxes_are_clipped():
    boxes = torch.tensor([[[0.0, 0.5, 1.0, 0.4], [-0.3, 0.5, 1.6, 0.4], [0.7, 0.7, 0.3, 0.3]]])
    found = regions_of(UPNOutput(torch.tensor([[2.0, 1.0, -2.0]]), boxes), [(100, 80)])[0]
    assert found.xyxy[0, 0] == -50
    kept = select(found, OFFICIAL_FILTER)  # beyond the image the first two differ enough
    assert len(kept) == 2
    np.testing.assert_array_equal(kept.xyxy[0], [-50, 24, 50, 56])
    np.testing.assert_allclose(np.asarray(kept.scores), [0.88, 0.73], atol=1e-6)
    within = proposer(selection=OFFICIAL_FILTER).propose([photo(80, 60)])[0]
    assert (within.xyxy == np.trunc(within.xyxy)).all()
    assert (within.xyxy >= 0).all()


def test_broken_numbers_are_refused_with_a_remedy():
    boxes = torch.full((1, 2, 4), 0.5)
    boxes[0, 1, 2] = torch.nan
    with pytest.raises(BoxError, match=r"1 of 2 boxes that are no numbers.*float32"):
        regions_of(UPNOutput(torch.zeros(1, 2), boxes), [(9, 9)])
    broken = UPN(TINY).eval().requires_grad_(False)
    broken.encoder.level_embedding.fill_(torch.nan)
    with pytest.raises(BoxError, match="no numbers"):
        UPNProposer(broken, shorter=48).propose([photo(30, 30)])


def test_the_fingerprint_follows_weights_and_settings():
    torch.manual_seed(4)
    prints = [
        proposer().fingerprint, proposer(prompt="coarse_grained").fingerprint,
        proposer(shorter=65).fingerprint, proposer(selection=Selection(limit=3)).fingerprint,
        UPNProposer(UPN(TINY), shorter=64, longer_max=100).fingerprint,
        UPNProposer(UPN(TINY).bfloat16(), shorter=64, longer_max=100).fingerprint,
    ]  # fmt: skip
    assert len(set(prints)) == len(prints)
    assert proposer().fingerprint == prints[0]


def test_the_fingerprint_is_that_of_the_weights_wherever_and_however_they_lie():
    state = tiny().state_dict()
    elsewhere = {
        name: value.clone(memory_format=torch.channels_last) if value.ndim == 4 else value.clone()
        for name, value in reversed(state.items())
    }
    moved = UPN(TINY).eval().requires_grad_(False)
    moved.load_state_dict(elsewhere, assign=True)
    assert any(not value.is_contiguous() for value in moved.state_dict().values())
    assert UPNProposer(moved, shorter=64, longer_max=100).fingerprint == proposer().fingerprint


def test_the_released_filter_and_its_hundred_boxes_are_what_is_used_of_them():
    assert proposer().selection == Selection(
        min_score=0.3, nms_iou=0.8, limit=100, whole_pixels=True
    )
    filtered = proposer(selection=OFFICIAL_FILTER)
    (regions,) = filtered.propose([photo(90, 60)])
    assert same(select(regions, filtered.selection), regions[:100])  # clipped: no second NMS
    assert proposer(selection=Selection(limit=3)).selection == Selection(limit=3)


@pytest.mark.parametrize("option", ["shorter", "longer_max", "batch_size"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(ConfigError, match=rf"{option} = 0: at least 1"):
        proposer(**{option: 0})


# The network


def test_slices_and_masks_change_nothing(monkeypatch):
    upn = tiny()
    pixels = torch.randn(2, 3, 70, 90)
    with torch.inference_mode():
        whole = upn(pixels)
        masked = upn.levels(upn.backbone(pixels))
        full = torch.ones(2, 70, 90, dtype=torch.bool)
        plain, padded = (upn.encoder(masked, Geometry.of(masked, mask)) for mask in (None, full))
        monkeypatch.setattr("vlm_fo1.proposers.upn.slices.HIDDEN_NUMBERS", 16 * 32)
        sliced = upn(pixels, full)
    torch.testing.assert_close(plain, padded, rtol=0, atol=1e-5)
    torch.testing.assert_close(sliced, whole, rtol=0, atol=1e-4)


def test_rows_come_back_in_order_whatever_the_slice():
    rows = torch.arange(2.0 * 50).view(2, 50, 1)
    assert torch.equal(in_slices(lambda part: part + 1, rows, 2**16), rows + 1)


def test_exported_graphs_sample_as_running_ones_do(monkeypatch):
    value, at = torch.randn(2, 23, 3, 4), torch.rand(2, 5, 3, 2, 2, 2) * 1.4 - 0.2
    weights, shapes = torch.rand(2, 5, 3, 2, 2), [(4, 5), (1, 3)]
    rest = (torch.tensor(shapes), shapes, torch.tensor([0, 20]), at, weights)
    running = RowSampling()(value, *rest)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(RowSampling()(value, *rest), running)


def test_an_image_with_fewer_cells_than_queries_gets_a_box_per_cell():
    with torch.inference_mode():
        found = tiny()(torch.zeros(1, 3, 4, 9))
    assert found.logits.shape == (1, 3 + 2 + 3)
    assert found.boxes.isfinite().all()


# Weights


def saved(tmp_path: Path) -> dict[str, torch.Tensor]:
    """The recorded weights under the released names, with a config beside them."""
    (tmp_path / "config.json").write_bytes((RECORDED / "config.json").read_bytes())
    return load_file(RECORDED / "model.safetensors")


def as_pth(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save({"model": state}, path)
    return path


def config_of(folder: Path) -> UPNConfig:
    return UPNConfig.from_dict(json.loads((folder / "config.json").read_text()))


def test_a_saved_network_loads_again_from_a_folder_and_a_released_one_from_a_pth(tmp_path):
    tiny().save_pretrained(tmp_path / "ours")
    again = UPN.from_pretrained(tmp_path / "ours", dtype="float32")
    assert again.config == TINY
    assert not again.training
    pixels = torch.randn(1, 3, 40, 50)
    with torch.inference_mode():
        torch.testing.assert_close(again(pixels), tiny()(pixels), rtol=0, atol=0)
    state = saved(tmp_path)
    repeated = {
        name.replace("bbox_embed.0", f"{start}bbox_embed.{layer}"): value
        for name, value in state.items()
        if name.startswith("bbox_embed.0")
        for start in ("", "transformer.decoder.")
        for layer in range(2)
    }
    config = config_of(tmp_path)
    released = UPN.from_pretrained(as_pth(tmp_path / "upn.pth", state | repeated), config=config)
    folder = UPN.from_pretrained(RECORDED)
    assert all(map(torch.equal, released.state_dict().values(), folder.state_dict().values()))
    assert released.config == folder.config == config
    named = load_proposer(f"upn:{tmp_path / 'ours'}", device="cpu", dtype="bfloat16", shorter=64)
    assert len(named.propose([photo(30, 40)])[0])


def test_weights_of_another_network_are_refused_and_what_differs_is_named(tmp_path):
    state = saved(tmp_path)
    other = {"backbone.conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"do not fit a UPN.*missing.*2 left over"):
        UPN.from_pretrained(as_pth(tmp_path / "resnet.pth", other))
    with pytest.raises(CheckpointError, match=r"of another shape.*config=UPNConfig"):
        UPN.from_pretrained(as_pth(tmp_path / "small.pth", state))  # not the sizes of UPN-large
    del state["transformer.tgt_embed.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 of \d+ missing: decoder.content"):
        UPN.from_pretrained(tmp_path, strict=False)


def test_tensors_without_a_place_are_counted_and_named_and_refused_where_asked(tmp_path, caplog):
    save_file(
        saved(tmp_path) | {"label_enc.weight": torch.zeros(2)}, tmp_path / "model.safetensors"
    )
    with caplog.at_level(logging.WARNING):
        load_proposer(f"upn:{tmp_path}", device="cpu")
    (message,) = caplog.messages
    assert "1 tensors have no place in a UPN" in message
    assert "label_enc.weight" in message
    with pytest.raises(CheckpointError, match=r"1 left over: label_enc\.weight; without strict"):
        load_proposer(f"upn:{tmp_path}", device="cpu", strict=True)


def test_a_file_saved_from_several_gpus_with_its_settings_is_read(tmp_path):
    state = {f"module.{name}": value for name, value in saved(tmp_path).items()}
    settings = argparse.Namespace(lr=1e-4, dataset="coco")
    torch.save({"model": state, "args": settings, "epoch": 11}, tmp_path / "upn.pth")
    loaded = UPN.from_pretrained(tmp_path / "upn.pth", config=config_of(tmp_path), strict=True)
    folder = UPN.from_pretrained(RECORDED)
    assert all(map(torch.equal, loaded.state_dict().values(), folder.state_dict().values()))


def test_a_file_of_the_older_kind_of_torch_is_read(tmp_path):
    state = saved(tmp_path)
    torch.save({"model": state}, tmp_path / "upn.pth", _use_new_zipfile_serialization=False)
    loaded = UPN.from_pretrained(tmp_path / "upn.pth", config=config_of(tmp_path))
    assert torch.equal(loaded.decoder.content, UPN.from_pretrained(RECORDED).decoder.content)


def test_a_repository_of_the_hub_is_fetched_with_revision_and_token(tmp_path, monkeypatch):
    asked = []

    def fetch(name, *, check, **hub):
        check(RECORDED)
        asked.append((name, hub))
        return RECORDED

    monkeypatch.setattr("vlm_fo1.proposers.upn.weights.fetch", fetch)
    load_proposer("upn:someone/upn@v2", device="cpu", token="hf_x")
    assert asked == [("someone/upn", {"revision": "v2", "token": "hf_x"})]


def test_copies_of_the_shared_box_head_that_differ_are_refused(tmp_path):
    state = saved(tmp_path)
    name = "bbox_embed.0.layers.2.bias"
    state["transformer.decoder.bbox_embed.1.layers.2.bias"] = state[name] + 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="differs from another copy"):
        UPN.from_pretrained(tmp_path)


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        UPN.from_pretrained(tmp_path / "upn_large.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError, match="broken, cut short"):
        UPN.from_pretrained(tmp_path / "cut.pth")
    torch.save({"model": {"epoch": 3}}, tmp_path / "numbers.pth")
    with pytest.raises(CheckpointError, match="no tensors by name"):
        UPN.from_pretrained(tmp_path / "numbers.pth")
    torch.save({"model": {}, "args": Path("x")}, tmp_path / "pickle.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        UPN.from_pretrained(tmp_path / "pickle.pth")
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        UPN.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="write upn:PATH"):
        load_proposer("upn")
    with pytest.raises(ConfigError, match="dtype 'int8' is none"):
        UPN.from_pretrained(RECORDED, dtype="int8")


def test_every_row_of_the_name_table_is_used():
    names = json.loads((RECORDED / "upn_large_tensors.json").read_text())["tensors"]
    unknown = [name for name, ours in released_names(names).items() if ours == (name,)]
    assert not unknown
    assert len(TABLE) == len({pattern for pattern, _ in TABLE})


# Configurations


def test_configurations_come_back_and_official_ones_are_read():
    assert UPNConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
    official = json.loads((RECORDED / "config.json").read_text())
    read = UPNConfig.from_dict(official)
    assert (read.window, read.depths, read.points, read.queries) == (4, (2, 1, 2, 1), 2, 30)
    assert UPNConfig.from_dict(official["model"]) == read


def test_configurations_that_are_none_of_upns_are_refused():
    official = json.loads((RECORDED / "config.json").read_text())["model"]
    official["transformer_cfg"]["two_stage_type"] = "no"
    with pytest.raises(ConfigError, match=r"two_stage_type = 'no' is not supported"):
        UPNConfig.from_dict(official)
    with pytest.raises(ConfigError, match="no UPN's configuration"):
        UPNConfig.from_dict({"model_type": "detr"})
    with pytest.raises(ConfigError, match="unknown key 'querys': did you mean 'queries'"):
        UPNConfig.from_dict({**TINY.to_dict(), "querys": 3})
    with pytest.raises(ConfigError, match="do not divide into 3 heads"):
        UPNConfig(heads=3)
    with pytest.raises(ConfigError, match="one number for each of 4 stages"):
        UPNConfig(depths=(2, 2))
    with pytest.raises(ConfigError, match="queries = 0: at least 1"):
        UPNConfig(queries=0)
    del official["transformer_cfg"]["num_queries"]
    official["transformer_cfg"]["two_stage_type"] = "standard"
    with pytest.raises(ConfigError, match=r"lacks transformer_cfg\.num_queries"):
        UPNConfig.from_dict(official)


# ONNX


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_runtime_agrees_with_pytorch_also_where_the_canvas_is_padded(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'vlm-fo1[onnx]'")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: 'vlm-fo1[onnx]'")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: 'vlm-fo1[onnx]'")
    tiny().save_pretrained(tmp_path / "upn")
    main([str(tmp_path / "upn"), str(tmp_path / "upn.onnx"), "--size", "75", "50"])
    exported = OnnxUPN(tmp_path / "upn.onnx")
    assert exported.size_wh == (75, 50)
    for width, height in ((75, 50), (60, 41)):
        pixels, mask = collate([torch.randn(3, 50, 75), torch.randn(3, height, width)])
        with torch.inference_mode():
            ours = tiny()(pixels[1:], mask[1:])
        theirs = exported(pixels[1:, :, :height, :width])
        torch.testing.assert_close(theirs.logits, ours.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(theirs.boxes, ours.boxes, rtol=0, atol=1e-5)
    regions = exported.regions(photo(200, 300))
    assert regions.size_wh == (200, 300)
    assert len(regions) > 0
    with pytest.raises(ConfigError, match="do not fit this file"):
        exported(torch.zeros(1, 3, 51, 75))
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="no ONNX file"):
        OnnxUPN(tmp_path / "no.onnx")


def test_what_cannot_be_exported_is_refused(tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: 'vlm-fo1[onnx]'")
    with pytest.raises(ConfigError, match="only a float32 network"):
        export_onnx(UPN(TINY).bfloat16(), tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match="at least 1 is needed"):
        export_onnx(tiny(), tmp_path / "a.onnx", size_wh=(0, 9))
    with pytest.raises(ConfigError, match="prompt = 'x'"):
        export_onnx(tiny(), tmp_path / "a.onnx", prompt="x")
