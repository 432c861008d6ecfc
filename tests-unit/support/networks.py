"""Small networks with random weights, and how far two results are apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from comfy.ldm.modules.diffusionmodules.util import norm_groups

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
    """Fill all parameters, norms included, so that every one of them counts; returns the network.

    Norms of other libraries get the groups that a narrow network has here.
    """
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = norm_groups(layer.num_channels)
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


def gradient_difference(got: nn.Module, wanted: Mapping[str, torch.Tensor]) -> float:
    """The largest relative difference of a parameter's gradient.

    What is below a millionth of the largest gradient of all is rounding only: so are those of
    biases before a norm over one channel each, which are zero.

    Args:
        got: Has gradients.
        wanted: Gradients by the names of its parameters.
    """
    gradients = {name: parameter.grad for name, parameter in got.named_parameters()}
    assert gradients.keys() == wanted.keys()
    floor = 1e-6 * max(float(gradient.abs().max()) for gradient in wanted.values())
    differences = []
    for name, gradient in gradients.items():
        assert gradient is not None, name
        largest = max(floor, float(wanted[name].abs().max()))
        differences.append(float((gradient - wanted[name]).abs().max()) / largest)
    return max(differences)


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
