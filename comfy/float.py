"""Rounding to eight-bit floats by chance, so that the mean of many roundings is the value.

Formats: OCP 8-bit floating point specification 1.0, E4M3 and E5M2, with subnormals. The chance is
a hash of the element's index and the seed, so that every device rounds alike.
"""

from __future__ import annotations

import torch

FLOAT8_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2)

# Mantissa bits and exponent of the smallest normal number.
_SHAPES = {torch.float8_e4m3fn: (3, -6), torch.float8_e5m2: (2, -14)}

# Elements rounded at once: bounds the temporaries, which have eight bytes each.
_CHUNK = 1 << 20
_LOW_32_BITS = 0xFFFFFFFF
# Multipliers of the 32-bit mixing function "lowbias32" found by C. Wellons (public domain).
_MIXERS = ((16, 0x7FEB352D), (15, 0x846CA68B))


def stochastic_rounding(value: torch.Tensor, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Round to `dtype`; to an eight-bit one by chance, with expectation equal to the value.

    Args:
        value: Any shape, floating.
        dtype: Of the result; wider than eight bits rounds to nearest, as torch does.
        seed: The same seed and value give the same result.

    Returns:
        Same shape, `dtype`; what is out of range becomes the largest finite number.
    """
    if dtype not in _SHAPES:
        return value.to(dtype=dtype)
    flat = value.reshape(-1)
    rounded = torch.empty(flat.shape, dtype=dtype, device=value.device)
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK].float()
        chance = _chance(start, part.numel(), seed, value.device)
        rounded[start : start + _CHUNK] = _round(part, chance, dtype)
    return rounded.view(value.shape)


def _round(wide: torch.Tensor, chance: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mantissa_bits, min_exponent = _SHAPES[dtype]
    # frexp gives m in [0.5, 1): the exponent of the leading bit is one less.
    exponent = (torch.frexp(wide).exponent - 1).clamp_(min=min_exponent)
    step = torch.ldexp(torch.ones_like(wide), exponent - mantissa_bits)
    limit = torch.finfo(dtype).max
    return (torch.floor(wide / step + chance) * step).clamp_(-limit, limit).to(dtype)


def _chance(start: int, count: int, seed: int, device: torch.device) -> torch.Tensor:
    """Numbers in [0, 1), float32, shape (count,), of the elements from `start`."""
    bits = torch.arange(start, start + count, dtype=torch.int64, device=device)
    bits = bits.mul_(0x9E3779B1).add_(seed & _LOW_32_BITS).bitwise_and_(_LOW_32_BITS)
    for shift, factor in _MIXERS:
        bits = (bits ^ (bits >> shift)).mul_(factor).bitwise_and_(_LOW_32_BITS)
    bits = bits ^ (bits >> 16)
    # A float32 holds 24 bits.
    return (bits >> 8).float().mul_(2.0**-24)
