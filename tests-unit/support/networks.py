"""Small networks with random weights, and how far two results are apart."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)

SMALL_UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 2],
    "transformer_depth_output": [1, 1, 2, 2],
    "transformer_depth_middle": 1,
    "context_dim": 24,
    "num_heads": 2,
}
"""Blocks with a transformer: input 1 and 3 (two deep), middle, output 0 and 1 (two deep), 2, 3."""


def with_random_weights(network: Network, seed: int = 0) -> Network:
    """Fill all parameters, norms included, so that every one of them counts; returns the network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.1, generator=generator)
    return network.eval()


def relative_difference(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference over the largest value; both must have the same shape."""
    assert got.shape == wanted.shape
    largest = wanted.abs().max()
    assert torch.isfinite(largest)
    assert largest > 0
    return float(((got - wanted).abs().max() / largest).detach())


def called_in_order(network: nn.Module, *args: Any, **kwargs: Any) -> list[str]:
    """Call a network; the names of its layers that hold weights, in the order of their calls."""
    called: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, _args, name=name: called.append(name))
        for name, layer in network.named_modules()
        if next(layer.parameters(recurse=False), None) is not None
    ]
    network(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return called
