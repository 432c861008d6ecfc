"""Files that cannot be opened: a typed error with path and errno, and nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy.loading.errors import WeightReadFailed
from comfy.loading.plan import LoadRequest
from support.census import descriptors
from support.loads import Way, digest, gives_all_back, write_model
from support.memory_cap import run_measured
from support.simulated_device import SimulatedDevice


def refuse(path: Path | str) -> WeightReadFailed:
    """Load what cannot be opened."""
    loader = Way("file-slice", "cpu").loader()
    with gives_all_back(loader), pytest.raises(WeightReadFailed) as caught:
        loader.open(LoadRequest(path=str(path), device=None))
    return caught.value


def test_missing_file_is_told_with_its_path(tmp_path: Path, simgpu: SimulatedDevice) -> None:
    error = refuse(tmp_path / "missing.safetensors")
    assert isinstance(error, FileNotFoundError)
    assert error.errno == errno.ENOENT
    assert error.path == str(tmp_path / "missing.safetensors")


def test_folder_is_refused(tmp_path: Path, simgpu: SimulatedDevice) -> None:
    assert refuse(tmp_path).path == str(tmp_path)
    assert refuse(tmp_path).errno == errno.EISDIR


def test_pipe_is_refused_and_not_waited_for(tmp_path: Path, simgpu: SimulatedDevice) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    keeper = os.open(tmp_path / "pipe.safetensors", os.O_RDWR)
    assert "not a regular file" in str(refuse(tmp_path / "pipe.safetensors"))
    os.close(keeper)


def open_as_nobody(path: str) -> dict[str, Any]:
    """Try to load as a user without rights; runs in a process of its own."""
    if os.geteuid() == 0:
        os.setuid(65534)
    before = len(descriptors())
    try:
        Way("file-slice", "cpu").loader().open(LoadRequest(path=path, device=None))
    except WeightReadFailed as err:
        return {"errno": err.errno, "path": err.path, "left": len(descriptors()) - before}
    return {}


def test_file_without_permission_is_told_with_its_path(tmp_path: Path) -> None:
    victim = write_model(tmp_path / "model.safetensors")
    victim.chmod(0)
    measured = run_measured(open_as_nobody, arguments={"path": str(victim)}, in_group=False)
    found = measured.succeeded().result
    assert found == {"errno": errno.EACCES, "path": str(victim), "left": 0}


@contextlib.contextmanager
def no_descriptor_free() -> Iterator[None]:
    """Use up all descriptors that this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def test_process_without_free_descriptors_is_told_so(tmp_path: Path) -> None:
    way, path = Way("readinto", "cpu"), write_model(tmp_path / "model.safetensors")
    loader = way.loader()
    expected = digest(way.load(loader, path))
    with no_descriptor_free(), pytest.raises(WeightReadFailed) as caught:
        way.load(loader, path)
    assert caught.value.errno == errno.EMFILE
    assert caught.value.path == str(path)
    assert digest(way.load(loader, path)) == expected
