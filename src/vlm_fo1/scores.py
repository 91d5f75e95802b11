"""Numbers that can be thresholded, from the steps of a list of regions: arrays in, arrays out.

A list names regions one after another, so no single step is a confidence: the first one is a
softmax over who is listed *first*. What is read here is the whole list.

Shapes: S steps of a list (one before each region it names, and the one that closes it), N regions,
L labels, K pairs of a label and a region.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from vlm_fo1.config import build, read_object
from vlm_fo1.errors import ConfigError

Floats = npt.NDArray[np.float32]
Scores = npt.NDArray[np.floating[Any]]
"""Any number of values in [0, 1]; NaN where one is unknown."""
Over = Literal["largest", "noisy_or"]
"""How the steps of a list become one number a region."""
Fusion = Literal["geometric", "proposal", "none"]
"""How the proposer's own score comes in; see `fuse`."""

CALIBRATION_FILE = "calibration.json"
"""Name under which a model's folder holds its `Calibration`."""
_LEAST = 1e-7
"""Nearer to 0 or 1 than this no probability is told from it."""


@dataclass(frozen=True, eq=False)
class ListScore:
    """What one list of regions says."""

    scores: Floats
    """(N,) of every region that the image was offered with; NaN for one the model was not shown."""
    presence: float
    """See `presence`; NaN where it is unknown."""


def list_scores(tags_SN: Scores, over: Over = "largest") -> Floats:
    """The score of every region for the label of a list.

    With ``p(s, n)`` the probability of the tag of region n at step s, over the whole vocabulary::

        largest    score(n) = max over s of p(s, n)
        noisy_or   score(n) = 1 - product over s of (1 - p(s, n))

    Args:
        tags_SN: (S, N) probabilities in [0, 1], as the model gives them by itself: nothing masked.
        over: Which of the two.

    Returns:
        (N,) in [0, 1]; of no steps zeros.

    Source: ours; that a first step tells nothing of a region is measured in docs/scores.md.
    """
    if over == "largest":
        return tags_SN.max(0, initial=0.0).astype(np.float32)
    return (1 - (1 - tags_SN.astype(np.float64)).prod(0)).astype(np.float32)


def presence(first_N: Scores, none: float) -> float:
    """Probability that there is something of the label of a list, from its first step.

    With ``p(n)`` the probability of the tag of region n and ``none`` that of the word for nothing::

        presence = sum over n of p(n) / (sum over n of p(n) + none)

    Args:
        first_N: (N,) the probabilities of the tags.
        none: Probability of the first token of "None".

    Returns:
        In [0, 1]; NaN where both are 0, so that the model says neither.
    """
    tags = float(first_N.sum(dtype=np.float64))
    return tags / (tags + none) if tags + none > 0 else math.nan


