"""Memory control groups for single subprocesses: a true peak, page cache included, and a limit.

A group is made as a child of this process's own one (version 1), or where version 2 lets us make
one, and removed afterwards. The parent's settings are never touched.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path

_REMOVE_ATTEMPTS = 50
_REMOVE_PAUSE_S = 0.02
_numbers = itertools.count(1)


def _entries(text: str) -> dict[str, int]:
    """Parse lines of the form ``name number``."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


class MemoryGroup(ABC):
    """A memory control group of its own; a context that removes it.

    Attributes:
        path: Its folder.
    """

    def __init__(self, parent: Path) -> None:
        self.path = parent / f"onecopy-test-{os.getpid()}-{next(_numbers)}"

    def __enter__(self) -> MemoryGroup:
        self.path.mkdir()
        return self

    def __exit__(self, *exception: object) -> None:
        # A process that has just ended is in its group for some moments.
        for _ in range(_REMOVE_ATTEMPTS):
            if self._is_removed():
                return
            time.sleep(_REMOVE_PAUSE_S)
        self.path.rmdir()

    def _is_removed(self) -> bool:
        try:
            self.path.rmdir()
        except OSError as err:
            if err.errno != errno.EBUSY:
                raise
            return False
        return True

    @property
    def procs(self) -> Path:
        """The file that takes the id of a process that shall enter."""
        return self.path / "cgroup.procs"

    def _number(self, name: str) -> int:
        return int((self.path / name).read_text())

    @abstractmethod
    def set_limit(self, nbytes: int) -> None:
        """Let the group have no more than this, swap included."""

    @abstractmethod
    def usage_bytes(self) -> int:
        """What the group has now: anonymous memory, page cache, kernel's."""

    @abstractmethod
    def peak_bytes(self) -> int:
        """The most it had since `reset_peak`."""

    @abstractmethod
    def reset_peak(self) -> bool:
        """Start the peak anew; False where the system cannot."""

    @abstractmethod
    def kills(self) -> int:
        """How many of its processes were killed for want of memory."""


class _GroupV1(MemoryGroup):
    def set_limit(self, nbytes: int) -> None:
        (self.path / "memory.limit_in_bytes").write_text(str(nbytes))
        # Swap would let a process survive with twice its limit; not all kernels count it.
        with contextlib.suppress(OSError):
            (self.path / "memory.memsw.limit_in_bytes").write_text(str(nbytes))

    def usage_bytes(self) -> int:
        return self._number("memory.usage_in_bytes")

    def peak_bytes(self) -> int:
        return self._number("memory.max_usage_in_bytes")

    def reset_peak(self) -> bool:
        (self.path / "memory.max_usage_in_bytes").write_text("0")
        return True

    def kills(self) -> int:
        return _entries((self.path / "memory.oom_control").read_text()).get("oom_kill", 0)


class _GroupV2(MemoryGroup):
    """Since Linux 6.12 a peak can be reset, for the descriptor that did it."""

    def __enter__(self) -> MemoryGroup:
        super().__enter__()
        try:
            self._peak = self._open_peak()
        except OSError:
            super().__exit__()
            raise
        return self

    def _open_peak(self) -> int:
        try:
            return os.open(self.path / "memory.peak", os.O_RDWR)
        except PermissionError:
            return os.open(self.path / "memory.peak", os.O_RDONLY)

    def __exit__(self, *exception: object) -> None:
        os.close(self._peak)
        super().__exit__(*exception)

    def set_limit(self, nbytes: int) -> None:
        (self.path / "memory.max").write_text(str(nbytes))
        with contextlib.suppress(OSError):
            (self.path / "memory.swap.max").write_text("0")

    def usage_bytes(self) -> int:
        return self._number("memory.current")

    def peak_bytes(self) -> int:
        return int(os.pread(self._peak, 64, 0))

    def reset_peak(self) -> bool:
        try:
            os.write(self._peak, b"reset\n")
        except OSError:
            return False
        return True

    def kills(self) -> int:
        return _entries((self.path / "memory.events").read_text()).get("oom_kill", 0)


def _own_paths(proc: Path) -> dict[str, str]:
    """This process's groups: path by controller list, "" for version 2."""
    lines = (line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines())
    return {controllers: path for _, controllers, path in lines}


def _mount_points(proc: Path) -> dict[str, tuple[str, str]]:
    """Where groups are mounted: (root inside the hierarchy, mount point), by controller or "v2"."""
    found: dict[str, tuple[str, str]] = {}
    for line in (proc / "mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if kind[0] == "cgroup2":
            found["v2"] = (fields[3], fields[4])
        elif kind[0] == "cgroup":
            for option in kind[2].split(","):
                found[option] = (fields[3], fields[4])
    return found


def _folder(own: str, mount: tuple[str, str]) -> Path:
    root, point = mount
    relative = own[len(root) :] if root != "/" and own.startswith(root) else own
    return Path(point) / relative.lstrip("/")


def _why_v1(parent: Path) -> str | None:
    if not (parent / "memory.limit_in_bytes").exists():
        return f"{parent} is not a memory control group"
    if not os.access(parent, os.W_OK):
        return f"{parent} may not be written to"
    return None


def _why_v2(parent: Path) -> str | None:
    try:
        controllers = (parent / "cgroup.subtree_control").read_text().split()
    except OSError as err:
        return f"{parent}: {err.strerror}"
    if "memory" not in controllers:
        return f"{parent} gives its children no memory controller"
    if not (os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK)):
        return f"{parent} is not delegated to this user"
    return None


@functools.cache
def _find(proc: Path = Path("/proc/self")) -> tuple[type[MemoryGroup], Path] | str:
    """The kind of group and where to make it, or why none can be made."""
    try:
        own, mounts = _own_paths(proc), _mount_points(proc)
    except OSError as err:
        return f"this system tells nothing of control groups ({err.strerror})"
    for controllers, path in own.items():
        if "memory" in controllers.split(",") and "memory" in mounts:
            parent = _folder(path, mounts["memory"])
            why = _why_v1(parent)
            return why if why else (_GroupV1, parent)
    if "" in own and "v2" in mounts:
        group = _folder(own[""], mounts["v2"])
        # Version 2 allows no processes beside child groups, so a sibling will often do instead.
        reasons = []
        for parent in (group, group.parent):
            why = _why_v2(parent)
            if why is None:
                return _GroupV2, parent
            reasons.append(why)
        return "; ".join(reasons)
    return "no memory control group is mounted"


@functools.cache
def cgroup_reason() -> str | None:
    """Why no memory control group can be made here, for a test to skip with; None if it can."""
    found = _find()
    if isinstance(found, str):
        return found
    try:
        with new_group() as group:
            group.peak_bytes()
    except OSError as err:
        return f"no memory control group can be made in {found[1]}: {err.strerror}"
    return None


def new_group() -> MemoryGroup:
    """Describe a new group; entering it as a context makes it.

    Raises:
        RuntimeError: If `cgroup_reason` has something to say.
    """
    found = _find()
    if isinstance(found, str):
        raise RuntimeError(found)
    kind, parent = found
    return kind(parent)
