"""Tell transformers' Auto classes about VLM-FO1, without importing transformers first.

``import vlm_fo1`` must be light (the command line's help needs nothing heavy), yet after it
``AutoConfig``, ``AutoModelForImageTextToText`` and ``AutoProcessor`` have to know our checkpoints.
Registering while transformers is still importing itself runs into half-made modules, so it waits
for the first use: the entry points of the Auto classes register before they do their work.
"""

import functools
import importlib.machinery
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

_ENTRY_POINTS = {
    "transformers.models.auto.configuration_auto": ("AutoConfig", ("from_pretrained", "for_model")),
    "transformers.models.auto.processing_auto": ("AutoProcessor", ("from_pretrained",)),
}
"""Module to class and methods that every use of the Auto classes passes first."""


@functools.cache
def register_now() -> None:
    """Register configurations, model and processor; safe to repeat."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from vlm_fo1.model.configuration import FO1Config, released_configs
    from vlm_fo1.model.modeling import FO1ForConditionalGeneration
    from vlm_fo1.processing import FO1Processor

    for config in (FO1Config, *released_configs()):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForImageTextToText.register(FO1Config, FO1ForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(FO1Config, FO1Processor, exist_ok=True)


def register_on_use() -> None:
    """Register when an Auto class is first used, now or whenever transformers is imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name in _ENTRY_POINTS:
        if name in sys.modules:
            _arm(sys.modules[name])


def _arm(module: ModuleType) -> None:
    """Make the entry points of a module register before anything else.

    They stay so: putting the originals back would leave a moment in which another thread finds them
    back and nothing registered.
    """
    owner_name, methods = _ENTRY_POINTS[module.__name__]
    owner = getattr(module, owner_name)
    for method in methods:
        original = vars(owner)[method]
        if not hasattr(original, "registers"):
            armed = _registering(original, ours_first=owner_name == "AutoProcessor")
            setattr(owner, method, armed)


def _registering(original: Any, *, ours_first: bool) -> Any:
    @functools.wraps(original.__func__)
    def entry_point(cls: type, *args: Any, **options: Any) -> Any:
        register_now()
        bound = original.__get__(None, cls)
        if ours_first and _is_released(*args, **options):
            from vlm_fo1.processing import FO1Processor

            bound = FO1Processor.from_pretrained
        return bound(*args, **options)

    armed = classmethod(entry_point)
    setattr(armed, "registers", True)  # noqa: B010 - a classmethod declares no attributes
    return armed


def _is_released(pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> bool:
    """Whether this is a released folder: it gets our processor though it names its host's.

    Such folders carry the host's preprocessor_config.json, whose ``processor_class`` the Auto class
    would follow before it looks at the model's own configuration.
    """
    from transformers import PreTrainedConfig

    from vlm_fo1.families import FAMILIES

    del args
    try:
        values, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **options)
    except (OSError, ValueError):
        return False  # no config.json there: the Auto class says what it thinks of that
    return values.get("model_type") in FAMILIES


class _Loader:
    """Loads a module as usual, then arms it and steps aside."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _arm(module)


class _Finder:
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
            spec.loader = cast("Any", _Loader(spec.loader))
        return spec
