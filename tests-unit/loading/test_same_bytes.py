"""Bytes, dtypes and shapes equal the safetensors library's, whatever the strategy, cast and device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from comfy.loading.destinations import is_castable
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.testing import as_bytes
from support.files import FileSet, make_file_set
from support.raw_files import write_large
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024
GIB = 1024 * MIB
STRATEGIES = ["mmap", "readinto", "file-slice"]
# Encoding of the diffusion-like sets in the file, and the dtype that is wanted.
CASTS = {
    "as is": ("BF16", None),
    "fp16 to fp32": ("F16", torch.float32),
    "bf16 to fp16": ("BF16", torch.float16),
    "fp8 to bf16": ("F8_E4M3", torch.bfloat16),
}
FACTOR = {"A": 1 / 96, "B": 1 / 96, "C": 1 / 64, "D": 1 / 8, "E": 1 / 16, "F": 1 / 16, "G": 1.0}
SETS = [
    (name, encoding)
    for name in FACTOR
    for encoding in (("BF16", "F16", "F8_E4M3") if name in "AB" else ("BF16",))
]


@pytest.fixture(scope="module")
def file_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], FileSet]:
    folder = tmp_path_factory.mktemp("sets")
    return {
        (name, encoding): make_file_set(
            name, folder / f"{name}-{encoding}", factor=FACTOR[name], encoding=encoding
        )
        for name, encoding in SETS
    }


def by_safetensors(made: FileSet) -> Iterator[tuple[str, torch.Tensor]]:
    for path in made.files:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - the object has no iterator
                yield key, file.get_tensor(key)


def check_equal(made: FileSet, found: dict[str, torch.Tensor], dtype: torch.dtype | None) -> None:
    seen = 0
    for key, expected in by_safetensors(made):
        if dtype is not None and is_castable(expected.dtype):
            expected = expected.to(dtype)
        assert found[key].dtype == expected.dtype, key
        assert found[key].shape == expected.shape, key
        assert as_bytes(found[key]) == as_bytes(expected), key
        seen += 1
    assert seen == len(found)


def load(
    made: FileSet, strategy: str, device: torch.device, dtype: torch.dtype | None, mib: int = 2
) -> dict[str, torch.Tensor]:
    loader = Loader(
        LoadOptions(strategy=strategy, staging_bytes=mib * MIB, threads=3), run_device=device
    )
    request = LoadRequest(path=str(made.path), device=device, dtype=dtype)
    return loader.open(request).state_dict


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("name", FACTOR)
@pytest.mark.parametrize("where", ["cpu", "simgpu", "slow simgpu"])
def test_values_equal_those_of_safetensors(
    file_sets: dict[tuple[str, str], FileSet],
    simgpu: SimulatedDevice,
    strategy: str,
    cast: str,
    name: str,
    where: str,
) -> None:
    encoding, dtype = CASTS[cast]
    made = file_sets[name, encoding if name in "AB" else "BF16"]
    if where == "slow simgpu":
        simgpu.copies.delay_s_per_mib = 0.003
    device = torch.device("cpu") if where == "cpu" else simgpu.device
    found = load(made, strategy, device, dtype)
    assert {tensor.device for tensor in found.values()} == {device}
    check_equal(made, found, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("where", ["cpu", "simgpu"])
def test_tensor_above_two_gib_is_whole(
    tmp_path: Path, simgpu: SimulatedDevice, strategy: str, where: str
) -> None:
    path = tmp_path / "large.safetensors"
    size = 2 * GIB + 64 * MIB
    write_large(path, size, largest_bytes=size)
    made = FileSet("large", path, (path,), size)
    device = torch.device("cpu") if where == "cpu" else simgpu.device
    found = load(made, strategy, device, None, mib=64)
    for key, expected in by_safetensors(made):
        assert found[key].nbytes == expected.nbytes > 2**31
        host = found[key] if where == "cpu" else found[key].to("cpu")
        assert torch.equal(host.view(torch.uint8), expected.view(torch.uint8))
    del found, host, expected
    path.unlink()
