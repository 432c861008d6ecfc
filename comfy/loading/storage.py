"""Where a weight file lies: kind of filesystem, kind of disk, how much of it is cached."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from comfy.loading.mounts import Mount, is_inside, mount_of, read_mounts

_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
# 9p is how WSL and some virtual machines show the host's disks.
_NETWORK = re.compile(
    r"nfs4?|cifs|smb\w*|9p|drvfs|afpfs|afs|ceph|coda|gfs2?|glusterfs|gpfs|lustre|beegfs|ncpfs|ocfs2"
    r"|orangefs|pvfs2|panfs|webdav|davfs|vboxsf|vmhgfs|prl_fs"
)
_NETWORK_FUSE = re.compile(
    r"sshfs|s3fs|goofys|rclone|gcsfuse|blobfuse2?|juicefs|glusterfs|ceph\S*|mountpoint-s3|geesefs"
    r"|davfs2?|curlftpfs|seaweedfs|alluxio\S*|vmhgfs-fuse"
)
_FUSE = frozenset({"fuse", "fuseblk", "virtiofs", "macfuse", "osxfuse"})
# Disks of virtual machines call themselves rotational whatever is below them.
_VIRTUAL_DISKS = ("/virtio", "/vbd-")

Partitions = Callable[[], list[tuple[str, str]]]
"""Mount points and their filesystem types, on systems without /proc."""


@dataclass(frozen=True, slots=True)
class StorageProfile:
    """Facts about the storage of one file, now.

    Attributes:
        kind: Type of the filesystem; "unknown" if the system does not tell.
        is_local: On a disk of this machine that the kernel itself reads, or in its memory.
        is_rotational: On a disk that turns, where only one reader is fast.
        is_memory: The filesystem lives in memory: its files cannot leave the cache.
        is_network: Another machine, or the host of a virtual one, has the bytes.
        is_fuse: Another process serves the filesystem.
        resident_fraction: Share of the wanted bytes in the page cache; None if unknown.
        direct_block_bytes: Alignment for reads around the page cache; 0 if there are none.
    """

    kind: str
    is_local: bool
    is_rotational: bool
    is_memory: bool
    is_network: bool
    is_fuse: bool
    resident_fraction: float | None
    direct_block_bytes: int


def probe_storage(
    path: str | os.PathLike[str],
    *,
    resident_fraction: float | None,
    direct_block_bytes: int,
    root: Path = Path("/"),
    partitions: Partitions | None = None,
) -> StorageProfile:
    """Gather the facts about where a file lies.

    Args:
        path: The file; links are followed.
        resident_fraction: Share of the wanted bytes in the page cache; None if unknown.
        direct_block_bytes: What the probe for direct reads found; 0 for none.
        root: Where the system's tree begins.
        partitions: The mount table where there is no /proc; psutil's if None.

    Note:
        Does not open the file.
    """
    name = os.path.realpath(os.fspath(path))
    mount = mount_of(name, read_mounts(root))
    if mount is not None:
        kind = mount.kind
    else:
        kind = _kind_elsewhere(name, partitions or _partitions)
    kind = kind.lower()
    family, _, server = kind.partition(".")
    is_fuse = family in _FUSE
    is_far = is_fuse and _NETWORK_FUSE.fullmatch(server) is not None
    is_network = is_far or _NETWORK.fullmatch(kind) is not None
    return StorageProfile(
        kind=kind,
        is_local=not is_network and not is_fuse,
        is_rotational=mount is not None and _is_rotational(mount, root),
        is_memory=kind in _MEMORY,
        is_network=is_network,
        is_fuse=is_fuse,
        resident_fraction=resident_fraction,
        direct_block_bytes=direct_block_bytes,
    )


def _partitions() -> list[tuple[str, str]]:
    return [(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]


def _kind_elsewhere(name: str, partitions: Partitions) -> str:
    """Type of a filesystem on macOS and Windows."""
    if name.startswith(("\\\\", "//")):
        return "smb"
    path = name.replace("\\", "/").lower()
    longest, found = "", "unknown"
    with contextlib.suppress(OSError):
        for point, kind in partitions():
            folder = point.replace("\\", "/").lower()
            if is_inside(path, folder) and len(folder) > len(longest):
                longest, found = folder, kind
    return found or "unknown"


def _is_rotational(mount: Mount, root: Path) -> bool:
    """Ask the block device below a filesystem; False where there is none or it does not tell."""
    folder = root / "sys/dev/block" / mount.device
    if not folder.exists() and mount.source.startswith("/dev/"):
        # btrfs and the like number their filesystems themselves.
        device = root / mount.source.lstrip("/")
        folder = root / "sys/class/block" / os.path.basename(os.path.realpath(device))
    try:
        place = folder.resolve(strict=True)
    except OSError:
        return False
    if any(part in place.as_posix() for part in _VIRTUAL_DISKS):
        return False
    # A partition has no queue of its own; its disk is the folder above.
    for disk in (place, place.parent):
        with contextlib.suppress(OSError):
            return (disk / "queue/rotational").read_text().strip() == "1"
    return False
