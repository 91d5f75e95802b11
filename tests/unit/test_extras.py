import importlib.metadata
import logging
import re
import sys
from pathlib import Path

import pytest

from vlm_fo1._extras import (
    NEWEST_TRANSFORMERS,
    require,
    untested_transformers,
    warn_of_untested_transformers,
)
from vlm_fo1.errors import FO1Error, MissingExtraError


def test_an_installed_module_is_imported():
    assert require("json.decoder", extra="none").JSONDecoder is not None


def test_a_missing_module_names_the_command_that_adds_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vlm-fo1\[supervision\]'"):
        require("supervision", extra="supervision")


def test_a_missing_extra_is_our_error_and_an_import_error():
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_module_here.part", extra="app")
    assert isinstance(caught.value, FO1Error)
    assert isinstance(caught.value, ImportError)


def test_an_installed_module_that_lacks_its_own_dependency_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import surely_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed") as caught:
        require("half_there", extra="app")
    assert not isinstance(caught.value, MissingExtraError)


@pytest.fixture
def installed(monkeypatch):
    """Have another version of transformers, as far as its metadata says."""

    def have(version: str) -> None:
        monkeypatch.setattr(importlib.metadata, "version", lambda name: version)

    warn_of_untested_transformers.cache_clear()
    yield have
    warn_of_untested_transformers.cache_clear()


def test_a_transformers_newer_than_any_that_was_tested_is_named_with_the_tested_one(installed):
    installed("5.999.0")
    said = untested_transformers()
    assert "transformers 5.999.0 is newer than" in said
    assert f"pip install 'transformers<={NEWEST_TRANSFORMERS}'" in said
    installed("5.17.0")
    assert untested_transformers() == ""
    installed(NEWEST_TRANSFORMERS)
    assert untested_transformers() == ""


def test_the_first_model_warns_of_an_untested_transformers_and_the_second_is_silent(
    installed, caplog
):
    from tests.helpers import hosts

    installed("5.999.0")
    with caplog.at_level(logging.WARNING, logger="vlm_fo1._extras"):
        for _ in range(2):
            hosts.make_graft(hosts.make_host("qwen3_vl"), hosts.make_tokenizer())
    assert [record.name for record in caplog.records].count("vlm_fo1._extras") == 1
    assert "5.999.0 is newer" in caplog.text


def test_the_pinned_transformers_is_the_newest_that_was_tested():
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
    assert re.findall(r"^transformers==(.+)$", pins, re.M) == [NEWEST_TRANSFORMERS]
