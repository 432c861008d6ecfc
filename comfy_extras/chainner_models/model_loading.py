"""Where packs look for the networks of upscale models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from comfy_extras.pictures.upscaling import from_state_dict


def load_state_dict(state_dict: Mapping[str, torch.Tensor]) -> Any:
    """See `comfy_extras.pictures.upscaling.from_state_dict`."""
    return from_state_dict(state_dict, "given by a node")
