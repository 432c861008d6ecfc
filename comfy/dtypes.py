"""Which dtype for what: tables of what devices compute well, and pure choices from them.

A network has two dtypes: that in which its weights are *kept* and that in which it *computes*.
Weights that are smaller than the compute dtype are kept as they are, and cast in flight.
`comfy.model_management` is the public face.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from comfy.devices import Kind, kind

Fitness = Literal["fast", "works", "none"]
"""fast: worth computing in. works: right results, but slow. none: wrong results, or not at all."""

FLOAT8_TYPES: list[torch.dtype] = [
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
    if hasattr(torch, name)
]
FLOAT8_TYPES += [torch.float8_e8m0fnu] if hasattr(torch, "float8_e8m0fnu") else []

# From each capability on: fp16, bf16. Half rates are from NVIDIA's arithmetic throughput table.
_CUDA: tuple[tuple[tuple[int, int], Fitness, Fitness], ...] = (
    ((8, 0), "fast", "fast"),
    ((7, 0), "fast", "works"),
    ((6, 2), "fast", "none"),
    ((6, 1), "works", "none"),
    ((5, 3), "fast", "none"),
)
# The TU11x chips return NaN in fp16, and share their capability with chips that do not.
_CUDA_BROKEN_FP16 = ("GTX 16", "T500", "T550", "T600", "MX550", "MX450", "CMP 30HX", "T2000")
_FP8_COMPUTE_FROM = (8, 9)
_NVFP4_COMPUTE_FROM = (10, 0)

_HIP_FAST_BF16 = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")

_OTHERS: dict[Kind, tuple[Fitness, Fitness]] = {
    "xpu": ("fast", "fast"),
    "mps": ("fast", "none"),
    "npu": ("fast", "fast"),
    "mlu": ("fast", "works"),
    "directml": ("fast", "none"),
    # A convolution in half precision took 80 to 95 times as long as in fp32 (AVX2, 2026-11).
    "cpu": ("none", "none"),
    # Nobody told what it computes well; fp32 is right everywhere.
    "other": ("none", "none"),
}


@dataclass(frozen=True, slots=True)
class DtypeFacts:
    """What a device computes.

    Attributes:
        kind: Who serves it.
        fp16: How well it computes in fp16.
        bf16: How well it computes in bf16.
        capability: CUDA's, else None.
    """

    kind: Kind
    fp16: Fitness = "none"
    bf16: Fitness = "none"
    capability: tuple[int, int] | None = None


def cuda_facts(capability: tuple[int, int], name: str) -> DtypeFacts:
    """Tell what an NVIDIA device computes.

    Args:
        capability: Its compute capability.
        name: As its driver calls it.
    """
    found = next((row[1:] for row in _CUDA if capability >= row[0]), ("none", "none"))
    fp16, bf16 = found
    if capability == (7, 5) and any(word in name for word in _CUDA_BROKEN_FP16):
        fp16 = "none"
    return DtypeFacts("cuda", fp16, bf16, capability)


def hip_facts(architecture: str) -> DtypeFacts:
    """Tell what an AMD device of an architecture such as "gfx1100" computes."""
    is_fast = architecture.startswith(_HIP_FAST_BF16)
    return DtypeFacts("hip", "fast", "fast" if is_fast else "works")


def cpu_facts(has_amx: bool, has_avx512_bf16: bool) -> DtypeFacts:
    """Tell what a CPU computes; bf16 is worth it only where there are instructions for it."""
    return DtypeFacts("cpu", "none", "fast" if has_amx or has_avx512_bf16 else "none")


@functools.cache
def facts(device: torch.device) -> DtypeFacts:
    """Ask the driver what a device computes, once."""
    who = kind(device)
    if who == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return cuda_facts((properties.major, properties.minor), properties.name)
    if who == "hip":
        return hip_facts(str(torch.cuda.get_device_properties(device).gcnArchName))
    if who == "cpu":
        cpu: Any = torch.cpu
        return cpu_facts(
            _says(cpu, "_is_amx_tile_supported"), _says(cpu, "_is_avx512_bf16_supported")
        )
    fp16, bf16 = _OTHERS[who]
    if who == "mps" and _macos() >= (14, 0):
        bf16 = "fast"
    return DtypeFacts(who, fp16, bf16)


def _says(module: Any, name: str) -> bool:
    ask = getattr(module, name, None)
    return ask is not None and bool(ask())


def _macos() -> tuple[int, ...]:
    version = platform.mac_ver()[0]
    return tuple(int(part) for part in version.split(".")[:2]) if version else (0, 0)


def is_used(fitness: Fitness, is_memory_short: Callable[[], bool]) -> bool:
    """Whether to compute in a dtype: if it is fast, or works and saves memory that is short."""
    return fitness == "fast" or (fitness == "works" and is_memory_short())


def supports_dtype(known: DtypeFacts, dtype: torch.dtype) -> bool:
    """Whether a device computes in a dtype."""
    if dtype == torch.float32:
        return True
    levels = {torch.float16: known.fp16, torch.bfloat16: known.bf16}
    return levels.get(dtype, "none") != "none"


def supports_cast(known: DtypeFacts, dtype: torch.dtype) -> bool:
    """Whether a device can hold weights of a dtype and cast them in flight."""
    if dtype in (torch.float32, torch.float16):
        return True
    if known.kind == "directml":
        return False
    if dtype == torch.bfloat16:
        return True
    return dtype in FLOAT8_TYPES and known.kind != "mps"


def supports_fp8_compute(known: DtypeFacts) -> bool:
    """Whether a device multiplies fp8 matrices."""
    return known.capability is not None and known.capability >= _FP8_COMPUTE_FROM


def supports_nvfp4_compute(known: DtypeFacts) -> bool:
    """Whether a device multiplies nvfp4 matrices."""
    return known.capability is not None and known.capability >= _NVFP4_COMPUTE_FROM


def compute_dtype(
    supported: Iterable[torch.dtype],
    usable: Iterable[torch.dtype],
    preferred: torch.dtype | None = None,
) -> torch.dtype:
    """Choose what a network computes in.

    Args:
        supported: Dtypes in which the network's results are right, the best first.
        usable: Dtypes below fp32 in which the device is worth using.
        preferred: That of the weights: taken if it can be, since it needs no cast.

    Returns:
        One of them; fp32 if none fits.
    """
    choices = list(supported)
    order = [preferred, *choices] if preferred in choices else choices
    can = set(usable)
    return next((dtype for dtype in order if dtype in can), torch.float32)


def storage_dtype(
    weights: torch.dtype | None, compute: torch.dtype, can_cast: bool = True
) -> torch.dtype:
    """Choose what weights are kept in: their own dtype if that is the smaller one.

    Args:
        weights: That of the file; None if unknown.
        compute: That in which the network computes.
        can_cast: Whether the device casts from the weights' dtype.
    """
    if weights is None or not can_cast:
        return compute
    return weights if weights.itemsize < compute.itemsize else compute


def named_by_flag(flags: Any, suffix: str) -> torch.dtype | None:
    """Read a dtype from flags such as ``--bf16-unet``.

    Args:
        flags: The parsed command line.
        suffix: "unet", "vae" or "text_enc".

    Returns:
        The dtype, or None if no such flag is given.
    """
    names = {
        "fp64": "float64",
        "fp32": "float32",
        "fp16": "float16",
        "bf16": "bfloat16",
        "fp8_e4m3fn": "float8_e4m3fn",
        "fp8_e5m2": "float8_e5m2",
        "fp8_e8m0fnu": "float8_e8m0fnu",
    }
    for short, name in names.items():
        if getattr(flags, f"{short}_{suffix}", False):
            dtype: torch.dtype = getattr(torch, name)
            return dtype
    return None


def upcast_attention(
    flags: Any, device_kind: Kind, macos: tuple[int, ...] | None = None
) -> dict[torch.dtype, torch.dtype] | None:
    """Tell in what attention computes instead of its inputs' dtype; None if in that.

    Args:
        flags: The parsed command line.
        device_kind: Of the run device.
        macos: Version of the system; asked if None.
    """
    version = _macos() if macos is None else macos
    # From macOS 14.5 on attention in fp16 gives black pictures.
    is_needed = device_kind == "mps" and version >= (14, 5) and not flags.dont_upcast_attention
    if flags.force_upcast_attention or is_needed:
        return {torch.float16: torch.float32}
    return None