def best_first(scores_N: Scores, wanted_N: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The positions that are wanted, the best score first, unknown ones last."""
    ranked = np.argsort(-scores_N, kind="stable")
    return ranked[wanted_N[ranked]]


def check_bounds(
    min_score: float | None,
    min_presence: float | None,
    nms_iou: float | None,
    max_per_label: int | None,
) -> None:
    """Refuse bounds that cannot be; None is none.

    Raises:
        ConfigError: One that is not from 0 to 1, or a number of regions below 1.
    """
    bounds = {"min_score": min_score, "min_presence": min_presence, "nms_iou": nms_iou}
    for name, value in bounds.items():
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value!r}: a number from 0 to 1 is needed")
    if max_per_label is not None and max_per_label < 1:
        raise ConfigError(f"max_per_label is {max_per_label!r}: at least 1 is needed")


def fuse(
    scores: Scores, proposal_N: Scores | None, how: Fusion = "geometric", weight: float = 0.5
) -> Floats:
    """The model's scores together with those of the proposer.

    ::

        geometric   score^(1 - weight) * proposal^weight
        proposal    proposal
        none        score

    Args:
        scores: (..., N) in [0, 1].
        proposal_N: (N,) the proposer's scores in [0, 1]; None where there are none.
        how: Which of the three.
        weight: Of the proposer's score in the geometric mean, in [0, 1].

    Returns:
        (..., N); where the proposer's score is unknown the model's own, where that is unknown NaN.
    """
    plain = scores.astype(np.float32)
    if how == "none" or proposal_N is None:
        return plain
    offered = np.broadcast_to(proposal_N, plain.shape)
    if how == "proposal":
        fused = np.where(np.isnan(plain), plain, offered)
    else:
        fused = plain.astype(np.float64) ** (1 - weight) * offered.astype(np.float64) ** weight
    return np.where(np.isnan(offered), plain, fused).astype(np.float32)


def tempered(scores: Scores, temperature: float) -> Floats:
    """Scores made surer (temperature below 1) or less sure (above 1), their order kept.

    ::

        sigmoid(logit(score) / temperature)

    Args:
        scores: Any shape, in [0, 1]; NaN stays.
        temperature: Above 0; 1 changes nothing.

    Source: Guo et al., On Calibration of Modern Neural Networks, section 4.2, for two classes.
    """
    if temperature == 1:
        return scores.astype(np.float32)
    p = scores.astype(np.float64).clip(_LEAST, 1 - _LEAST)
    with np.errstate(over="ignore"):  # exp of a large number: the result is 0, as it should be
        return (1 / (1 + np.exp(-np.log(p / (1 - p)) / temperature))).astype(np.float32)


def fit_temperature(scores_K: Scores, true_K: npt.NDArray[np.bool_]) -> float:
    """The temperature with which `tempered` scores are likeliest, between 1/20 and 20.

    Args:
        scores_K: (K,) in [0, 1].
        true_K: (K,) whether each pair is one.
    """
    return _temperature(lambda by: log_loss(tempered(scores_K, by), true_K))


def _temperature(loss: Callable[[float], float]) -> float:
    """Where a loss with one minimum has it, to 0.1 %."""
    low, high = -math.log(20), math.log(20)
    while high - low > 1e-3:
        tried = np.linspace(low, high, 9).tolist()
        best = int(np.argmin([loss(math.exp(t)) for t in tried]))
        low, high = tried[max(best - 1, 0)], tried[min(best + 1, 8)]
    return math.exp((low + high) / 2)


def log_loss(scores_K: Scores, true_K: npt.NDArray[np.bool_]) -> float:
    """Mean of -log of what was given to the truth, in nats; 0 of no pairs."""
    p = scores_K.astype(np.float64).clip(_LEAST, 1 - _LEAST)
    return float(-np.log(np.where(true_K, p, 1 - p)).mean()) if len(p) else 0.0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What makes a model's scores probabilities; the default changes nothing."""

    temperature: float = 1.0
    """Of the scores, after the fusion; see `tempered`."""
    presence_temperature: float = 1.0
    """Of presences."""
    fusion: Fusion = "none"
    """How the proposer's score comes in; see `fuse`."""
    weight: float = 0.5
    """Of the proposer's score in a geometric fusion."""
    measured: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """On what it was fitted and what it reached, for people."""

    def __post_init__(self) -> None:
        """Refuse what cannot be applied.

        Raises:
            ConfigError: A temperature that is not above 0, a fusion that does not exist, or a
                weight outside 0 to 1.
        """
        for name in ("temperature", "presence_temperature"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}: a number above 0 is needed")
        if self.fusion not in get_args(Fusion):
            raise ConfigError(
                f"fusion is {self.fusion!r}: one of {', '.join(get_args(Fusion))} is needed"
            )
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"weight is {self.weight}: a number from 0 to 1 is needed")

    @classmethod
    def read(cls, path: str | Path) -> "Calibration":
        """Read what `to_dict` gave, from a JSON file such as ``fo1 calibrate`` writes.

        Raises:
            ConfigError: It cannot be read, or is none.
        """
        try:
            return build(cls, read_object(path))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def scores(self, scores: Scores, proposal_N: Scores | None) -> Floats:
        """Raw scores (..., N) as calibrated ones.

        Args:
            scores: Of `list_scores`.
            proposal_N: (N,) the proposer's scores in [0, 1]; None where there are none.
        """
        return tempered(fuse(scores, proposal_N, self.fusion, self.weight), self.temperature)

    def presence(self, value: float) -> float:
        """A raw presence as a calibrated one."""
        return float(tempered(np.array([value]), self.presence_temperature)[0])


@dataclass(frozen=True)
class Pairs:
    """Labels and regions with what is known of each pair, to be fitted to."""

    scores: Floats
    """(K,) raw scores in [0, 1]."""
    true: npt.NDArray[np.bool_]
    """(K,) whether the region shows what the label names."""
    proposals: Floats | None = None
    """(K,) the proposer's scores of the regions in [0, 1]."""

    def calibrated(self, by: Calibration) -> Floats:
        """(K,) the scores that a calibration gives."""
        return by.scores(self.scores, self.proposals)


def fit(pairs: Pairs, presences: Pairs | None = None, fusion: Fusion = "none") -> Calibration:
    """The calibration under which the truth is likeliest.

    Args:
        pairs: At least one.
        presences: Labels with their raw presence and whether there is something of each.
        fusion: How the proposer's score comes in; for ``geometric`` its weight is fitted too.

    Returns:
        It, without ``measured``.
    """
    best, least = Calibration(), math.inf
    weights = [n / 20 for n in range(21)] if fusion == "geometric" else [0.5]
    for weight in weights:

        def loss(temperature: float, weight: float = weight) -> float:
            tried = Calibration(temperature=temperature, fusion=fusion, weight=weight)
            return log_loss(pairs.calibrated(tried), pairs.true)

        temperature = _temperature(loss)
        if loss(temperature) < least:
            least = loss(temperature)
            best = Calibration(temperature=temperature, fusion=fusion, weight=weight)
    if presences is None or not len(presences.scores):
        return best
    return replace(best, presence_temperature=fit_temperature(presences.scores, presences.true))
