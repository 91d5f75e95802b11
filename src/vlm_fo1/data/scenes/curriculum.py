"""Scenes that grow harder: other settings up to given record numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_fo1.data.example import Example
from vlm_fo1.data.scenes.config import SceneConfig, changed
from vlm_fo1.data.scenes.source import ScenesSource
from vlm_fo1.errors import ConfigError


class CurriculumSource:
    """Scenes whose settings depend on the record's number alone, so that resuming is exact.

    Args:
        config: Settings behind the last step.
        steps: In order, each with ``until`` (the first record it is not for) and the settings that
            differ: ``{"until": 20000, "kinds": 10, "objects": [2, 3]}``.
        seed: Of the stream.

    Raises:
        ConfigError: Steps out of order, or an unknown setting.
    """

    def __init__(
        self, config: SceneConfig, steps: Sequence[Mapping[str, Any]], seed: int = 0
    ) -> None:
        self._steps: list[tuple[int, SceneConfig]] = []
        last = 0
        for step in steps:
            values = dict(step)
            until = values.pop("until", None)
            if not isinstance(until, int) or until <= last:
                raise ConfigError(f"until = {until!r} of a step must be a number above {last}")
            self._steps.append((until, changed(config, values)))
            last = until
        self._source = ScenesSource(config, seed)

    def example(self, index: int) -> Example:
        """Record ``index``."""
        return self._source.example(index, self.config_at(index))

    def config_at(self, index: int) -> SceneConfig:
        """The settings of record ``index``."""
        for until, config in self._steps:
            if index < until:
                return config
        return self._source.config
