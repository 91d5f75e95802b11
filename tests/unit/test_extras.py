import sys

import pytest

from vlm_fo1._extras import require
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
