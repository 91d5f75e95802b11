"""Which weights are in the Hub's cache, and where a model would run."""

import json
import re
from pathlib import Path

import pytest

from vlm_fo1.cli.fitting import MODELS, RELEASED, Place, Surroundings, fit

GB = 10**9
(MODEL,) = [model for model in MODELS if model.name == RELEASED]


def cached(cache, names, *, repository=RELEASED, shards=()):
    """A repository in the Hub's cache as huggingface_hub leaves it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot, blobs = folder / "snapshots" / ("c" * 40), folder / "blobs"
    for made in (snapshot, blobs, folder / "refs"):
        made.mkdir(parents=True)
    (folder / "refs" / "main").write_text("c" * 40)
    for name in names:
        index = {"weight_map": {f"layer.{shard}": shard for shard in shards}}
        (blobs / name).write_text(json.dumps(index) if name.endswith("index.json") else "{}")
        (snapshot / name).symlink_to(blobs / name)


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = ("config.json", "model.safetensors.index.json")


@pytest.mark.parametrize(
    ("names", "stored"),
    [
        (("config.json", "model.safetensors"), "downloaded"),
        (("config.json", "pytorch_model.bin"), "downloaded"),
        ((*INDEX, *SHARDS), "downloaded"),
        ((*INDEX, SHARDS[0]), "partly downloaded"),
        (("config.json",), "partly downloaded"),
    ],
)
@pytest.mark.parametrize("repository", [RELEASED, "omlab/VLM-FO1-3B-v01"])
def test_only_a_whole_snapshot_counts_as_downloaded(tmp_path, names, stored, repository):
    cached(tmp_path, names, repository=repository, shards=SHARDS)
    assert found_in(tmp_path).weights == stored


def test_another_repository_or_an_empty_cache_is_no_download(tmp_path):
    assert found_in(tmp_path).weights == "not downloaded"
    assert found_in(tmp_path / "missing").weights == "not downloaded"
    cached(tmp_path, ("config.json", "model.safetensors"), repository="someone/else")
    assert found_in(tmp_path).weights == "not downloaded"


def test_a_broken_index_is_no_whole_download(tmp_path):
    cached(tmp_path, INDEX, shards=())
    (blob,) = tmp_path.glob("*/blobs/model.safetensors.index.json")
    blob.write_text("{")
    assert found_in(tmp_path).weights == "partly downloaded"


def test_what_is_downloaded_runs_offline_and_on_a_full_disk(tmp_path):
    cached(tmp_path, ("config.json", "model.safetensors"))
    assert found_in(tmp_path, disk_gb=0.0, offline=True).runs


def found_in(cache, *, disk_gb: float = 50.0, offline: bool = False):
    place = Place(device="cpu", total_gb=64.0, free_gb=60.0)
    return fit(MODEL, [place], Surroundings(cache=cache, disk_gb=disk_gb, offline=offline))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_way_to_run_a_model_needs_more_than_its_weights(model):
    stored = "bfloat16" if model.name == RELEASED else "float32"
    for need in model.needs:
        weights_gb = model.download_gb * (1 if need.dtype == stored else 2)
        assert need.peak_gb > weights_gb


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_documentation_gives_the_same_numbers(model):
    text = (Path(__file__).parents[3] / "docs" / "weights.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {re.escape(model.title)} \| ([\d.]+) \|(.*)\|$", text, re.MULTILINE)
    peaks = {(need.device, need.dtype): f"{need.peak_gb:g}" for need in model.needs}
    columns = [(device, dtype) for device in ("cpu", "cuda") for dtype in ("bfloat16", "float32")]
    assert row[0] == f"{model.download_gb:g}"
    assert [cell.strip() for cell in row[1].split("|")] == [peaks.get(at, "") for at in columns]
