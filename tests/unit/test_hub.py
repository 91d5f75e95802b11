"""Fetching from the Hub, on a Hub that is two folders: what is asked for, and what is said."""

import errno
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import errors as hub_errors

from vlm_fo1 import hub
from vlm_fo1.errors import CheckpointError, ConfigError
from vlm_fo1.fo1 import FO1
from vlm_fo1.hub import fetch, is_hub_id
from vlm_fo1.model import weights
from vlm_fo1.model.modeling import FO1ForConditionalGeneration

NAME = "omlab/VLM-FO1"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def refused(kind, text="404 Client Error.", status=404):
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind(text, response=response)


class FakeHub:
    """Copies files of one folder to another as they are asked for, and remembers which."""

    def __init__(self, remote: Path, cache: Path) -> None:
        self.remote, self.cache = remote, cache
        self.asked: list[str] = []
        self.said: list[dict] = []
        self.broken: dict[str, Exception] = {}

    def file(self, name, filename, **options):
        assert name == NAME
        self.said.append(options)
        if filename in self.broken:
            raise self.broken[filename]
        if not (self.remote / filename).is_file():
            url = f"https://huggingface.co/{name}/resolve/main/{filename}"
            text = f"404 Client Error.\n\nEntry Not Found for url: {url}."
            raise refused(hub_errors.RemoteEntryNotFoundError, text)
        self.asked.append(filename)
        self.cache.mkdir(exist_ok=True)
        return shutil.copy(self.remote / filename, self.cache / filename)

    def snapshot(self, name, *, allow_patterns, **options):
        for path in sorted(self.remote.iterdir()):
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                self.file(name, path.name, **options)
        return str(self.cache)

    def put(self, *names):
        for name in names:
            (self.remote / name).write_text("{}")


@pytest.fixture
def there(tmp_path, monkeypatch):
    (tmp_path / "remote").mkdir()
    fake = FakeHub(tmp_path / "remote", tmp_path / "cache")
    fake.put("config.json", "tokenizer_config.json", "vocab.json", "merges.txt", "README.md")
    monkeypatch.setattr(hub, "hf_hub_download", fake.file)
    monkeypatch.setattr(hub, "snapshot_download", fake.snapshot)
    return fake


