"""Models of a page are loaded once, as they were chosen, and nothing else can be chosen."""

import threading
from types import SimpleNamespace

import pytest
from tests.helpers.stub_proposer import Stub

from vlm_fo1.app.models import AUTO, Choice, Loading, ModelPool
from vlm_fo1.errors import (
    ConfigError,
)


def pool_of(*args, **options):
    loads = []

    def load(name, **how):
        loads.append((name, how["device"]))
        if name == "broken":
            raise ConfigError("no such weights")
        return name

    return ModelPool(*args, load_model=load, **options), loads


def test_what_is_loaded_on_a_page_gets_its_revision_token_and_strictness(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "vlm_fo1.app.models.load_proposer",
        lambda name, **how: asked.append((name, how)) or Stub(),
    )
    loading = Loading(dtype="bfloat16", revision="v1", token="hf_x", strict=True)
    pool = ModelPool(
        ["a"],
        ["upn:b"],
        loading=loading,
        load_model=lambda name, **how: asked.append((name, how)) or SimpleNamespace(),  # type: ignore[arg-type]
    )
    pool.fo1(pool.choice(), proposing=False)
    pool.proposer(pool.choice())
    both = {"device": None, "token": "hf_x", "strict": True}
    assert asked == [
        ("a", {**both, "dtype": "bfloat16", "revision": "v1"}),
        ("upn:b", both),
    ]
    assert "hf_x" not in repr(loading)


def test_a_model_is_loaded_once_however_many_ask():
    pool, loads = pool_of(["a", "b"], ["ocr"], ["cpu"])
    choice = pool.choice()
    assert pool.state(choice)[0] == ("model", "a", "loaded with the first question")
    threads = [threading.Thread(target=lambda: pool.fo1(choice, proposing=False)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [("a", "cpu")]
    assert pool.ready(choice)
    assert pool.state(choice)[0][2].startswith("ready")
    pool.fo1(pool.choice("b"), proposing=False)
    assert loads == [("a", "cpu"), ("b", "cpu")]


def test_a_model_that_cannot_be_loaded_says_so_and_is_tried_again():
    pool, loads = pool_of(["broken"])
    for _ in range(2):
        with pytest.raises(ConfigError, match="no such weights"):
            pool.fo1(pool.choice(), proposing=False)
    assert pool.state(pool.choice())[0][2] == "could not be loaded: no such weights"
    assert len(loads) == 2


def test_the_bundled_model_brings_its_proposer_and_others_none():
    assert ModelPool().choice() == Choice(model="tiny", proposer="tiny", device=AUTO)
    pool, _ = pool_of(["elsewhere"])
    assert pool.choice().proposer is None
    with pytest.raises(ConfigError, match="--proposer"):
        pool.proposer(pool.choice())


def test_only_what_a_page_was_started_with_can_be_chosen():
    pool, _ = pool_of(["a"])
    with pytest.raises(ConfigError, match="no model '/etc'"):
        pool.choice("/etc")
    with pytest.raises(ConfigError, match="given twice"):
        pool_of(["a", "a"])
