"""How much memory a process may take in containers, services and sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy.loading.memory import Pool, host_pool
from support.facts import GIB, meminfo, write_tree

MACHINE = {"proc/meminfo": meminfo(64 * GIB, 50 * GIB)}

V2_MOUNT = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def v2_group(folder: str, limit: int | str, current: int, **stat: int) -> dict[str, str]:
    base = f"sys/fs/cgroup{folder}"
    lines = "".join(f"{name} {value}\n" for name, value in stat.items())
    return {
        f"{base}/memory.max": f"{limit}\n",
        f"{base}/memory.current": f"{current}\n",
        f"{base}/memory.stat": f"anon 0\n{lines}",
    }


def v1_group(folder: str, limit: int, usage_bytes: int, **stat: int) -> dict[str, str]:
    base = f"sys/fs/cgroup/memory{folder}"
    lines = "".join(f"{name} {value}\n" for name, value in stat.items())
    return {
        f"{base}/memory.limit_in_bytes": f"{limit}\n",
        f"{base}/memory.usage_in_bytes": f"{usage_bytes}\n",
        f"{base}/memory.stat": lines,
    }


def v2_tree(root: Path, path: str, *groups: dict[str, str], mount: str = V2_MOUNT) -> Path:
    tree = {**MACHINE, "proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": mount}
    for group in groups:
        tree.update(group)
    return write_tree(root, tree)


def v1_tree(root: Path, path: str, *groups: dict[str, str], mount: str = V1_MOUNT) -> Path:
    lines = f"9:name=systemd:/\n4:cpu,memory:{path}\n1:cpu:/other\n0::/\n"
    tree = {**MACHINE, "proc/self/cgroup": lines, "proc/self/mountinfo": mount}
    for group in groups:
        tree.update(group)
    return write_tree(root, tree)


def test_without_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert host_pool(root=write_tree(tmp_path, MACHINE)) == Pool("host memory", 64 * GIB, 50 * GIB)


def test_old_kernel_without_memavailable_is_estimated(tmp_path: Path) -> None:
    text = meminfo(8 * GIB, None, MemFree=GIB, Buffers=GIB, Cached=3 * GIB, Shmem=2 * GIB)
    found = host_pool(root=write_tree(tmp_path, {"proc/meminfo": text}))
    assert found.free == 3 * GIB


def test_system_without_proc_is_asked_through_psutil(tmp_path: Path) -> None:
    found = host_pool(root=tmp_path)
    assert 0 < found.free <= found.total


def test_this_machine_has_memory() -> None:
    found = host_pool()
    assert 0 < found.free <= found.total


def test_v2_limit_counts_without_reclaimable_file_pages(tmp_path: Path) -> None:
    group = v2_group("/app", 16 * GIB, 15 * GIB, inactive_file=6 * GIB, active_file=4 * GIB)
    found = host_pool(root=v2_tree(tmp_path, "/app", group))
    assert (found.total, found.free, found.beyond) == (16 * GIB, 11 * GIB, 39 * GIB)
    assert found.notes == (
        f"the limit of 16,384 MiB on {tmp_path / 'sys/fs/cgroup/app'} leaves 11,264 MiB",
    )


def test_v1_limit_counts_without_reclaimable_file_pages(tmp_path: Path) -> None:
    group = v1_group(
        "/app", 16 * GIB, 15 * GIB, inactive_file=1, total_inactive_file=6 * GIB,
        total_active_file=4 * GIB,
    )  # fmt: skip
    found = host_pool(root=v1_tree(tmp_path, "/app", group))
    assert (found.total, found.free) == (16 * GIB, 11 * GIB)


def test_v2_max_is_no_limit(tmp_path: Path) -> None:
    found = host_pool(root=v2_tree(tmp_path, "/app", v2_group("/app", "max", 15 * GIB)))
    assert found == Pool("host memory", 64 * GIB, 50 * GIB)


def test_v1_sentinel_is_no_limit(tmp_path: Path) -> None:
    group = v1_group(
        "/app", 9223372036854771712, GIB, hierarchical_memory_limit=9223372036854771712
    )
    found = host_pool(root=v1_tree(tmp_path, "/app", group))
    assert found == Pool("host memory", 64 * GIB, 50 * GIB)


@pytest.mark.parametrize(
    ("outer", "inner", "free"),
    [
        pytest.param((8, 1), ("max", 1), 7, id="outer group limits"),
        pytest.param((32, 20), (8, 1), 7, id="inner group is tighter"),
        pytest.param((32, 30), (8, 1), 2, id="neighbours fill the outer group"),
    ],
)
def test_tightest_of_nested_v2_groups_counts(
    tmp_path: Path, outer: tuple[int, int], inner: tuple[int | str, int], free: int
) -> None:
    limit = inner[0] if isinstance(inner[0], str) else inner[0] * GIB
    found = host_pool(
        root=v2_tree(
            tmp_path,
            "/user.slice/app",
            v2_group("/user.slice", outer[0] * GIB, outer[1] * GIB),
            v2_group("/user.slice/app", limit, inner[1] * GIB),
        )
    )
    assert found.free == free * GIB


def test_tightest_of_nested_v1_groups_counts(tmp_path: Path) -> None:
    found = host_pool(
        root=v1_tree(
            tmp_path,
            "/a/b",
            v1_group("/a", 8 * GIB, 5 * GIB),
            v1_group("/a/b", 16 * GIB, 1 * GIB),
        )
    )
    assert (found.total, found.free) == (8 * GIB, 3 * GIB)


def test_v1_limit_of_an_invisible_outer_group_counts(tmp_path: Path) -> None:
    group = v1_group("", 1 << 62, GIB, hierarchical_memory_limit=8 * GIB)
    mount = V1_MOUNT.replace(" / /sys", " /docker/abc /sys")
    found = host_pool(root=v1_tree(tmp_path, "/docker/abc", group, mount=mount))
    assert found.free == 7 * GIB


def test_v2_soft_limit_counts_because_it_throttles(tmp_path: Path) -> None:
    tree = v2_group("/app", 16 * GIB, 1 * GIB)
    tree["sys/fs/cgroup/app/memory.high"] = f"{4 * GIB}\n"
    assert host_pool(root=v2_tree(tmp_path, "/app", tree)).free == 3 * GIB


def test_swap_limits_are_ignored(tmp_path: Path) -> None:
    tree = v2_group("/app", 16 * GIB, 1 * GIB)
    tree["sys/fs/cgroup/app/memory.swap.max"] = "0\n"
    tree["sys/fs/cgroup/app/memory.swap.current"] = f"{9 * GIB}\n"
    assert host_pool(root=v2_tree(tmp_path, "/app", tree)).free == 15 * GIB


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        pytest.param("/", V2_MOUNT, id="namespace shows '/'"),
        pytest.param("/docker/abc", V2_MOUNT, id="path of the host, not visible here"),
        pytest.param("/docker/abc", V2_MOUNT.replace(" / /", " /docker/abc /"), id="bind mount"),
        pytest.param("/../../other", V2_MOUNT, id="path out of the namespace"),
        pytest.param("/x", V2_MOUNT.replace(" / /", " /../.. /"), id="mount from outside"),
    ],
)
def test_container_sees_its_own_group_at_the_top(tmp_path: Path, path: str, mount: str) -> None:
    found = host_pool(root=v2_tree(tmp_path, path, v2_group("", 8 * GIB, 2 * GIB), mount=mount))
    assert found.free == 6 * GIB


def test_group_of_the_same_name_elsewhere_is_not_taken(tmp_path: Path) -> None:
    mount = V2_MOUNT.replace(" / /sys", " /docker /sys")
    tree = v2_tree(tmp_path, "/podman/abc", v2_group("/abc", 4 * GIB, GIB), mount=mount)
    assert host_pool(root=tree).free == 50 * GIB


def test_path_never_leads_out_of_the_mount(tmp_path: Path) -> None:
    tree = v2_tree(tmp_path, "/../other", v2_group("/../other", 4 * GIB, GIB))
    assert host_pool(root=tree).free == 50 * GIB


@pytest.mark.parametrize("limited", ["v1", "v2", "cpu"])
def test_each_hierarchy_of_a_hybrid_is_read_by_its_own_rules(tmp_path: Path, limited: str) -> None:
    cpu = "29 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    groups = {
        "v1": v1_group("/app", 8 * GIB, GIB),
        "v2": v2_group("/unified/new", 8 * GIB, GIB),
        "cpu": v2_group("/cpu/app", 8 * GIB, GIB) | v1_group("/../cpu/app", 8 * GIB, GIB),
    }
    root = v1_tree(tmp_path, "/app", groups[limited], mount=cpu + V1_MOUNT + unified)
    lines = "4:memory:/app\n1:cpu:/app\n0::/new\n"
    found = host_pool(root=write_tree(root, {"proc/self/cgroup": lines}))
    assert found.free == (50 * GIB if limited == "cpu" else 7 * GIB)


def test_container_under_v1_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    mount = V1_MOUNT.replace(" / /sys", " /docker/abc /sys")
    tree = v1_tree(tmp_path, "/docker/abc", v1_group("", 8 * GIB, 2 * GIB), mount=mount)
    assert host_pool(root=tree).free == 6 * GIB


def test_group_that_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    tree = v2_tree(tmp_path, "/app", v2_group("/app", 4 * GIB, 5 * GIB))
    assert host_pool(root=tree).free == 0


def test_limit_above_the_machine_changes_nothing(tmp_path: Path) -> None:
    tree = v2_tree(tmp_path, "/app", v2_group("/app", 512 * GIB, GIB))
    assert host_pool(root=tree) == Pool("host memory", 64 * GIB, 50 * GIB)


@pytest.mark.parametrize(
    "broken",
    [
        {"proc/self/cgroup": "nonsense\n\n:::\n"},
        {"proc/self/mountinfo": "1 2 3\n - \n"},
        {"sys/fs/cgroup/app/memory.max": "many\n"},
        {"sys/fs/cgroup/app/memory.current": ""},
    ],
)
def test_unreadable_groups_are_no_limit(tmp_path: Path, broken: dict[str, str]) -> None:
    root = v2_tree(tmp_path, "/app", v2_group("/app", 4 * GIB, GIB))
    assert host_pool(root=write_tree(root, broken)).free == 50 * GIB


def test_group_whose_name_is_no_text_limits_all_the_same(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, "/app", v2_group("/app", 4 * GIB, GIB))
    (root / "proc/self/cgroup").write_bytes(b"0::/app/gr\xf6\xdfe\n")
    assert host_pool(root=root).free == 3 * GIB


def test_unreadable_statistics_count_as_nothing_reclaimable(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, "/app", v2_group("/app", 4 * GIB, GIB))
    write_tree(root, {"sys/fs/cgroup/app/memory.stat": "inactive_file many\n"})
    assert host_pool(root=root).free == 3 * GIB
