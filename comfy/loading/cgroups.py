"""Memory limits of the control groups (containers, services, user sessions) around this process.

Both versions are read, and hybrids of them. A group may be nested, so every group from the
process's own up to the top that is visible counts. File pages that the kernel can reclaim are no
use of memory: a container that has just read a large file is not full. Swap is ignored.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comfy.loading.mounts import Mount, is_inside, read_mounts

# Version 1 writes the largest number of whole pages for "no limit": 9223372036854771712.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class GroupLimit:
    """A limit on the memory of one control group, in bytes.

    Attributes:
        group: Folder of the group.
        limit: Most that the group may use.
        used: What it uses, without reclaimable file pages.
    """

    group: str
    limit: int
    used: int

    @property
    def headroom(self) -> int:
        """What may still be used; never negative."""
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class _Files:
    """Names of a version's files."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: tuple[str, ...]
    inherited: str = ""


_V1 = _Files(
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
    # The tightest limit of the groups around this one, also of those that are not visible here.
    inherited="hierarchical_memory_limit",
)
# memory.high does not kill, but it slows a group that passes it to a near halt.
_V2 = _Files(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))


def memory_limits(root: Path = Path("/")) -> tuple[GroupLimit, ...]:
    """Read the limits of all groups around this process, innermost first.

    Args:
        root: Where the system's tree begins.

    Returns:
        One entry for each group that has a limit; empty where nothing limits the process, and
        on systems without control groups. Never raises.
    """
    try:
        # Names of groups are bytes, and may be no text.
        text = os.fsdecode((root / "proc/self/cgroup").read_bytes())
    except OSError:
        return ()
    mounts = read_mounts(root)
    found: list[GroupLimit] = []
    for line in filter(None, text.split("\n")):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for files, mount in _hierarchies(controllers, mounts):
            folders = _folders(root, mount, path)
            found.extend(limit for folder in folders for limit in _limits(folder, files))
    return tuple(found)


def _hierarchies(controllers: str, mounts: tuple[Mount, ...]) -> Iterator[tuple[_Files, Mount]]:
    """The memory hierarchies that a line of /proc/self/cgroup names: one or none."""
    for mount in mounts:
        if not controllers and mount.kind == "cgroup2":
            yield _V2, mount
            return
        is_memory = "memory" in controllers.split(",") and "memory" in mount.options
        if is_memory and mount.kind == "cgroup":
            yield _V1, mount
            return


def _folders(root: Path, mount: Mount, path: str) -> Iterator[Path]:
    """Folders of the process's group and those around it, as far as the mount shows them.

    In a container the path may be that of the host, which is not visible here, or lead out of
    the namespace; then the top of the mount is the container's own group.
    """
    top = root / mount.point.lstrip("/")
    inner = ""
    if ".." not in path.split("/") and is_inside(path, mount.top):
        inner = path[len(mount.top.rstrip("/")) :].strip("/")
    # Folders that are not there have no limits; those above them may be.
    folder = top / inner
    while folder != top:
        yield folder
        folder = folder.parent
    yield top


def _limits(folder: Path, files: _Files) -> Iterator[GroupLimit]:
    values = [_read_number(folder / name) for name in files.limits]
    statistics = _read_statistics(folder / "memory.stat")
    values.append(statistics.get(files.inherited))
    limits = [value for value in values if value is not None and value < _NO_LIMIT]
    usage = _read_number(folder / files.usage)
    if not limits or usage is None:
        return
    reclaimable = sum(statistics.get(name, 0) for name in files.reclaimable)
    yield GroupLimit(str(folder), min(limits), max(0, usage - reclaimable))


def _read_number(path: Path) -> int | None:
    """A whole number, or None for "max" and for what cannot be read."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _read_statistics(path: Path) -> dict[str, int]:
    statistics: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            statistics[name] = int(value)
    return statistics
