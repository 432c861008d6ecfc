"""Where a file lies, told from mount tables and block devices of other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy.loading.mounts import read_mounts
from comfy.loading.storage import StorageProfile, probe_storage
from support.facts import write_tree

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 259:2 / / rw,relatime - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
40 27 8:1 / /spinning rw shared:7 master:1 - xfs /dev/sda1 rw
41 27 0:50 / /shm rw - tmpfs tmpfs rw,size=1k
42 27 0:51 / /nas rw - nfs4 nas:/export/models rw,vers=4.2
43 27 0:52 / /nas/fast rw - ext4 /dev/nvme0n1p3 rw
44 27 0:53 / /cloud rw - fuse.sshfs me@host:/ rw
45 27 0:54 / /usb rw - fuseblk /dev/sdb1 rw
46 27 0:55 / /mnt/c rw - 9p drvfs rw
47 27 0:56 / /my\040models rw - btrfs /dev/mapper/big rw
48 27 0:57 / /auto rw - autofs systemd-1 rw
49 48 0:58 / /auto rw - cifs //nas/share rw
50 27 0:59 / /shared rw - virtiofs tag rw
51 27 254:0 / /virtual rw - ext4 /dev/vda rw
52 27 0:60 / / rw - overlay overlay rw,lowerdir=/a:/b
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with an NVMe disk, a turning disk, a virtual disk, and btrfs over the turning one."""
    write_tree(
        tmp_path,
        {
            "proc/self/mountinfo": MOUNTS.lstrip(),
            "sys/devices/nvme0n1/queue/rotational": "0\n",
            "sys/devices/nvme0n1/nvme0n1p2/partition": "2\n",
            "sys/devices/sda/queue/rotational": "1\n",
            "sys/devices/sda/sda1/partition": "1\n",
            "sys/devices/dm-0/queue/rotational": "1\n",
            "sys/devices/virtio1/block/vda/queue/rotational": "1\n",
            "dev/dm-0": "",
        },
    )
    link(tmp_path, "sys/dev/block/259:2", "../../devices/nvme0n1/nvme0n1p2")
    link(tmp_path, "sys/dev/block/8:1", "../../devices/sda/sda1")
    link(tmp_path, "sys/dev/block/254:0", "../../devices/virtio1/block/vda")
    link(tmp_path, "sys/class/block/dm-0", "../../devices/dm-0")
    link(tmp_path, "dev/mapper/big", "../dm-0")
    return tmp_path