def with_shards(there, stem="model.safetensors", shards=SHARDS):
    there.put(*shards)
    weight_map = {f"tensor{number}": shard for number, shard in enumerate([*shards, shards[0]])}
    (there.remote / f"{stem}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def weight_files(there):
    return [name for name in there.asked if name.endswith((".bin", ".safetensors"))]


def test_one_format_of_weights_is_fetched_and_safetensors_before_pickles(there):
    there.put("model.safetensors", "pytorch_model.bin", "consolidated.safetensors", "davit.pth")
    assert fetch(NAME) == there.cache
    assert weight_files(there) == ["model.safetensors"]


def test_shards_are_those_that_the_index_names_each_once(there):
    with_shards(there)
    there.put("pytorch_model.bin", "other.safetensors")
    fetch(NAME)
    assert weight_files(there) == SHARDS


def test_where_there_are_only_pickled_weights_these_are_fetched(there):
    there.put("pytorch_model.bin")
    fetch(NAME)
    assert weight_files(there) == ["pytorch_model.bin"]
    there.asked.clear()
    (there.remote / "pytorch_model.bin").unlink()
    with_shards(there, "pytorch_model.bin", ["pytorch_model-1.bin", "pytorch_model-2.bin"])
    fetch(NAME)
    assert weight_files(there) == ["pytorch_model-1.bin", "pytorch_model-2.bin"]


def test_a_repository_without_weights_is_named_with_its_page(there):
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors: .*/tree/main lists"):
        fetch(NAME)


def test_a_repository_without_a_configuration_is_no_checkpoint(there):
    (there.remote / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"VLM-FO1 has no config\.json: it is no checkpoint"):
        fetch(NAME)
    assert not there.asked


def test_the_configuration_is_looked_at_before_anything_else_is_fetched(there):
    there.put("model.safetensors")
    (there.remote / "config.json").write_text('{"model_type": "llava"}')
    for load in (FO1.from_pretrained, FO1ForConditionalGeneration.from_pretrained):
        with pytest.raises(CheckpointError, match="model_type 'llava'"):
            load(NAME)
    assert set(there.asked) == {"config.json"}


def test_an_option_that_is_not_supported_is_refused_before_weights_are_fetched(there):
    there.put("model.safetensors")
    released = {"model_type": "omchat_qwen2_5_vl", "hidden_size": 8, "vocab_size": 9}
    odd = {**released, "mm_pos_embedding_strategy": "feature_map_based"}
    (there.remote / "config.json").write_text(json.dumps(odd))
    with pytest.raises(ConfigError, match=r"config\.json: mm_pos_embedding_strategy = "):
        FO1.from_pretrained(NAME)
    assert set(there.asked) == {"config.json"}


def test_a_tokenizer_that_cannot_be_loaded_is_said_before_weights_are_fetched(there):
    there.put("model.safetensors")
    released = {"model_type": "omchat_qwen2_5_vl", "hidden_size": 8, "vocab_size": 9}
    named = {**released, "mm_vision_tower_aux": "davit-base"}
    (there.remote / "config.json").write_text(json.dumps(named))
    (there.remote / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer: merges\.txt missing"):
        FO1.from_pretrained(NAME)
    assert not weight_files(there)


def test_revision_token_and_cache_reach_every_request(there):
    with_shards(there)
    wanted = {"revision": "v1", "token": "hf_x", "cache_dir": "c", "local_files_only": True}
    weights.resolve_folder(NAME, **wanted)
    assert len(there.said) > len(SHARDS)
    assert all(options == wanted for options in there.said)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            refused(hub_errors.GatedRepoError, status=403),
            r"is gated: ask for access at https://huggingface\.co/omlab/VLM-FO1, .*hf auth login",
        ),
        (
            refused(hub_errors.RepositoryNotFoundError),
            r"no folder here, and the Hub has no such .*spelling.*hf auth login",
        ),
        (refused(hub_errors.RevisionNotFoundError), "has no revision 'v7': .*/tree/main"),
        (
            refused(hub_errors.HfHubHTTPError, "401 Client Error.", status=401),
            r"refuses omlab/VLM-FO1 with this token: .*hf auth login",
        ),
        (
            hub_errors.LocalEntryNotFoundError("not cached"),
            r"not whole in the cache .*`hf download omlab/VLM-FO1` .*resumes",
        ),
        (hub_errors.OfflineModeIsEnabled("offline"), "`hf download omlab/VLM-FO1`"),
        (ConnectionResetError("Connection reset by peer"), "broke off .*run the same command ag"),
        (TimeoutError("The read operation timed out"), "broke off .*goes on where it stopped"),
        (RuntimeError("Data processing error"), "broke off .*RuntimeError.*where it stopped"),
        (OSError(errno.ENOSPC, "No space left on device"), "does not fit on the disk .*HF_HOME"),
    ],
)
@pytest.mark.parametrize("during", ["config.json", SHARDS[1]])
def test_what_the_hub_has_against_a_request_comes_as_one_line_that_says_what_to_do(
    there, error, words, during
):
    with_shards(there)
    there.broken[during] = error
    with pytest.raises(CheckpointError, match=words) as caught:
        fetch(NAME, revision="v7")
    assert "\n" not in str(caught.value)
    assert NAME in str(caught.value)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("omlab/VLM-FO1_Qwen2.5-VL-3B-v01", True),
        ("tiny", False),
        ("a/b/c", False),
        ("resources/upn_large.pth", False),
        ("runs/model.safetensors", False),
    ],
)
def test_a_file_of_weights_is_not_taken_for_a_repository(name, is_one):
    assert is_hub_id(name) is is_one
