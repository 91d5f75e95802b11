"""Which of the released weights fit this machine, on which device and in which dtype.

The numbers stand in `MODELS`; where each comes from is told in docs/weights.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlm_fo1.errors import CheckpointError

RELEASED = "omlab/VLM-FO1_Qwen2.5-VL-3B-v01"
BUNDLED = "tiny"

Stored = Literal["bundled", "downloaded", "partly downloaded", "not downloaded", "a file of yours"]


@dataclass(frozen=True, kw_only=True)
class Need:
    """One way to run a model."""

    device: Literal["cuda", "cpu"]
    dtype: Literal["bfloat16", "float32"]
    peak_gb: float
    """Memory of the device while it loads and answers one question about one image."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Weights that people run with this package."""

    name: str
    """As `FO1.from_pretrained` or, of a proposer, the command line takes it."""
    title: str
    needs: tuple[Need, ...]
    """The best way first."""
    download_gb: float = 0.0
    repositories: tuple[str, ...] = ()
    """Names on the Hub; none if it comes with the package or as a file."""
    gated: bool = False
    """Access has to be asked for on the Hub."""


MODELS = (
    Model(
        name=BUNDLED,
        title="tiny",
        needs=(
            Need(device="cuda", dtype="float32", peak_gb=1.0),
            Need(device="cpu", dtype="float32", peak_gb=0.6),
        ),
    ),
    Model(
        name=RELEASED,
        title="VLM-FO1 3B",
        needs=(
            Need(device="cuda", dtype="bfloat16", peak_gb=11.0),
            Need(device="cuda", dtype="float32", peak_gb=20.0),
            Need(device="cpu", dtype="float32", peak_gb=26.0),
            Need(device="cpu", dtype="bfloat16", peak_gb=10.0),
        ),
        download_gb=8.9,
        repositories=(RELEASED, "omlab/VLM-FO1-3B-v01"),
    ),
    Model(
        name="upn",
        title="UPN, boxes",
        needs=(
            Need(device="cuda", dtype="float32", peak_gb=3.0),
            Need(device="cpu", dtype="float32", peak_gb=3.0),
        ),
        download_gb=0.9,
    ),
    Model(
        name="facebook/sam3",
        title="SAM 3, masks",
        needs=(
            Need(device="cuda", dtype="float32", peak_gb=6.0),
            Need(device="cpu", dtype="float32", peak_gb=6.0),
        ),
        download_gb=3.4,
        repositories=("facebook/sam3",),
        gated=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A device that weights can be put on."""

    device: str
    """``"cpu"``, ``"cuda:0"``, ..."""
    total_gb: float
    free_gb: float
    bfloat16: bool = True


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What decides, beside memory, whether weights can be used."""

    cache: Path | None
    """The Hub's cache; None where huggingface_hub is not installed."""
    disk_gb: float
    """Free at the cache."""
    offline: bool = False
    token: bool = False


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether and how one model runs here."""

    model: str
    title: str
    device: str
    """Empty if it fits nowhere."""
    dtype: str
    needs_gb: float
    """Of the way that fits; of the smallest way if none does."""
    weights: Stored
    problem: str
    """What keeps it from running; empty if nothing does."""

    @property
    def runs(self) -> bool:
        """True when it fits, and its weights are here or can be fetched."""
        return not self.problem


def fit(model: Model, places: Iterable[Place], around: Surroundings) -> Fit:
    """The best way to run a model on one of some devices.

    Args:
        model: What to run.
        places: Devices with their memory.
        around: Cache, disk and login.
    """
    places = list(places)
    stored = _stored(model, around.cache)
    found = next(
        ((need, place) for need in model.needs if (place := _place(need, places)) is not None),
        None,
    )
    need = found[0] if found else min(model.needs, key=lambda need: need.peak_gb)
    return Fit(
        model=model.name,
        title=model.title,
        device=found[1].device if found else "",
        dtype=need.dtype,
        needs_gb=need.peak_gb,
        weights=stored,
        problem=_unreachable(model, stored, around) if found else _too_large(model, places),
    )


def _place(need: Need, places: list[Place]) -> Place | None:
    """The device with most free memory that satisfies a need."""
    able = [
        place
        for place in places
        if place.device.split(":")[0] == need.device
        and place.free_gb >= need.peak_gb
        and (place.bfloat16 or need.dtype != "bfloat16")
    ]
    return max(able, key=lambda place: place.free_gb, default=None)


def _too_large(model: Model, places: list[Place]) -> str:
    least = {
        device: min(need.peak_gb for need in model.needs if need.device == device)
        for device in ("cuda", "cpu")
    }
    told = [
        f"{place.device} has {place.free_gb:.1f} GB free of {place.total_gb:.1f}"
        for place in places
        if place.device.split(":")[0] in least
    ]
    busy = any(place.total_gb >= least.get(place.device.split(":")[0], 1e9) for place in places)
    return (
        f"needs {least['cpu']:g} GB of RAM or {least['cuda']:g} GB on a GPU; "
        + "; ".join(told or ["the memory here is not known"])
        + (": close what uses the rest" if busy else "")
    )


def _unreachable(model: Model, stored: Stored, around: Surroundings) -> str:
    """Why weights that are not here cannot be fetched; empty if they are here or can be."""
    if not model.repositories or stored == "downloaded":
        return ""
    if around.offline:
        return f"{stored}, and HF_HUB_OFFLINE forbids to fetch it"
    if model.gated and not around.token:
        return f"ask on https://huggingface.co/{model.name}, then: hf auth login"
    if around.disk_gb < model.download_gb and stored == "not downloaded":
        return f"needs {model.download_gb:g} GB of disk for the download"
    return ""


def _stored(model: Model, cache: Path | None) -> Stored:
    """Whether a model's weights are on this machine."""
    if not model.repositories:
        return "a file of yours" if model.download_gb else "bundled"
    if cache is None or not cache.is_dir():
        return "not downloaded"
    from huggingface_hub import scan_cache_dir

    revisions = [
        {file.file_name: file.file_path for file in revision.files}
        for repo in scan_cache_dir(cache).repos
        if repo.repo_type == "model" and repo.repo_id in model.repositories
        for revision in repo.revisions
    ]
    if any(_complete(files) for files in revisions):
        return "downloaded"
    return "partly downloaded" if revisions else "not downloaded"


def _complete(files: dict[str, Path]) -> bool:
    """Whether a snapshot holds its configuration and every file of its weights."""
    if "config.json" not in files:
        return False
    for single in ("model.safetensors", "pytorch_model.bin"):
        if single in files:
            return True
        index = files.get(f"{single}.index.json")
        if index is not None:
            return _shards(index) <= set(files)
    return False


def _shards(index: Path) -> set[str]:
    """The files that an index names; the index itself if it cannot be read."""
    from vlm_fo1.config import read_object  # needs yaml, which a doctor does not rely on

    try:
        return set(read_object(index, CheckpointError)["weight_map"].values())
    except (CheckpointError, KeyError, AttributeError):
        return {str(index)}  # no snapshot holds a file of that name
