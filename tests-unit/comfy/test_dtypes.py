"""Which dtype for what: the tables, and what follows from flags and weights."""

from __future__ import annotations

import pytest
import torch

import comfy.model_management as management
from comfy import dtypes
from comfy.dtypes import DtypeFacts

CPU = torch.device("cpu")
FP16, BF16, FP32 = torch.float16, torch.bfloat16, torch.float32
FP8 = torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("capability", "name", "fp16", "bf16"),
    [
        ((12, 1), "NVIDIA GB10", "fast", "fast"),
        ((8, 6), "RTX 3060", "fast", "fast"),
        ((7, 5), "RTX 2060", "fast", "works"),
        ((7, 5), "GeForce GTX 1660 Ti", "none", "works"),
        ((6, 1), "GTX 1080", "works", "none"),
        ((6, 0), "Tesla P100", "fast", "none"),
        ((5, 2), "GTX 980", "none", "none"),
    ],
)
def test_cuda_by_capability(capability: tuple[int, int], name: str, fp16: str, bf16: str) -> None:
    known = dtypes.cuda_facts(capability, name)
    assert (known.fp16, known.bf16) == (fp16, bf16)


@pytest.mark.parametrize(("architecture", "bf16"), [("gfx1100", "fast"), ("gfx1030", "works")])
def test_hip_by_architecture(architecture: str, bf16: str) -> None:
    assert dtypes.hip_facts(architecture).bf16 == bf16


@pytest.mark.parametrize(
    ("capability", "fp8", "nvfp4"), [((8, 6), 0, 0), ((8, 9), 1, 0), ((10, 0), 1, 1)]
)
def test_small_formats_by_capability(capability: tuple[int, int], fp8: bool, nvfp4: bool) -> None:
    known = dtypes.cuda_facts(capability, "")
    assert dtypes.supports_fp8_compute(known) is bool(fp8)
    assert dtypes.supports_nvfp4_compute(known) is bool(nvfp4)


@pytest.mark.parametrize(
    ("fitness", "short", "used"),
    [("fast", False, True), ("works", False, False), ("works", True, True), ("none", True, False)],
)
def test_a_slow_dtype_is_used_only_if_memory_is_short(
    fitness: dtypes.Fitness, short: bool, used: bool
) -> None:
    assert dtypes.is_used(fitness, lambda: short) is used


@pytest.mark.parametrize(
    ("supported", "usable", "preferred", "chosen"),
    [
        ([FP16, BF16, FP32], [FP16, BF16], None, FP16),
        ([FP16, BF16, FP32], [FP16, BF16], BF16, BF16),
        ([BF16, FP32], [FP16], FP16, FP32),
        ([FP16, FP32], [], FP16, FP32),
    ],
)
def test_compute_dtype(
    supported: list[torch.dtype],
    usable: list[torch.dtype],
    preferred: torch.dtype | None,
    chosen: torch.dtype,
) -> None:
    assert dtypes.compute_dtype(supported, usable, preferred) == chosen


@pytest.mark.parametrize(
    ("weights", "compute", "kept"),
    [
        (None, FP16, FP16),
        (FP32, FP16, FP16),
        (FP16, FP32, FP16),
        (FP16, BF16, BF16),
        (FP8, FP16, FP8),
    ],
)
def test_the_smaller_dtype_is_kept(
    weights: torch.dtype | None, compute: torch.dtype, kept: torch.dtype
) -> None:
    assert dtypes.storage_dtype(weights, compute) == kept


def test_weights_that_the_device_cannot_cast_are_cast_once() -> None:
    assert dtypes.storage_dtype(FP8, FP16, can_cast=False) == FP16
    assert not dtypes.supports_cast(DtypeFacts("mps"), FP8)


@pytest.mark.parametrize("weights", [FP16, BF16, FP8])
def test_the_cpu_keeps_small_weights_and_computes_in_fp32(weights: torch.dtype) -> None:
    assert management.unet_dtype(CPU, weight_dtype=weights) == weights
    assert management.unet_manual_cast(weights, CPU) == FP32
    assert management.vae_dtype(CPU, [BF16, FP32]) == FP32


def test_fp32_weights_need_no_cast() -> None:
    assert management.unet_dtype(CPU, weight_dtype=FP32) == FP32
    assert management.unet_manual_cast(FP32, CPU) is None


@pytest.mark.parametrize(("has_amx", "cast"), [(True, None), (False, FP32)])
def test_bf16_on_the_cpu_is_for_those_who_ask_and_have_instructions(
    monkeypatch: pytest.MonkeyPatch, has_amx: bool, cast: torch.dtype | None
) -> None:
    monkeypatch.setattr(dtypes, "facts", lambda device: dtypes.cpu_facts(has_amx, False))
    assert management.unet_manual_cast(BF16, CPU) == FP32
    monkeypatch.setattr(management.args, "bf16_unet", True)
    assert management.unet_dtype(CPU) == BF16
    assert management.unet_manual_cast(BF16, CPU) == cast


@pytest.mark.parametrize(
    ("flag", "ask", "dtype"),
    [
        ("fp8_e4m3fn_unet", lambda: management.unet_dtype(CPU), FP8),
        ("fp16_vae", lambda: management.vae_dtype(CPU), FP16),
        ("fp32_text_enc", lambda: management.text_encoder_dtype(CPU), FP32),
    ],
)
def test_flags_name_dtypes(monkeypatch: pytest.MonkeyPatch, flag: str, ask, dtype) -> None:
    assert ask() != dtype
    monkeypatch.setattr(management.args, flag, True)
    assert ask() == dtype


@pytest.mark.parametrize(
    ("dtype", "picked"), [(None, FP16), (FP32, FP16), (FP8, FP8), (torch.float64, FP16)]
)
def test_a_weight_dtype_is_never_larger_than_the_fallback(
    dtype: torch.dtype | None, picked: torch.dtype
) -> None:
    assert management.pick_weight_dtype(dtype, FP16, CPU) == picked


@pytest.mark.parametrize(
    ("kind", "macos", "dtype"),
    [("mps", (14, 5), FP32), ("mps", (14, 4), None), ("cuda", (0, 0), None)],
)
def test_attention_is_upcast_where_fp16_fails(
    kind: dtypes.Kind, macos: tuple[int, int], dtype: torch.dtype | None
) -> None:
    told = dtypes.upcast_attention(management.args, kind, macos)
    assert told == (None if dtype is None else {FP16: dtype})
