"""The page as Gradio builds it, if Gradio is there."""

import importlib
import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from vlm_fo1.errors import (
    MissingExtraError,
)

BUILT = """
import json
from vlm_fo1.app.context import Context
from vlm_fo1.app.models import ModelPool
from vlm_fo1.app.page import build_page
def load(name, **how):
    raise SystemExit("a model was loaded")
blocks = build_page(Context(pool=ModelPool(["a", "b"], ["ocr"], load_model=load)))
named = [function.api_name for function in blocks.fns.values() if function.api_name]
print(json.dumps([named, blocks.analytics_enabled]))
"""


def test_every_action_has_a_name_and_building_the_page_loads_nothing():
    for package in ("gradio", "gradio_image_annotation"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'vlm-fo1[app]'")
    done = subprocess.run(  # aside: Gradio leaves an event loop open
        [sys.executable, "-c", BUILT], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    named, analytics = json.loads(done.stdout.splitlines()[-1])
    assert {
        *("ask", "stop", "look", "propose", "clear", "boxes", "example", "state", "batch"),
        *("stop_batch", "segment", "stop_segment", "video", "stop_video"),
    } <= set(named)
    assert not analytics


def test_without_gradio_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    context = importlib.import_module("vlm_fo1.app.context")
    with pytest.raises(MissingExtraError, match=r"vlm-fo1\[app\]"):
        context.gradio()
