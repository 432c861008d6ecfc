"""A save is whole or not there, and says why."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfy import unfinished
from comfy.loading.encodings import ENCODINGS
from comfy.loading.errors import CannotBeSaved, LoadError, WeightSaveFailed
from comfy.loading.saving import PIECE_BYTES, save_state_dict
from support.permissions import as_nobody
from support.to_save import file_tensors, values

ROOT = Path(__file__).parents[2]
DTYPES = [one.torch_dtype for one in ENCODINGS.values() if not one.is_raw]


# -- atomic --------------------------------------------------------------------------------------


def test_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real = tmp_path / "disk" / "real.safetensors"
    real.write_bytes(b"old")
    (tmp_path / "link").symlink_to(real)
    save_state_dict({"w": torch.ones(2)}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load_file(real)["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    previous = os.umask(mask)
    try:
        save_state_dict({}, tmp_path / "a")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == mode


def test_name_of_the_greatest_length_can_be_saved(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e9" * 120 + ".safetensors")
    save_state_dict({"w": torch.ones(1)}, path)
    assert load_file(path)["w"].tolist() == [1.0]


class _Stop(Exception):
    pass


@pytest.mark.parametrize("kind", [_Stop, KeyboardInterrupt])
def test_interrupted_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    descriptors = len(os.listdir("/proc/self/fd"))

    def stop(done: int, total: int) -> None:
        raise kind

    with pytest.raises(kind):
        save_state_dict({"w": torch.ones(10)}, path, progress=stop)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_source_that_ends_early_leaves_no_half_written_file(tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    save_file({"w": values(torch.float32, 1000)}, source)
    opened = file_tensors(source)
    os.truncate(source, os.path.getsize(source) - 100)
    with pytest.raises(LoadError, match=r"source\.safetensors"):
        save_state_dict(opened, tmp_path / "copy")
    assert os.listdir(tmp_path) == ["source.safetensors"]


_FULL = """
    import resource, sys, torch
    from comfy.loading.errors import WeightSaveFailed
    from comfy.loading.saving import save_state_dict

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        save_state_dict({"w": torch.ones(1 << 20)}, sys.argv[1])
    except WeightSaveFailed as err:
        print(err.errno)
        print(err)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_FULL), str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    number, message = result.stdout.split("\n", 1)
    assert int(number) == 27  # EFBIG
    assert "model.safetensors" in message and "Free some space" in message
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_folder_as_target_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightSaveFailed, match="it is a folder"):
        save_state_dict({"w": torch.ones(4)}, tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightSaveFailed, match="not a file"):
        save_state_dict({"w": torch.ones(4)}, tmp_path / "pipe")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs permissions of POSIX")
def test_a_folder_that_may_be_written_and_not_read_takes_files() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "drop"
        folder.mkdir()
        Path(scratch).chmod(0o755)
        folder.chmod(0o333)
        with as_nobody():
            save_state_dict({"w": torch.ones(2)}, folder / "a")
        folder.chmod(0o755)
        assert load_file(folder / "a")["w"].tolist() == [1.0, 1.0]


def test_missing_folder_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(WeightSaveFailed, match="folder exists") as caught:
        save_state_dict({}, tmp_path / "missing" / "a.safetensors")
    assert caught.value.errno == 2


# -- what cannot be saved ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"bad": torch.zeros(2, dtype=torch.complex128)}, "'bad' has dtype torch.complex128"),
        ({"bad": torch.zeros(2, device="meta")}, "'bad' is on the meta device"),
        ({"bad": torch.eye(2).to_sparse()}, "'bad' is sparse"),
        ({"bad": 3}, "'bad' is a int"),
        ({7: torch.zeros(1)}, "must be a string, not 7"),
        ({"__metadata__": torch.zeros(1)}, "__metadata__"),
        ({"\ud800": torch.zeros(1)}, "not valid text"),
    ],
    ids=["dtype", "meta", "sparse", "no tensor", "name", "reserved name", "surrogate"],
)
def test_what_the_format_lacks_is_refused_before_a_file_is_made(
    tmp_path: Path, state: dict[str, torch.Tensor], match: str
) -> None:
    with pytest.raises(CannotBeSaved, match=match):
        save_state_dict(state, tmp_path / "a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": None}, {"a": {"b": "c"}}])
def test_metadata_that_is_not_text_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(CannotBeSaved, match="strings to strings"):
        save_state_dict({}, tmp_path / "a", metadata=metadata)
    assert os.listdir(tmp_path) == []


def test_header_that_no_reader_accepts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotBeSaved, match="readers accept"):
        save_state_dict({}, tmp_path / "a", metadata={"a": "x" * 100_000_000})


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    state = {"a": torch.zeros(PIECE_BYTES + 5, dtype=torch.uint8), "b": torch.zeros(3)}
    save_state_dict(state, tmp_path / "a", progress=lambda done, total: seen.append((done, total)))
    total = PIECE_BYTES + 5 + 12
    assert seen == [(12, total), (12 + PIECE_BYTES, total), (total, total)]


# -- what a kill leaves ----------------------------------------------------------------------------

KILLED = """
import os, sys, torch
from comfy.loading.saving import save_state_dict
save_state_dict({"w": torch.zeros(8)}, sys.argv[1], progress=lambda *_: os.kill(os.getpid(), 9))
"""


def _make_older(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (path.stat().st_mtime - 60,) * 2)


@pytest.mark.skipif(os.name == "nt", reason="locks as POSIX has them")
def test_what_a_killed_save_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed.safetensors")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    (left,) = tmp_path.iterdir()

    def sweep(done: int, total: int) -> None:
        _make_older(tmp_path)
        unfinished.remove_abandoned(str(tmp_path))

    save_state_dict({"w": torch.ones(2)}, tmp_path / "a", progress=sweep)
    assert not left.exists()
    assert load_file(tmp_path / "a")["w"].tolist() == [1.0, 1.0]
    assert os.listdir(tmp_path) == ["a"]
