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


# Name, bits, torch's name, elements of the format in one of torch's.
_KNOWN = (
    ("BOOL", 8, "bool", 1),
    ("F4", 4, "float4_e2m1fn_x2", 2),
    ("F6_E2M3", 6, "", 1),
    ("F6_E3M2", 6, "", 1),
    ("U8", 8, "uint8", 1),
    ("I8", 8, "int8", 1),
    ("F8_E5M2", 8, "float8_e5m2", 1),
    ("F8_E4M3", 8, "float8_e4m3fn", 1),
    ("F8_E8M0", 8, "float8_e8m0fnu", 1),
    ("F8_E4M3FNUZ", 8, "float8_e4m3fnuz", 1),
    ("F8_E5M2FNUZ", 8, "float8_e5m2fnuz", 1),
    ("I16", 16, "int16", 1),
    ("U16", 16, "uint16", 1),
    ("F16", 16, "float16", 1),
    ("BF16", 16, "bfloat16", 1),
    ("I32", 32, "int32", 1),
    ("U32", 32, "uint32", 1),
    ("F32", 32, "float32", 1),
    ("C64", 64, "complex64", 1),
    ("F64", 64, "float64", 1),
    ("I64", 64, "int64", 1),
    ("U64", 64, "uint64", 1),
)


def _encoding(name: str, bits: int, torch_name: str, packing: int) -> Encoding:
    # An older torch lacks the newest dtypes; it gets their bytes.
    dtype = getattr(torch, torch_name, None) if torch_name else None
    if dtype is None:
        return Encoding(name, bits, torch.uint8, is_raw=True)
    return Encoding(name, bits, dtype, packing)


ENCODINGS: Mapping[str, Encoding] = MappingProxyType({row[0]: _encoding(*row) for row in _KNOWN})
"""The 22 dtypes of the format by the names that headers use."""
