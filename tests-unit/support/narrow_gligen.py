"""GLIGENs for narrow UNets, with made-up weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

ALPHA = 0.7
_FIRST_ATTENTION = ".attn1.to_q.weight"


def gligen_state(
    unet: Mapping[str, torch.Tensor], text_width: int, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Weights with which boxes count about as much as the rest of the picture.

    Args:
        unet: Its tensors, or the shapes of a UNet's on `meta`, under their original names.
        text_width: Channels of texts' embeddings, and of object tokens.
        seed: Of the values.
    """
    shapes = _position_net(text_width)
    for key, tensor in unet.items():
        if key.endswith(_FIRST_ATTENTION):
            fuser = f"{key.removesuffix(_FIRST_ATTENTION)}.fuser"
            for name, shape in _fuser(tensor.shape[1], text_width):
                shapes[f"{fuser}.{name}"] = shape
    generator = torch.Generator().manual_seed(seed)
    return {key: _values(key, shape, generator) for key, shape in shapes.items()}


def _values(key: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=generator)
    if not shape:
        return torch.full((), ALPHA)
    if len(shape) > 1:
        return values * math.sqrt(2.0 / shape[1])
    is_norm = ".norm" in key and key.endswith("weight")
    return 1.0 + 0.1 * values if is_norm else 0.1 * values


def _layer(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _position_net(width: int, places: int = 64, hidden: int = 48) -> dict[str, tuple[int, ...]]:
    return {
        "position_net.null_positive_feature": (width,),
        "position_net.null_position_feature": (places,),
        **_layer("position_net.linears.0", hidden, width + places),
        **_layer("position_net.linears.2", hidden, hidden),
        **_layer("position_net.linears.4", width, hidden),
    }


def _fuser(width: int, objects: int) -> Iterable[tuple[str, tuple[int, ...]]]:
    shapes: dict[str, tuple[int, ...]] = {"alpha_attn": (), "alpha_dense": ()}
    shapes |= _layer("linear", width, objects)
    for norm in ("norm1", "norm2"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    shapes |= {f"attn.to_{one}.weight": (width, width) for one in "qkv"}
    shapes |= _layer("attn.to_out.0", width, width)
    shapes |= _layer("ff.net.0.proj", 8 * width, width) | _layer("ff.net.2", width, 4 * width)
    return shapes.items()
