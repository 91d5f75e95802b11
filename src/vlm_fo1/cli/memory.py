"""How much memory a process may use: what the machine has, or what its container is given."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Main memory, in units of 10^9 bytes."""

    total_gb: float
    """The most that a process here may use."""
    free_gb: float
    """What is left of it now; files that are only cached count as free."""
    machine_gb: float
    """What the machine has; more than ``total_gb`` where a container limits it."""


def read_memory(root: Path = Path("/")) -> Memory | None:
    """The memory of this machine within the limits of this process's control groups.

    Args:
        root: Where ``proc/self/cgroup`` and ``sys/fs/cgroup`` are.

    Returns:
        The memory, or None where psutil, which accelerate brings, is not installed.
    """
    try:
        import psutil
    except ImportError:
        return None
    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for limit, used in _limits(root):
        total = min(total, limit)
        free = min(free, max(limit - used, 0))
    return Memory(total_gb=total / 1e9, free_gb=free / 1e9, machine_gb=machine.total / 1e9)


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes of every control group that holds this process, cgroup v2 and v1."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _along(mount, group, _VERSION_2)
        elif "memory" in controllers.split(","):
            yield from _along(mount / "memory", group, _VERSION_1)


def _along(mount: Path, group: str, names: tuple[str, str, str]) -> Iterator[tuple[int, int]]:
    """Limit and use of a group and of all above it; a container sees its own as the top one."""
    limit_file, used_file, idle = names
    inner = mount / group.strip("/")
    for folder in (inner, *inner.parents):
        try:
            limit = int((folder / limit_file).read_text(encoding="ascii"))
            used = int((folder / used_file).read_text(encoding="ascii"))
            stat = (folder / "memory.stat").read_text(encoding="ascii")
        except (OSError, ValueError):  # not seen from here, or "max": no limit
            pass
        else:
            cached = re.search(rf"^{idle} (\d+)$", stat, re.MULTILINE)
            yield limit, used - (int(cached[1]) if cached else 0)
        if folder == mount:
            return
