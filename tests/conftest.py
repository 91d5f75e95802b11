"""Fixtures that tests of several modules share; each is made once, when a test first asks for it.

What a test changes on them it changes through `monkeypatch`, so that the next one finds them whole.
Libraries are imported in the fixtures, so that tests which need none of them start quickly.
"""

import functools
import gc
import importlib.machinery
import logging
import sys
import typing
from unittest import mock

import pytest
from hypothesis import settings
from jaxtyping import _import_hook

settings.register_profile("unhurried", deadline=None)  # a slow machine is no fault
settings.load_profile("unhurried")

if sys.version_info < (3, 12):
    # Every check of an ArrayLike asks for the members of its protocols; later Pythons keep them.
    members: typing.Any = typing
    members._get_protocol_attrs = functools.cache(members._get_protocol_attrs)


class CheckedLoader(_import_hook._JaxtypingLoader):
    """Keeps the code of a checked module under a name of its own, and of that module alone.

    The hook's loader does so for whatever the module imports as well, and all of torch and
    transformers, which pip compiled, would be compiled once more by every worker.
    """

    exec_module = importlib.machinery.SourceFileLoader.exec_module

    def get_code(self, fullname):
        name = functools.partial(
            _import_hook._optimized_cache_from_source, self._typechecker.get_hash()
        )
        with mock.patch("importlib._bootstrap_external.cache_from_source", name):
            return super().get_code(fullname)


_import_hook._JaxtypingLoader = CheckedLoader


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported here stays: the garbage collector need not look at it in every test."""
    gc.disable()
    collected = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return collected


@pytest.fixture(scope="session")
def tiny():
    """The bundled model with its proposer, as a user loads it."""
    from vlm_fo1 import FO1

    return FO1.from_pretrained("tiny")


@pytest.fixture(scope="session")
def fo1(tiny):
    """The bundled model alone: boxes are given, or there are none."""
    from vlm_fo1 import FO1

    return FO1(tiny.model, tiny.processor)


@pytest.fixture(scope="session")
def processor():
    """A processor of the released form whose tokenizer splits text into characters."""
    from tests.helpers.tokenizer import char_tokenizer
    from vlm_fo1.processing import FO1ImageProcessor, FO1Processor

    return FO1Processor(FO1ImageProcessor(), char_tokenizer())


@pytest.fixture(scope="session")
def sam3_folder(tmp_path_factory):
    """A checkpoint of SAM 3 at tiny random size."""
    from tests.helpers.sam3 import save_tiny_sam3

    return save_tiny_sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="session")
def sam3(sam3_folder):
    """SAM 3 at tiny random size."""
    from vlm_fo1.proposers.sam3 import SAM3Proposer

    return SAM3Proposer.from_pretrained(str(sam3_folder), device="cpu")


@pytest.fixture
def av():
    """PyAV, or the test is skipped."""
    return pytest.importorskip("av", reason="PyAV is not installed: pip install 'vlm-fo1[video]'")


@pytest.fixture
def images(tmp_path):
    """A folder with the two images that `tests.helpers.annotations` is about."""
    from PIL import Image

    from tests.helpers import annotations

    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", annotations.SIZE, "grey").save(folder / name)
    return folder


@pytest.fixture
def one_thread():
    """PyTorch with one thread, for sums in the same order every time; afterwards as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quiet(one_thread):
    """One thread, and the log's handlers as before once a command has added its own."""
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
