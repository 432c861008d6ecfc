"""A network small enough to be computed in no time, whose weights are in a file of its own.

Each weight of its layers is large enough to be streamed; sizes and values are the same every time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import comfy.ops
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.model_patcher import ModelPatcher
from support.raw_files import write_safetensors
from support.simulated_device import install

WIDTH = 160
BLOCKS = 5
DEVICE = install()[0].device
CPU = torch.device("cpu")


class Network(torch.nn.Module):
    """Linear layers in a row, with a norm that is too small to be streamed.

    Attributes:
        calls: The names of the layers, in the order in which they ran.
    """

    def __init__(self, operations: Any = comfy.ops.disable_weight_init) -> None:
        super().__init__()
        meta = {"device": "meta"}
        self.embed = operations.Linear(WIDTH, WIDTH, **meta)
        self.blocks = torch.nn.ModuleList(
            operations.Linear(WIDTH, WIDTH, bias=index % 2 == 0, **meta) for index in range(BLOCKS)
        )
        self.norm = operations.LayerNorm(WIDTH, **meta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (n, WIDTH) to the same."""
        x = self.embed(x)
        for block in self.blocks:
            x = x + functional.silu(block(x))
        result: torch.Tensor = self.norm(x)
        return result


class Checkpoint:
    """A file with the weights of a `Network`, opened anew for each model.

    Attributes:
        values: What is in the file.
        nbytes: Of all weights.
    """

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(7)
        self.path = path
        self.values = {
            key: (torch.randn(like.shape, generator=generator) / 12).to(dtype)
            for key, like in Network().state_dict().items()
        }
        write_safetensors(path, self.values)
        self.nbytes = sum(value.nbytes for value in self.values.values())
        self._loader = Loader(LoadOptions(staging_bytes=1 << 20), run_device="cpu")
        self._file: Any = None

    def state(self, strategy: str = "file-slice") -> dict[str, torch.Tensor]:
        """Open the file as a strategy does."""
        options = LoadOptions(strategy=strategy, staging_bytes=1 << 20)
        return self._loader.open(
            LoadRequest(path=str(self.path), device=None), options=options
        ).state_dict

    def network(
        self, strategy: str = "file-slice", operations: Any = comfy.ops.disable_weight_init
    ) -> Network:
        """Build a network whose parameters are as the strategy holds them."""
        network = Network(operations)
        state = self.state(strategy)
        network.load_state_dict(state, assign=True)
        return network

    def patcher(
        self, network: Network | None = None, device: torch.device = DEVICE
    ) -> ModelPatcher:
        """Wrap a network, a new one if None is given."""
        return ModelPatcher(self.network() if network is None else network, device, CPU)

    def expected(self, device: torch.device = DEVICE, **changed: torch.Tensor) -> torch.Tensor:
        """What a network computes whose weights never were in a file; see `run`.

        Args:
            device: Where; kernels of different devices round differently.
            changed: Other values of weights, by name with "__" for ".".
        """
        network = Network()
        values = {**self.values, **{k.replace("__", "."): v for k, v in changed.items()}}
        moved = {key: value.to(device, copy=True) for key, value in values.items()}
        network.load_state_dict(moved, assign=True)
        return run(network, device)


def an_input() -> torch.Tensor:
    """Three rows, the same every time."""
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(3))


def run(network: torch.nn.Module, device: torch.device = DEVICE) -> torch.Tensor:
    """Compute on a device, and bring the result back."""
    with torch.inference_mode():
        result: torch.Tensor = network(an_input().to(device)).cpu()
    return result


def assert_values(network: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    """Compare all weights of a network, wherever they are, bit by bit."""
    state = network.state_dict()
    assert state.keys() == values.keys()
    for key, value in values.items():
        assert torch.equal(state[key].cpu().clone(), value), key
