"""The benchmarks by name: one literal table, each imported when it is asked for."""

import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from vlm_fo1 import config
from vlm_fo1.errors import ConfigError, EvaluationError
from vlm_fo1.eval.benchmark import Benchmark, Published

BENCHMARKS: Mapping[str, str] = MappingProxyType(
    {
        "folder": "vlm_fo1.eval.benchmarks.folder:FOLDER",
        "records": "vlm_fo1.eval.benchmarks.records:RECORDS",
        "expressions": "vlm_fo1.eval.benchmarks.expressions:EXPRESSIONS",
        "coco": "vlm_fo1.eval.benchmarks.coco:COCO",
        "lvis": "vlm_fo1.eval.benchmarks.lvis:LVIS",
        "odinw13": "vlm_fo1.eval.benchmarks.odinw:ODINW13",
        "ovdeval": "vlm_fo1.eval.benchmarks.ovdeval:OVDEVAL",
        "refcoco": "vlm_fo1.eval.benchmarks.refcoco:REFCOCO",
        "refcoco+": "vlm_fo1.eval.benchmarks.refcoco:REFCOCO_PLUS",
        "refcocog": "vlm_fo1.eval.benchmarks.refcoco:REFCOCOG",
        "grefcoco": "vlm_fo1.eval.benchmarks.refcoco:GREFCOCO",
        "humanref": "vlm_fo1.eval.benchmarks.expressions:HUMANREF",
        "rex-referring": "vlm_fo1.eval.benchmarks.expressions:REX_REFERRING",
        "refdrone": "vlm_fo1.eval.benchmarks.drones:REFDRONE",
        "visdrone": "vlm_fo1.eval.benchmarks.drones:VISDRONE",
        "dense200": "vlm_fo1.eval.benchmarks.expressions:DENSE200",
        "lvis-regions": "vlm_fo1.eval.benchmarks.regions:LVIS_REGIONS",
        "paco-regions": "vlm_fo1.eval.benchmarks.regions:PACO_REGIONS",
        "coco-text": "vlm_fo1.eval.benchmarks.regions:COCO_TEXT",
        "ferret-bench": "vlm_fo1.eval.benchmarks.ferret:FERRET_BENCH",
        "countbench": "vlm_fo1.eval.benchmarks.counting:COUNTBENCH",
        "pixmo-count": "vlm_fo1.eval.benchmarks.counting:PIXMO_COUNT",
    }
)
"""Name to ``module:VALUE`` of a `Benchmark`: to add one, add a row."""


def load_benchmark(name: str, options: Sequence[str] | Mapping[str, Any] = ()) -> Benchmark:
    """A benchmark with its options.

    Args:
        name: A key of `BENCHMARKS`.
        options: ``key=value`` each, the value in YAML; or a mapping of plain values.

    Raises:
        EvaluationError: No such benchmark; the nearest name is told.
        ConfigError: An option that it does not have, or a value of another kind.
    """
    if name not in BENCHMARKS:
        near = get_close_matches(name, BENCHMARKS, 1)
        raise EvaluationError(
            f"there is no benchmark {name!r}: one of {', '.join(BENCHMARKS)} is needed"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    module, _, value = BENCHMARKS[name].partition(":")
    found = getattr(importlib.import_module(module), value)
    given = options if isinstance(options, Mapping) else dict(map(_pair, options))
    try:
        chosen = config.build(type(found.options), {**config.plain(found.options), **given})
    except ConfigError as error:
        raise ConfigError(f"option of {name}: {error}") from error
    return replace(found, options=chosen)


def published(name: str) -> tuple[Published, ...]:
    """Figures in print of a benchmark, as ``published.yaml`` has them; none of an unknown one.

    Args:
        name: A key of `BENCHMARKS`.
    """
    return tuple(config.build(Published, values) for values in _printed().get(name, ()))


@functools.cache
def _printed() -> Mapping[str, Any]:
    return config.read_mapping(Path(__file__).with_name("published.yaml"))


def _pair(text: str) -> tuple[str, Any]:
    """``key=value`` as key and value.

    Raises:
        ConfigError: Not of this form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"option {text!r}: write it as key=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"option {text!r}: the value is no YAML") from error
