"""What memory a process may use."""

import pytest

from vlm_fo1.cli.memory import read_memory

GB = 10**9


def machine_with(root, groups: dict[str, str], files: dict[str, int | str]):
    """Files of control groups as Linux shows them."""
    (root / "proc/self").mkdir(parents=True)
    lines = [f"{number}:{names}:{group}" for number, (names, group) in enumerate(groups.items())]
    (root / "proc/self/cgroup").write_text("\n".join(lines) + "\n")
    for name, value in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def group(folder: str, *, limit: int | str, used: int, idle: int = 0) -> dict[str, int | str]:
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": used,
        f"{folder}/memory.stat": f"anon {used - idle}\ninactive_file {idle}",
    }


@pytest.fixture(autouse=True)
def machine_of_64_gb(monkeypatch):
    class Virtual:
        total = 64 * GB
        available = 60 * GB

    monkeypatch.setattr("psutil.virtual_memory", Virtual)


def test_without_control_groups_the_memory_is_the_machines(tmp_path):
    memory = read_memory(tmp_path)
    assert memory is not None
    assert (memory.total_gb, memory.free_gb, memory.machine_gb) == (64, 60, 64)


def test_in_a_container_the_memory_is_its_limit_and_cached_files_count_as_free(tmp_path):
    files = group(".", limit=8 * GB, used=5 * GB, idle=3 * GB)
    memory = read_memory(machine_with(tmp_path, {"": "/"}, files))
    assert memory is not None
    assert (memory.total_gb, memory.free_gb, memory.machine_gb) == (8, 6, 64)


def test_the_tightest_of_the_groups_above_a_process_counts(tmp_path):
    files = {
        **group("user", limit=16 * GB, used=12 * GB),
        **group("user/job", limit="max", used=GB),
        **group("user/job/step", limit=32 * GB, used=GB),
    }
    memory = read_memory(machine_with(tmp_path, {"": "/user/job/step"}, files))
    assert memory is not None
    assert (memory.total_gb, memory.free_gb) == (16, 4)


@pytest.mark.parametrize("inside", ["/docker/4f0c", "/"])
def test_the_first_kind_of_control_groups_is_read_too(tmp_path, inside):
    files = {
        "memory/memory.limit_in_bytes": 4 * GB,
        "memory/memory.usage_in_bytes": 2 * GB,
        "memory/memory.stat": f"cache {GB}\ntotal_inactive_file {GB}",
    }
    groups = {"cpu,cpuacct": inside, "memory": inside}
    memory = read_memory(machine_with(tmp_path, groups, files))
    assert memory is not None
    assert (memory.total_gb, memory.free_gb) == (4, 3)


def test_a_limit_beyond_the_machine_is_none(tmp_path):
    files = {
        "memory/memory.limit_in_bytes": 9223372036854771712,
        "memory/memory.usage_in_bytes": 2 * GB,
        "memory/memory.stat": "",
    }
    memory = read_memory(machine_with(tmp_path, {"memory": "/"}, files))
    assert memory is not None
    assert (memory.total_gb, memory.free_gb) == (64, 60)