def link(root: Path, name: str, target: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def look(root: Path, path: str) -> StorageProfile:
    return probe_storage(path, resident_fraction=None, direct_block_bytes=0, root=root)


@pytest.mark.parametrize(
    ("path", "kind", "flags"),
    [
        ("/model.safetensors", "overlay", "local"),
        ("/spinning/model.safetensors", "xfs", "local"),
        ("/shm/model.safetensors", "tmpfs", "local memory"),
        ("/nas/model.safetensors", "nfs4", "network"),
        ("/nas/fast/model.safetensors", "ext4", "local"),
        ("/nas/faster.safetensors", "nfs4", "network"),
        ("/cloud/model.safetensors", "fuse.sshfs", "network fuse"),
        ("/usb/model.safetensors", "fuseblk", "fuse"),
        ("/mnt/c/model.safetensors", "9p", "network"),
        ("/my models/model.safetensors", "btrfs", "local"),
        ("/auto/model.safetensors", "cifs", "network"),
        ("/shared/model.safetensors", "virtiofs", "fuse"),
        ("/shmem/model.safetensors", "overlay", "local"),
    ],
)
def test_filesystem_is_recognised(root: Path, path: str, kind: str, flags: str) -> None:
    seen = look(root, path)
    told = {
        "local": seen.is_local,
        "memory": seen.is_memory,
        "network": seen.is_network,
        "fuse": seen.is_fuse,
    }
    assert seen.kind == kind
    assert {name for name, holds in told.items() if holds} == set(flags.split())


@pytest.mark.parametrize(
    ("path", "rotational"),
    [
        pytest.param("/spinning/x", True, id="partition of a turning disk"),
        pytest.param("/my models/x", True, id="device mapper over one, by its name"),
        pytest.param("/virtual/x", False, id="virtual disk, which lies"),
        pytest.param("/nas/fast/x", False, id="unknown device"),
        pytest.param("/shm/x", False, id="no device"),
        pytest.param("/cloud/x", False, id="source that is no device"),
    ],
)
def test_turning_disk_is_recognised(root: Path, path: str, rotational: bool) -> None:
    assert look(root, path).is_rotational is rotational


def test_solid_state_disk_is_not_rotational(root: Path) -> None:
    without_overlay = MOUNTS.replace("- overlay overlay", "- ext4 /dev/nvme0n1p2")
    write_tree(root, {"proc/self/mountinfo": without_overlay.replace("0:60", "259:2").lstrip()})
    seen = look(root, "/model.safetensors")
    assert (seen.kind, seen.is_rotational) == ("ext4", False)


def test_disk_that_does_not_tell_is_not_rotational(root: Path) -> None:
    (root / "sys/devices/sda/queue/rotational").unlink()
    assert not look(root, "/spinning/x").is_rotational


def test_link_is_followed_to_where_the_bytes_are(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "folder"
    other.mkdir()
    mount = f"60 27 0:70 / {other.resolve()} rw - nfs4 nas:/x rw\n"
    write_tree(root, {"proc/self/mountinfo": MOUNTS.lstrip() + mount})
    (tmp_path / "model.safetensors").symlink_to(other / "real.safetensors")
    assert look(root, str(tmp_path / "model.safetensors")).kind == "nfs4"


def test_what_was_probed_elsewhere_is_passed_on(root: Path) -> None:
    seen = probe_storage("/x", resident_fraction=0.25, direct_block_bytes=512, root=root)
    assert (seen.resident_fraction, seen.direct_block_bytes) == (0.25, 512)


@pytest.mark.parametrize(
    ("path", "table", "kind", "is_network"),
    [
        pytest.param("/Volumes/a/x", [("/", "apfs"), ("/Volumes/a", "smbfs")], "smbfs", True),
        pytest.param("/Volumes/ab/x", [("/", "APFS"), ("/Volumes/a", "smbfs")], "apfs", False),
        pytest.param("/x", [], "unknown", False),
        pytest.param("/x", [("/", "")], "unknown", False),
    ],
)
def test_system_without_mount_table_is_asked_for_partitions(
    tmp_path: Path, path: str, table: list[tuple[str, str]], kind: str, is_network: bool
) -> None:
    seen = probe_storage(
        path,
        resident_fraction=None,
        direct_block_bytes=0,
        root=tmp_path,
        partitions=lambda: table,
    )
    assert (seen.kind, seen.is_network) == (kind, is_network)


def test_partitions_that_cannot_be_read_leave_the_kind_unknown(tmp_path: Path) -> None:
    def fail() -> list[tuple[str, str]]:
        raise PermissionError(13, "no")

    seen = probe_storage(
        "/x", resident_fraction=None, direct_block_bytes=0, root=tmp_path, partitions=fail
    )
    assert (seen.kind, seen.is_local) == ("unknown", True)


def test_this_machine_has_a_filesystem_below_its_files(tmp_path: Path) -> None:
    seen = probe_storage(tmp_path / "x", resident_fraction=None, direct_block_bytes=0)
    assert seen.kind != "unknown"


def test_only_line_ends_end_the_lines_of_the_mount_table(root: Path) -> None:
    # The kernel escapes blanks and line ends, and no other character.
    mount = "60 27 0:61 / /my\x85models rw - nfs4 nas:/export rw\n"
    write_tree(root, {"proc/self/mountinfo": MOUNTS.lstrip() + mount})
    assert look(root, "/my\x85models/model.safetensors").kind == "nfs4"


def test_mount_table_is_read_line_by_line(root: Path) -> None:
    mounts = read_mounts(root)
    assert len(mounts) == len(MOUNTS.strip().splitlines())
    assert mounts[2].source == "/dev/sda1"
    assert mounts[9].point == "/my models"
    assert "lowerdir=/a:/b" in mounts[-1].options
