"""The promise on a real CUDA device; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.testing import as_bytes, sample_tensors, write_raw
from support.cold import evict
from support.memory_cap import run_measured
from support.raw_files import write_large

MIB = 1024 * 1024
MODEL_BYTES = 2048 * MIB

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("cuda") / "model.safetensors"
    write_large(path, MODEL_BYTES, largest_bytes=128 * MIB)
    yield path
    path.unlink()


@pytest.mark.parametrize("strategy", ["auto", "file-slice", "readinto", "mmap"])
def test_bytes_on_the_device_are_those_of_the_file(tmp_path: Path, strategy: str) -> None:
    path = tmp_path / "sample.safetensors"
    write_raw(path, sample_tensors())
    loader = Loader(LoadOptions(strategy=strategy, staging_bytes=4 * MIB))
    state = loader.open(LoadRequest(path=str(path), device=torch.device("cuda:0"))).state_dict
    for name, (_, _, data) in sample_tensors().items():
        assert state[name].device == torch.device("cuda:0"), name
        assert as_bytes(state[name]) == data, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float8_e4m3fn])
def test_casts_on_the_device_equal_those_of_torch(model: Path, dtype: torch.dtype) -> None:
    request = LoadRequest(path=str(model), device=torch.device("cuda:0"), dtype=dtype)
    found = Loader(LoadOptions(strategy="file-slice")).open(request).state_dict
    for key, expected in load_file(model).items():
        assert torch.equal(
            found[key].view(torch.uint8), expected.to("cuda:0").to(dtype).view(torch.uint8)
        ), key


def test_large_model_is_whole_also_while_the_device_computes(model: Path) -> None:
    noise = torch.randn(4096, 4096, device="cuda:0")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(200):
            noise = noise @ noise * 1e-3
    request = LoadRequest(path=str(model), device=torch.device("cuda:0"))
    found = Loader(LoadOptions(strategy="file-slice")).open(request).state_dict
    for key, expected in load_file(model).items():
        assert torch.equal(found[key].cpu().view(torch.uint8), expected.view(torch.uint8)), key


WARM_UP = "import torch; torch.zeros(1, device='cuda:0') + 1; torch.cuda.synchronize()"


def test_host_holds_no_more_than_the_staging(model: Path) -> None:
    evict(model)
    found = run_measured(
        "from comfy.loading.loader import Loader\n"
        "from comfy.loading.options import LoadOptions\n"
        "from comfy.loading.plan import LoadRequest\n"
        "loader = Loader(LoadOptions(strategy='file-slice'))\n"
        "request = LoadRequest(path=args['path'], device=torch.device('cuda:0'))\n"
        "loaded = loader.open(request)\n"
        "result = torch.cuda.memory_allocated()",
        # The context costs some hundred MiB of host memory, once; it is no part of a load.
        setup=WARM_UP,
        arguments={"path": str(model)},
    ).succeeded()
    assert found.result >= MODEL_BYTES * 0.99
    assert found.peak_over_baseline_bytes <= 128 * MIB
