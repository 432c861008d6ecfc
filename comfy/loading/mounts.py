"""The table of mounted filesystems, as the kernel tells it to this process."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted filesystem.

    Attributes:
        point: Folder where it is visible.
        top: Folder of the filesystem that is visible there; "/" is all of it.
        kind: Type of the filesystem, for example "ext4" or "fuse.sshfs".
        source: What is mounted, for example "/dev/sda1"; free text for some types.
        device: Number as "major:minor".
        options: Of the filesystem itself.
    """

    point: str
    top: str
    kind: str
    source: str
    device: str
    options: frozenset[str]


def read_mounts(root: Path = Path("/")) -> tuple[Mount, ...]:
    """Read the table in the order of mounting; empty where the system has none.

    Args:
        root: Where the system's tree begins.

    Source:
        proc_pid_mountinfo(5).
    """
    try:
        text = os.fsdecode((root / "proc/self/mountinfo").read_bytes())
    except OSError:
        return ()
    mounts = (_parse(line) for line in text.split("\n"))
    return tuple(mount for mount in mounts if mount is not None)


def _parse(line: str) -> Mount | None:
    # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    before, separator, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    if not separator or len(left) < 6 or len(right) < 2:
        return None
    return Mount(
        point=_unescape(left[4]),
        top=_unescape(left[3]),
        kind=right[0],
        source=_unescape(right[1]),
        device=left[2],
        options=frozenset(right[2].split(",") if len(right) > 2 else ()),
    )


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), text)


def mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """Find the filesystem that a path leads to.

    Args:
        path: Absolute, without symbolic links.
        mounts: In the order of mounting; a later one hides an earlier one at the same place.
    """
    found = None
    for mount in mounts:
        if is_inside(path, mount.point) and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def is_inside(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it; both absolute."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
