"""What the machine offers: memory, GPUs, disk, the Hub's cache and login."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_fo1.cli.fitting import Place, Surroundings
from vlm_fo1.cli.memory import Memory, read_memory
from vlm_fo1.cli.packages import Check, run_probe

DISK_NEEDED_GB = 10
"""Room for the released 3B model: 8.9 GB, and what is written beside it."""

_DEVICES_PROBE = """
import json, torch
gpus = []
for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    free, total = torch.cuda.mem_get_info(index)
    with torch.cuda.device(index):
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    name = torch.cuda.get_device_name(index)
    gpus.append({"name": name, "free": free, "total": total, "bfloat16": bfloat16})
mps = torch.backends.mps.is_available()
print(json.dumps({"gpus": gpus, "mps": mps, "threads": torch.get_num_threads()}))
"""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a model could run, and what was found on the way."""

    places: tuple[Place, ...]
    around: Surroundings
    checks: tuple[Check, ...]


def look_at_machine() -> Machine:
    """Look at memory, GPUs, disk and the Hub's settings."""
    memory = read_memory()
    worked, said = run_probe(_DEVICES_PROBE)
    devices: dict[str, Any] = json.loads(said) if worked else {}
    places = [
        Place(
            device=f"cuda:{index}",
            total_gb=gpu["total"] / 1e9,
            free_gb=gpu["free"] / 1e9,
            bfloat16=gpu["bfloat16"],
        )
        for index, gpu in enumerate(devices.get("gpus", ()))
    ]
    if memory is not None:
        places.append(Place(device="cpu", total_gb=memory.total_gb, free_gb=memory.free_gb))
    around, cache_checks = _hub()
    checks = (_ram(memory), _gpu(devices, "" if worked else said), *cache_checks)
    return Machine(places=tuple(places), around=around, checks=checks)


def _ram(memory: Memory | None) -> Check:
    if memory is None:
        detail = "not known: psutil is not installed"
        return Check(name="RAM", ok=False, detail=detail, remedy="pip install psutil")
    detail = f"{memory.free_gb:.1f} GB free of {memory.total_gb:.1f}"
    if memory.total_gb < memory.machine_gb:
        detail += f", the limit of this container; the machine has {memory.machine_gb:.1f}"
    return Check(name="RAM", ok=True, detail=detail)


def _gpu(devices: dict[str, Any], fault: str) -> Check:
    """What torch can use; a driver without a torch that can use it is worth a word."""
    gpus = devices.get("gpus", ())
    if gpus:
        told = [
            f"{gpu['name']}, {gpu['free'] / 1e9:.1f} GB free of {gpu['total'] / 1e9:.1f}"
            + ("" if gpu["bfloat16"] else ", no bfloat16")
            for gpu in gpus
        ]
        return Check(name="GPU", ok=True, detail="; ".join(told))
    if devices.get("mps"):
        detail = "Apple MPS, not tried here: the CPU is used unless you say --device mps"
        return Check(name="GPU", ok=True, detail=detail)
    driver = shutil.which("nvidia-smi") is not None
    if fault:
        detail = f"torch could not be asked: {fault}"
    elif driver:
        detail = "there is an NVIDIA driver, but this torch cannot use it"
    else:
        detail = f"none; the CPU is used, with {devices.get('threads', '?')} threads"
    return Check(
        name="GPU",
        ok=not driver,
        detail=detail,
        remedy="pip install --force-reinstall torch" if driver else "",
    )


def _hub() -> tuple[Surroundings, list[Check]]:
    """Where downloaded checkpoints go, whether there is room, and who asks for them."""
    try:
        from huggingface_hub import constants, get_token
    except ImportError as error:
        detail = f"huggingface_hub cannot be imported: {error}"
        remedy = "pip install --force-reinstall huggingface_hub"
        found = Check(name="Hub cache", ok=False, detail=detail, remedy=remedy, required=True)
        return Surroundings(cache=None, disk_gb=0.0), [found]
    cache = Path(constants.HF_HUB_CACHE).expanduser()
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    around = Surroundings(
        cache=cache,
        disk_gb=shutil.disk_usage(existing).free / 1e9,
        offline=bool(constants.HF_HUB_OFFLINE),
        token=get_token() is not None,
    )
    saved = Path(constants.HF_TOKEN_PATH).expanduser().is_file()
    return around, list(_hub_checks(around, cache, existing, saved=saved))


def _hub_checks(
    around: Surroundings, cache: Path, existing: Path, *, saved: bool
) -> Iterator[Check]:
    writable = os.access(existing, os.W_OK)
    detail = str(cache) if writable else f"{cache} cannot be written, so nothing can be downloaded"
    if around.offline:
        detail += "; HF_HUB_OFFLINE is set: only what is already there loads"
    yield Check(
        name="Hub cache",
        ok=writable,
        detail=detail,
        remedy="" if writable else 'export HF_HOME="$PWD/huggingface"',
    )
    room = around.disk_gb >= DISK_NEEDED_GB
    yield Check(
        name="disk",
        ok=room,
        detail=f"{around.disk_gb:.0f} GB free at the Hub cache"
        + ("" if room else f", the 3B checkpoint needs {DISK_NEEDED_GB}"),
        remedy="" if room else 'export HF_HOME="/a/larger/disk/huggingface"',
    )
    variable = bool(os.environ.get("HF_TOKEN"))
    detail = "none; only gated weights (SAM 3) need one"
    if around.token:
        detail = "HF_TOKEN" if variable else "saved by hf auth login"
    if variable and saved:
        detail += ", which goes before the one saved by hf auth login"
    yield Check(
        name="Hub token",
        ok=around.token,
        detail=detail,
        remedy="" if around.token else "hf auth login",
    )
