"""Rounding to eight-bit floats by chance, so that the mean of many roundings is the value.

Formats: OCP 8-bit floating point specification 1.0, E4M3 and E5M2, with subnormals.
"""

from __future__ import annotations

import torch

FLOAT8_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2)

# Mantissa bits and exponent of the smallest normal number.
_SHAPES = {torch.float8_e4m3fn: (3, -6), torch.float8_e5m2: (2, -14)}


def stochastic_rounding(value: torch.Tensor, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Round to `dtype`; to an eight-bit one by chance, with expectation equal to the value.

    Args:
        value: Any shape, floating.
        dtype: Of the result; wider than eight bits rounds to nearest, as torch does.
        seed: The same seed, value and device give the same result.

    Returns:
        Same shape, `dtype`; what is out of range becomes the largest finite number.
    """
    if dtype not in _SHAPES:
        return value.to(dtype=dtype)
    mantissa_bits, min_exponent = _SHAPES[dtype]
    wide = value.float()
    generator = torch.Generator(device=value.device)
    generator.manual_seed(seed)
    chance = torch.rand(wide.shape, generator=generator, device=value.device)
    # frexp gives m in [0.5, 1): the exponent of the leading bit is one less.
    exponent = (torch.frexp(wide).exponent - 1).clamp_(min=min_exponent)
    step = torch.ldexp(torch.ones_like(wide), exponent - mantissa_bits)
    limit = torch.finfo(dtype).max
    rounded = torch.floor(wide / step + chance) * step
    return rounded.clamp_(-limit, limit).to(dtype)
