"""Memory of a model that is loaded, patched, unloaded and loaded again, measured from outside.

As on unified hardware, the simulated device's memory is this process's own: a copy on the host
beside the one on the device would show.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import comfy.ops
from comfy.loading.default import default_loader
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.model_patcher import ModelPatcher
from support import simulated_device
from support.cold import evict
from support.memory_cap import run_measured
from support.raw_files import MIB, Spec, write_specs

WIDTH = 2048
LAYERS = 48
WEIGHT_BYTES = WIDTH * WIDTH * 2
MODEL_BYTES = LAYERS * WEIGHT_BYTES
STAGING_BYTES = 64 * MIB
SLACK_BYTES = 64 * MIB
# A patched weight is computed in float32, beside the change that is added to it.
PATCH_BYTES = 6 * WEIGHT_BYTES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("patched") / "model.safetensors"
    write_specs(path, [Spec(f"{i}.weight", "F16", (WIDTH, WIDTH)) for i in range(LAYERS)])
    yield path
    path.unlink()


def _network(path: str, strategy: str) -> torch.nn.Sequential:
    layer = comfy.ops.manual_cast.Linear
    network = torch.nn.Sequential(
        *(layer(WIDTH, WIDTH, bias=False, device="meta") for _ in range(LAYERS))
    )
    loader = Loader(LoadOptions(strategy=strategy), run_device="cpu")
    state = loader.open(LoadRequest(path=path, device=None)).state_dict
    network.load_state_dict(state, assign=True)
    return network


def _patches() -> dict[str, tuple[torch.Tensor]]:
    """A change of every weight that takes next to no memory of its own."""
    change = torch.ones(1, 1).expand(WIDTH, WIDTH)
    return {f"{i}.weight": (change,) for i in range(LAYERS)}


def load_patch_unload(path: str, strategy: str, rounds: int) -> list[int]:
    """Load patched and unload, several times, then load unpatched; gives the device's bytes."""
    device = simulated_device.install()[0]
    patcher = ModelPatcher(_network(path, strategy), device.device, torch.device("cpu"))
    patched = patcher.clone()
    patched.add_patches(_patches(), 0.5)
    seen = []
    for _ in range(rounds):
        patched.patch_model(device.device)
        seen.append(device.allocated_bytes)
        patched.detach()
        seen.append(device.allocated_bytes)
    patcher.patch_model(device.device)
    globals()["kept"] = patcher
    return [*seen, device.allocated_bytes]


def load_and_unload(path: str) -> int:
    """Leave a model unloaded; gives the device's bytes."""
    device = simulated_device.install()[0]
    patcher = ModelPatcher(_network(path, "file-slice"), device.device, torch.device("cpu"))
    patcher.patch_model(device.device)
    patcher.detach()
    default_loader().close()
    globals()["kept"] = patcher
    return device.allocated_bytes


def move_module_and_keep_backups(path: str) -> int:
    """What is usual elsewhere: a populated module is moved, patched weights are kept on the host."""
    device = simulated_device.install()[0]
    state = {key: tensor.clone() for key, tensor in load_file(path).items()}
    backup = {}
    for key, tensor in state.items():
        backup[key] = tensor
        state[key] = (tensor.to(device.device, torch.float32) + 0.5).to(torch.float16)
    globals()["kept"] = state, backup
    return device.allocated_bytes


@pytest.mark.parametrize("strategy", ["file-slice", "readinto"])
def test_a_model_that_is_loaded_patched_and_reloaded_is_in_memory_once(
    model: Path, strategy: str
) -> None:
    evict(model)
    found = run_measured(
        load_patch_unload, arguments={"path": str(model), "strategy": strategy, "rounds": 2}
    ).succeeded()
    assert found.result == [MODEL_BYTES, 0, MODEL_BYTES, 0, MODEL_BYTES]
    bound = os.path.getsize(model) + STAGING_BYTES + PATCH_BYTES + SLACK_BYTES
    assert found.peak_over_baseline_bytes <= bound


def test_an_unloaded_model_leaves_no_memory_behind(model: Path) -> None:
    found = run_measured(load_and_unload, arguments={"path": str(model)}).succeeded()
    assert found.result == 0
    assert found.after_bytes - found.baseline_bytes <= SLACK_BYTES


def test_measuring_sees_the_second_copy_of_a_moved_module_with_backups(model: Path) -> None:
    found = run_measured(move_module_and_keep_backups, arguments={"path": str(model)}).succeeded()
    assert found.peak_over_baseline_bytes >= 1.9 * MODEL_BYTES
