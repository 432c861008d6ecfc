"""Control nets for narrow checkpoints, with made-up weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from comfy.cldm.cldm import ControlNet
from support.narrow import NARROW_SD15

HINT_WIDTHS = (4, 8, 8, 16)
_OUTPUT_SIDE = ("out_channels", "transformer_depth_output")


def control_net(numbers: Mapping[str, Any] = NARROW_SD15, hint_channels: int = 3) -> ControlNet:
    """A control net for a UNet with these numbers, on `meta`."""
    given = {key: value for key, value in numbers.items() if key not in _OUTPUT_SIDE}
    heads = {"num_head_channels": 32, "num_heads": -1}
    return ControlNet(
        **{**given, **heads}, hint_channels=hint_channels, hint_widths=HINT_WIDTHS, device="meta"
    )


def control_state(
    numbers: Mapping[str, Any] = NARROW_SD15, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Weights that let the hint through, down to residuals of the size of a UNet's features."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, tensor in control_net(numbers).state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            state[key] = values * (2.0 / tensor[0].numel()) ** 0.5
        elif key.endswith("weight"):
            state[key] = torch.ones_like(values)
        else:
            state[key] = 0.1 * values
    return state
