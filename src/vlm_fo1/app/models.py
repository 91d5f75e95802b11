"""The models and proposers of a page: loaded when first needed, once, whoever asks first."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from vlm_fo1.errors import ConfigError
from vlm_fo1.proposers.base import Proposer, default_proposer, load_proposer

if TYPE_CHECKING:
    from vlm_fo1.fo1 import FO1

AUTO = "automatic"
"""The device that `FO1.from_pretrained` chooses itself."""
NO_PROPOSER = "nothing offers boxes here: draw some, or start the page with --proposer NAME:ARG"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a question is put to."""

    model: str
    proposer: str | None
    device: str = AUTO


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How everything on a page is loaded."""

    dtype: str | None = None
    """Of the models' weights."""
    revision: str | None = None
    """Branch, tag or commit of the models; a proposer has its own after ``@``."""
    token: str | None = field(default=None, repr=False)
    """Of the Hub, for gated and private repositories."""
    strict: bool = False
    """Refuse weights with tensors that are not used."""


class ModelPool:
    """Models and proposers by name, for many users at once.

    Args:
        models: What `FO1.from_pretrained` takes; the first is the one a page starts with.
        proposers: What `load_proposer` takes; without any, the one that comes with the first model.
        devices: Where to load to; without any, CUDA where there is one.
        loading: How they are loaded.
        load_model: Loads a model; another one is for tests.

    Raises:
        ConfigError: No model, or one given twice.
    """

    def __init__(
        self,
        models: Sequence[str] = ("tiny",),
        proposers: Sequence[str] = (),
        devices: Sequence[str] = (),
        *,
        loading: Loading | None = None,
        load_model: "Callable[..., FO1] | None" = None,
    ) -> None:
        own = default_proposer(models[0]) if models and not proposers else None
        self.models = list(models)
        self.proposers = list(proposers) or ([own] if own else [])
        self.devices = list(devices) or [AUTO]
        for kind, names in (
            ("model", self.models),
            ("proposer", self.proposers),
            ("device", self.devices),
        ):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ConfigError(f"--{kind} {sorted(twice)[0]} was given twice: name it once")
        if not self.models:
            raise ConfigError("a page needs a model: pass --model, or leave it out for 'tiny'")
        self.loading = loading or Loading()
        self._load_model = load_model or _load_model
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, str, str], threading.Lock] = {}
        self._loaded: dict[tuple[str, str, str], Any] = {}
        self._took_s: dict[tuple[str, str, str], float] = {}
        self._failed: dict[tuple[str, str, str], str] = {}
        self._loading: set[tuple[str, str, str]] = set()

    def choice(
        self, model: str | None = None, proposer: str | None = None, device: str | None = None
    ) -> Choice:
        """What was chosen on the page; nothing chosen is the first of each.

        Raises:
            ConfigError: A name that this page was not started with.
        """
        for kind, name, names in (
            ("model", model, self.models),
            ("proposer", proposer, self.proposers),
            ("device", device, self.devices),
        ):
            if name and name not in names:
                raise ConfigError(
                    f"this page has no {kind} {name!r}: it was started with {', '.join(names)}"
                )
        return Choice(
            model=model or self.models[0],
            proposer=proposer or (self.proposers[0] if self.proposers else None),
            device=device or self.devices[0],
        )

    def fo1(self, choice: Choice, *, proposing: bool = True) -> "FO1":
        """The chosen model, with the chosen proposer unless boxes are given anyway."""
        from vlm_fo1.fo1 import FO1

        base = self._once(("model", choice.model, choice.device), self._model)
        if choice.proposer is None or not proposing:
            return base
        return FO1(base.model, base.processor, self.proposer(choice))

    def proposer(self, choice: Choice) -> Proposer:
        """The chosen proposer alone.

        Raises:
            ConfigError: There is none.
        """
        if choice.proposer is None:
            raise ConfigError(NO_PROPOSER)
        return self._once(("proposer", choice.proposer, choice.device), self._proposer)

    def state(self, choice: Choice) -> list[tuple[str, str, str]]:
        """What is chosen: kind, name, and where it stands, in words."""
        wanted = [("model", choice.model)]
        wanted += [("proposer", choice.proposer)] if choice.proposer else []
        return [(kind, name, self._state((kind, name, choice.device))) for kind, name in wanted]

    def ready(self, choice: Choice) -> bool:
        """Whether the chosen model can answer at once."""
        with self._lock:
            return ("model", choice.model, choice.device) in self._loaded

    def busy(self, choice: Choice) -> bool:
        """Whether the chosen model is being loaded, or is about to be."""
        key = ("model", choice.model, choice.device)
        with self._lock:
            return key not in self._loaded and key not in self._failed

    def begin(self, choice: Choice) -> None:
        """Start to load the chosen model without waiting for it."""
        key = ("model", choice.model, choice.device)
        with self._lock:
            busy = key in self._loaded or key in self._loading or key in self._failed
        if not busy:
            threading.Thread(target=self._quietly, args=(choice,), daemon=True).start()

    def _quietly(self, choice: Choice) -> None:
        """Load; what goes wrong stays in the state and is said to who asks."""
        with suppress(Exception):  # it is kept in `_failed`
            self.fo1(choice, proposing=False)

    def _state(self, key: tuple[str, str, str]) -> str:
        with self._lock:
            if key in self._loaded:
                return f"ready, loaded in {self._took_s[key]:.1f} s"
            if key in self._loading:
                return "loading"
            if key in self._failed:
                return f"could not be loaded: {self._failed[key]}"
        return "loaded with the first question"

    def _once(self, key: tuple[str, str, str], load: Callable[[str, str], Any]) -> Any:
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._lock:
                if key in self._loaded:
                    return self._loaded[key]
                self._loading.add(key)
                self._failed.pop(key, None)
            start = time.perf_counter()
            try:
                loaded = load(key[1], key[2])
            except Exception as error:
                with self._lock:
                    self._failed[key] = str(error) or type(error).__name__
                raise
            else:
                with self._lock:
                    self._loaded[key] = loaded
                    self._took_s[key] = time.perf_counter() - start
                return loaded
            finally:
                with self._lock:
                    self._loading.discard(key)

    def _model(self, name: str, device: str) -> Any:
        return self._load_model(name, device=_device(device), **asdict(self.loading))

    def _proposer(self, name: str, device: str) -> Any:
        options: dict[str, Any] = {"device": _device(device), "token": self.loading.token}
        options["strict"] = self.loading.strict or None
        if name.partition(":")[0] == "sam3":
            from vlm_fo1.proposals import ON_IMAGES, ON_VIDEO

            never = min(ON_IMAGES.unsure_min_score, ON_VIDEO.unsure_min_score)
            options["min_score"] = never  # what is never offered gets no mask
        return load_proposer(name, **options)


def _device(name: str) -> str | None:
    return None if name == AUTO else name


def _load_model(name: str, **options: Any) -> "FO1":
    from transformers.utils import logging

    from vlm_fo1.fo1 import FO1

    logging.disable_progress_bar()
    return FO1.from_pretrained(name, **options)
