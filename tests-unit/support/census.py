"""What a process has at this moment: memory, descriptors, mappings, threads."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

Pid = int | str


@dataclass(frozen=True, slots=True)
class MemoryCensus:
    """Resident memory by kind, in bytes.

    Attributes:
        rss_anon: Private memory.
        rss_file: Pages of mapped files.
        rss_shmem: Shared memory, pinned host memory included.
        hwm: The most that was resident at once.
    """

    rss_anon: int
    rss_file: int
    rss_shmem: int
    hwm: int

    @property
    def total(self) -> int:
        """All that is resident."""
        return self.rss_anon + self.rss_file + self.rss_shmem


def memory(pid: Pid = "self") -> MemoryCensus:
    """Count the resident memory of a process."""
    values = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            values[name] = int(value[:-3]) * 1024
    return MemoryCensus(values["RssAnon"], values["RssFile"], values["RssShmem"], values["VmHWM"])


def descriptors(pid: Pid = "self") -> dict[int, str]:
    """The open descriptors of a process and where they lead; not the one that counts them."""
    folder = f"/proc/{pid}/fd"
    found = {}
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"{folder}/{name}")
    return found


def descriptors_of(path: str | os.PathLike[str], pid: Pid = "self") -> list[int]:
    """The descriptors of a process that lead to one file, also when it was deleted since."""
    wanted = os.path.realpath(path)
    return [
        fd for fd, target in descriptors(pid).items() if target.removesuffix(" (deleted)") == wanted
    ]


def mapped_files(pid: Pid = "self") -> set[str]:
    """The paths of all files that a process maps."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    names = (line.split(maxsplit=5)[5:] for line in lines)
    return {name[0].removesuffix(" (deleted)") for name in names if name and name[0][0] == "/"}


def thread_names() -> list[str]:
    """The names of this process's Python threads, sorted."""
    return sorted(thread.name for thread in threading.enumerate())
