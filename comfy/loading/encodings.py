"""The dtypes of the safetensors format, and what torch makes of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch


@dataclass(frozen=True, slots=True)
class Encoding:
    """One of the format's dtypes.

    Attributes:
        name: As headers spell it.
        bits: Of one element.
        torch_dtype: What torch calls it, or ``uint8`` if it has no name for it.
        packing: Elements of the format in one element of torch.
        is_raw: Whether torch gets the bytes only, as ``uint8`` of shape (nbytes,).
    """

    name: str
    bits: int
    torch_dtype: torch.dtype
    packing: int = 1
    is_raw: bool = False

    def torch_form(
        self, shape: tuple[int, ...], nbytes: int
    ) -> tuple[torch.dtype, tuple[int, ...]]:
        """Dtype and shape of the torch tensor for elements in `shape`, `nbytes` in all.

        Packed elements halve the last dimension; where that is odd, safetensors cannot give a
        tensor at all, and here it is the bytes.
        """
        if self.is_raw or (self.packing > 1 and (not shape or shape[-1] % self.packing)):
            return torch.uint8, (nbytes,)
        if self.packing > 1:
            return self.torch_dtype, (*shape[:-1], shape[-1] // self.packing)
        return self.torch_dtype, shape


def _encodings() -> Mapping[str, Encoding]:
    known = (
        Encoding("BOOL", 8, torch.bool),
        Encoding("F4", 4, torch.float4_e2m1fn_x2, packing=2),
        Encoding("F6_E2M3", 6, torch.uint8, is_raw=True),
        Encoding("F6_E3M2", 6, torch.uint8, is_raw=True),
        Encoding("U8", 8, torch.uint8),
        Encoding("I8", 8, torch.int8),
        Encoding("F8_E5M2", 8, torch.float8_e5m2),
        Encoding("F8_E4M3", 8, torch.float8_e4m3fn),
        Encoding("F8_E8M0", 8, torch.float8_e8m0fnu),
        Encoding("F8_E4M3FNUZ", 8, torch.float8_e4m3fnuz),
        Encoding("F8_E5M2FNUZ", 8, torch.float8_e5m2fnuz),
        Encoding("I16", 16, torch.int16),
        Encoding("U16", 16, torch.uint16),
        Encoding("F16", 16, torch.float16),
        Encoding("BF16", 16, torch.bfloat16),
        Encoding("I32", 32, torch.int32),
        Encoding("U32", 32, torch.uint32),
        Encoding("F32", 32, torch.float32),
        Encoding("C64", 64, torch.complex64),
        Encoding("F64", 64, torch.float64),
        Encoding("I64", 64, torch.int64),
        Encoding("U64", 64, torch.uint64),
    )
    return MappingProxyType({encoding.name: encoding for encoding in known})


ENCODINGS = _encodings()
"""The 22 dtypes of the format by the names that headers use."""
