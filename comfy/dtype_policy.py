"""DtypePolicy: chooses dtypes for networks from flags, devices and what custom nodes replaced.

The tables and pure choices are in `comfy.dtypes`. Functions and variables that custom nodes may
replace are looked up in the public module that is handed in, at each use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from comfy import devices, dtypes

HALF_FIRST = (torch.float16, torch.bfloat16, torch.float32)
_FP32_BYTES = 4


class DtypePolicy:
    """Answers which dtype is used for what."""

    def __init__(self, face: Any, flags: Any) -> None:
        """Prepare; asks no hardware.

        Args:
            face: The module in which replaceable names are looked up.
            flags: The parsed command line.
        """
        self._face = face
        self._flags = flags

    def _device(self, device: Any) -> torch.device:
        where: torch.device = self._face.get_torch_device() if device is None else device
        return torch.device(where)

    def _is_used(
        self,
        fitness: dtypes.Fitness,
        device: torch.device,
        params: int,
        prioritize_performance: bool,
        manual_cast: bool,
    ) -> bool:
        def is_memory_short() -> bool:
            if not prioritize_performance:
                return True
            most = self._face.maximum_vram_for_weights(device)
            return not manual_cast and params * _FP32_BYTES > most

        return dtypes.is_used(fitness, is_memory_short)

    def should_use_fp16(
        self,
        device: Any = None,
        model_params: int = 0,
        prioritize_performance: bool = True,
        manual_cast: bool = False,
    ) -> bool:
        """Whether to compute in fp16.

        Args:
            device: Where; the run device if None.
            model_params: Number of weights: a slow dtype is used if they do not fit in fp32.
            prioritize_performance: Use a slow one for no other reason.
            manual_cast: Weights are cast in flight, so that the dtype saves no memory for them.
        """
        where = self._device(device)
        if where.type == "cpu" or self._face.FORCE_FP32:
            return False
        if self._flags.force_fp16:
            return True
        fitness = dtypes.facts(where).fp16
        return self._is_used(fitness, where, model_params, prioritize_performance, manual_cast)

    def should_use_bf16(
        self,
        device: Any = None,
        model_params: int = 0,
        prioritize_performance: bool = True,
        manual_cast: bool = False,
    ) -> bool:
        """Whether to compute in bf16; see `should_use_fp16`."""
        where = self._device(device)
        if where.type == "cpu" or self._face.FORCE_FP32:
            return False
        fitness = dtypes.facts(where).bf16
        return self._is_used(fitness, where, model_params, prioritize_performance, manual_cast)

    def _compute_dtype(
        self,
        device: torch.device,
        params: int,
        supported: Iterable[torch.dtype],
        weights: torch.dtype | None,
    ) -> torch.dtype:
        usable = []
        if self._face.should_use_fp16(device, params):
            usable.append(torch.float16)
        is_asked = self._flags.bf16_unet and dtypes.facts(device).bf16 == "fast"
        if is_asked or self._face.should_use_bf16(device, params):
            usable.append(torch.bfloat16)
        preferred = torch.float16 if self._face.PRIORITIZE_FP16 else weights
        return dtypes.compute_dtype(supported, usable, preferred)

    def unet_dtype(
        self,
        device: Any = None,
        model_params: int = 0,
        supported_dtypes: Sequence[torch.dtype] = HALF_FIRST,
        weight_dtype: torch.dtype | None = None,
    ) -> torch.dtype:
        """In which dtype a diffusion model's weights are kept.

        Args:
            device: Where it runs; the run device if None.
            model_params: Number of its weights.
            supported_dtypes: In which it computes rightly, the best first.
            weight_dtype: That of its file.
        """
        named = dtypes.named_by_flag(self._flags, "unet")
        if named is not None:
            return named
        where = self._device(device)
        compute = self._compute_dtype(where, model_params, supported_dtypes, weight_dtype)
        return dtypes.storage_dtype(
            weight_dtype, compute, self._face.supports_cast(where, weight_dtype)
        )

    def unet_manual_cast(
        self,
        weight_dtype: torch.dtype | None,
        inference_device: torch.device,
        supported_dtypes: Sequence[torch.dtype] = HALF_FIRST,
    ) -> torch.dtype | None:
        """To which dtype weights are cast in flight; None if the network computes in theirs."""
        if weight_dtype in (torch.float32, torch.float64):
            return None
        compute = self._compute_dtype(inference_device, 0, supported_dtypes, weight_dtype)
        return None if compute == weight_dtype else compute

    def text_encoder_dtype(self, device: Any = None) -> torch.dtype:
        """In which dtype text encoders' weights are kept."""
        return dtypes.named_by_flag(self._flags, "text_enc") or torch.float16

    def vae_dtype(
        self, device: Any = None, allowed_dtypes: Sequence[torch.dtype] = ()
    ) -> torch.dtype:
        """In which dtype a VAE computes: the first allowed one that the device is good at, or fp32."""
        named = dtypes.named_by_flag(self._flags, "vae")
        if named is not None:
            return named
        can = {
            torch.float16: self._face.should_use_fp16,
            torch.bfloat16: self._face.should_use_bf16,
        }
        good = (dtype for dtype in allowed_dtypes if dtype in can and can[dtype](device))
        return next(good, torch.float32)

    def supports_dtype(self, device: Any, dtype: torch.dtype) -> bool:
        """Whether a device computes in a dtype."""
        return dtypes.supports_dtype(dtypes.facts(self._device(device)), dtype)

    def supports_cast(self, device: Any, dtype: torch.dtype | None) -> bool:
        """Whether a device can hold weights of a dtype and cast them in flight."""
        return dtype is None or dtypes.supports_cast(dtypes.facts(self._device(device)), dtype)

    def pick_weight_dtype(
        self, dtype: torch.dtype | None, fallback_dtype: torch.dtype, device: Any = None
    ) -> torch.dtype:
        """The wanted dtype, or the fallback if none is wanted, it is larger, or the device has it not."""
        if dtype is None or dtype.itemsize > fallback_dtype.itemsize:
            return fallback_dtype
        return dtype if self._face.supports_cast(device, dtype) else fallback_dtype

    def supports_fp8_compute(self, device: Any = None) -> bool:
        """Whether a device multiplies fp8 matrices."""
        return self._flags.supports_fp8_compute or dtypes.supports_fp8_compute(
            dtypes.facts(self._device(device))
        )

    def supports_nvfp4_compute(self, device: Any = None) -> bool:
        """Whether a device multiplies nvfp4 matrices."""
        return dtypes.supports_nvfp4_compute(dtypes.facts(self._device(device)))

    def lora_compute_dtype(self, device: Any = None) -> torch.dtype:
        """In which dtype patches of streamed weights are computed."""
        return torch.float16 if self._face.should_use_fp16(device) else torch.float32

    def extended_fp16_support(self) -> bool:
        """Whether torch can accumulate fp16 products in fp16."""
        return hasattr(torch.backends.cuda.matmul, "allow_fp16_accumulation")

    def force_upcast_attention_dtype(self) -> dict[torch.dtype, torch.dtype] | None:
        """In what attention computes instead of its inputs' dtype; None if in that."""
        return dtypes.upcast_attention(self._flags, devices.kind(self._face.get_torch_device()))

    def force_channels_last(self) -> bool:
        """Whether ``--force-channels-last`` is given."""
        return bool(self._flags.force_channels_last)
