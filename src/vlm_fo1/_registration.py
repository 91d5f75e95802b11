"""Tell transformers' Auto classes about VLM-FO1, without importing transformers first.

``import vlm_fo1`` must be light (the command line's help needs nothing heavy), yet after it
``AutoConfig``, ``AutoModelForImageTextToText`` and ``AutoProcessor`` have to know our checkpoints.
Registering while transformers is still importing itself runs into half-made modules, so it waits
for the first use: the entry points of the Auto classes register before their first call.
"""

import functools
import importlib.abc
import importlib.machinery
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ENTRY_POINTS = {
    "transformers.models.auto.configuration_auto": ("AutoConfig", ("from_pretrained", "for_model")),
    "transformers.models.auto.processing_auto": ("AutoProcessor", ("from_pretrained",)),
}
"""Module to class and methods that every use of the Auto classes passes first."""

_LOCK = threading.RLock()


def register_now() -> None:
    """Register configurations, model and processor; safe to repeat."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from vlm_fo1.model.configuration import FO1Config, ReleasedConfig
    from vlm_fo1.model.modeling import FO1ForConditionalGeneration
    from vlm_fo1.processing import FO1Processor

    with _LOCK:
        for config in (FO1Config, ReleasedConfig):
            AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageTextToText.register(FO1Config, FO1ForConditionalGeneration, exist_ok=True)
        AutoProcessor.register(FO1Config, FO1Processor, exist_ok=True)
        _look_at_model_type_first(AutoProcessor, FO1Processor)


def _look_at_model_type_first(auto: Any, processor: Any) -> None:
    """Let a released folder have our processor though it names its host's.

    Released folders carry the host's preprocessor_config.json, whose ``processor_class`` the Auto
    class would follow before it looks at the model's own configuration.
    """
    from transformers import PreTrainedConfig

    from vlm_fo1.model.configuration import RELEASED_MODEL_TYPE

    original = auto.from_pretrained
    if hasattr(original, "looks_first"):
        return

    @functools.wraps(original)
    def from_pretrained(pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Any:
        try:
            values, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **options)
        except (OSError, ValueError):
            values = {}  # no config.json there: the Auto class says what it thinks of that
        released = values.get("model_type") == RELEASED_MODEL_TYPE
        chosen = processor.from_pretrained if released else original
        return chosen(pretrained_model_name_or_path, *args, **options)

    setattr(from_pretrained, "looks_first", True)  # noqa: B010 - functions declare no attributes
    auto.from_pretrained = from_pretrained


def register_on_use() -> None:
    """Register when an Auto class is first used, now or whenever transformers is imported."""
    with _LOCK:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
    for name in _ENTRY_POINTS:
        if name in sys.modules:
            _arm(sys.modules[name])


def _arm(module: ModuleType) -> None:
    """Make the entry points of a module register first and then restore themselves."""
    owner_name, methods = _ENTRY_POINTS[module.__name__]
    owner = getattr(module, owner_name)
    for method in methods:
        original = vars(owner)[method]
        if not hasattr(original, "restores"):
            setattr(owner, method, _registering(owner, method, original))


def _registering(owner: type, method: str, original: Any) -> Any:
    @functools.wraps(getattr(owner, method))
    def first_call(*args: Any, **kwargs: Any) -> Any:
        setattr(owner, method, original)
        register_now()
        return getattr(owner, method)(*args, **kwargs)

    wrapped = staticmethod(first_call)
    setattr(wrapped, "restores", True)  # noqa: B010
    return wrapped


class _Loader(importlib.abc.Loader):
    """Loads a module as usual, then arms it."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _arm(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps the loaders of the modules with entry points."""

    def find_spec(
        self,
        fullname: str,
        path: Any,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in _ENTRY_POINTS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec
