"""What custom nodes import as `comfy.model_management`: devices, memory, dtypes, loaded models.

Every function and variable here may be replaced by a custom node; our own code therefore calls
``comfy.model_management.name(...)`` and reads variables through the module. Choices are made in
`devices`, `dtypes`, `device_memory` and `admission`. Nothing is asked of hardware at import:
variables that need a probe are answered by `__getattr__` until somebody assigns them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

import comfy.loading
from comfy import admission, casting, device_memory, devices
from comfy.attention_choice import AttentionChoice, has_xformers, uses_pytorch
from comfy.casting import cast_to as cast_to
from comfy.casting import current_stream as current_stream
from comfy.casting import sync_stream as sync_stream
from comfy.cli_args import PerformanceFeature, args
from comfy.device_memory import dtype_size as dtype_size
from comfy.device_memory import module_size as module_size
from comfy.devices import CPUState, VRAMState
from comfy.devices import get_autocast_device as get_autocast_device
from comfy.devices import is_device_cpu as is_device_cpu
from comfy.devices import is_device_cuda as is_device_cuda
from comfy.devices import is_device_mps as is_device_mps
from comfy.devices import is_device_type as is_device_type
from comfy.devices import is_device_xpu as is_device_xpu
from comfy.dtype_policy import HALF_FIRST, DtypePolicy
from comfy.dtypes import FLOAT8_TYPES as FLOAT8_TYPES
from comfy.interrupts import InterruptProcessingException as InterruptProcessingException
from comfy.interrupts import interrupt_current_processing as interrupt_current_processing
from comfy.interrupts import interrupt_processing_mutex as interrupt_processing_mutex
from comfy.interrupts import processing_interrupted as processing_interrupted
from comfy.interrupts import (
    throw_exception_if_processing_interrupted as throw_exception_if_processing_interrupted,
)
from comfy.loaded_models import LoadedModel
from comfy.loading.hardware import default_device
from comfy.loading.rings import with_index
from comfy.model_loading import ModelLoading
from comfy.placement import Placement

# Read through the module, so that what a custom node assigned is seen.
_HERE: Any = sys.modules[__name__]

OOM_EXCEPTION = torch.OutOfMemoryError
"""Raised by devices that are full, and by `comfy.loading` when a weight finds no room."""

torch_version = torch.version.__version__
current_loaded_models: list[LoadedModel] = []
"""Most recently used first."""

lowvram_available = True


def __getattr__(name: str) -> Any:
    """Answer a variable that nobody has assigned: from flags, or by asking the hardware."""
    if name not in _ANSWERS:
        raise AttributeError(f"module 'comfy.model_management' has no attribute {name!r}")
    return _ANSWERS[name]()


# -- devices ---------------------------------------------------------------------------------------

_set_device: torch.device | None = None


def set_run_device(device: torch.device | str | None) -> None:
    """Set where networks run, for library users and tests; `comfy.loading` plans for it, too.

    Args:
        device: Takes precedence over all flags. None: choose by flags and hardware again.
    """
    global _set_device  # noqa: PLW0603 - one choice per process, made on purpose
    _set_device = None if device is None else with_index(torch.device(device))
    loader = comfy.loading.default_loader()
    loader.run_device = default_device() if _set_device is None else _set_device


def _run_device() -> torch.device:
    loader = comfy.loading.default_loader()
    chosen = _set_device
    if chosen is None:
        chosen = devices.choose(args, lambda: loader.run_device)
    if loader.run_device != chosen:
        loader.run_device = chosen
    return chosen


def get_torch_device() -> torch.device:
    """The device on which networks run; the CPU where there is no other."""
    assigned = vars(_HERE).get("cpu_state")
    if assigned in (CPUState.CPU, CPUState.MPS):
        return torch.device(assigned.name.lower())
    return _run_device()


def _device(device: Any) -> torch.device:
    return get_torch_device() if device is None else torch.device(device)


def get_torch_device_name(device: torch.device) -> str:
    """Describe a device for people."""
    return devices.device_name(_device(device))


def is_nvidia() -> bool:
    """Whether networks run on CUDA."""
    return devices.kind(get_torch_device()) == "cuda"


def is_amd() -> bool:
    """Whether networks run on HIP."""
    return devices.kind(get_torch_device()) == "hip"


def is_intel_xpu() -> bool:
    """Whether networks run on Intel's GPU."""
    return devices.kind(get_torch_device()) == "xpu"


def is_ascend_npu() -> bool:
    """Whether networks run on an Ascend NPU."""
    return devices.kind(get_torch_device()) == "npu"


def is_mlu() -> bool:
    """Whether networks run on a Cambricon MLU."""
    return devices.kind(get_torch_device()) == "mlu"


def is_directml_enabled() -> bool:
    """Whether ``--directml`` is given."""
    return bool(_HERE.directml_enabled)


def cpu_mode() -> bool:
    """Whether networks run on the CPU."""
    return bool(_HERE.cpu_state == CPUState.CPU)


def mps_mode() -> bool:
    """Whether networks run on Apple's GPU."""
    return bool(_HERE.cpu_state == CPUState.MPS)


# -- memory ----------------------------------------------------------------------------------------


def get_total_memory(dev: Any = None, torch_total_too: bool = False) -> Any:
    """Memory of a device in bytes, a container's limit counted; with the flag also torch's part."""
    device = _device(dev)
    total = device_memory.pool(device).total
    return (total, device_memory.held_by_allocator(device)) if torch_total_too else total


def get_free_memory(dev: Any = None, torch_free_too: bool = False) -> Any:
    """What can be allocated on a device now, in bytes.

    Args:
        dev: Which; the run device if None.
        torch_free_too: Also tell how much of it torch's allocator already holds.
    """
    device = _device(dev)
    free = device_memory.pool(device).free
    return (free, device_memory.unused_by_allocator(device)) if torch_free_too else free


def soft_empty_cache(force: bool = False) -> None:
    """Give unused device memory back to the driver."""
    device_memory.empty_cache(get_torch_device())


def extra_reserved_memory() -> int:
    """Device memory left to other programs, in bytes."""
    return int(_HERE.EXTRA_RESERVED_VRAM)


def minimum_inference_memory() -> int:
    """What a forward pass is taken to need if nobody estimates it, in bytes."""
    return device_memory.minimum_inference(extra_reserved_memory())


def maximum_vram_for_weights(device: Any = None) -> int:
    """The most bytes of weights that a device holds while it computes."""
    return max(0, int(get_total_memory(device)) - minimum_inference_memory())


def debug_memory_summary() -> str:
    """Describe the run device's memory for a log."""
    return device_memory.summary(get_torch_device())


# -- which device for what -------------------------------------------------------------------------

_placement = Placement(_HERE, args)
unet_offload_device = _placement.unet_offload_device
unet_inital_load_device = _placement.unet_inital_load_device
text_encoder_device = _placement.text_encoder_device
text_encoder_offload_device = _placement.text_encoder_offload_device
text_encoder_initial_device = _placement.text_encoder_initial_device
intermediate_device = _placement.intermediate_device
vae_device = _placement.vae_device
vae_offload_device = _placement.vae_offload_device


# -- which dtype for what --------------------------------------------------------------------------

_dtypes = DtypePolicy(_HERE, args)
should_use_fp16 = _dtypes.should_use_fp16
should_use_bf16 = _dtypes.should_use_bf16
unet_manual_cast = _dtypes.unet_manual_cast
text_encoder_dtype = _dtypes.text_encoder_dtype
vae_dtype = _dtypes.vae_dtype
supports_dtype = _dtypes.supports_dtype
supports_cast = _dtypes.supports_cast
pick_weight_dtype = _dtypes.pick_weight_dtype
supports_fp8_compute = _dtypes.supports_fp8_compute
supports_nvfp4_compute = _dtypes.supports_nvfp4_compute
lora_compute_dtype = _dtypes.lora_compute_dtype
extended_fp16_support = _dtypes.extended_fp16_support
force_upcast_attention_dtype = _dtypes.force_upcast_attention_dtype
force_channels_last = _dtypes.force_channels_last


def unet_dtype(
    device: Any = None,
    model_params: int = 0,
    supported_dtypes: Sequence[torch.dtype] = HALF_FIRST,
    weight_dtype: torch.dtype | None = None,
) -> torch.dtype:
    """In which dtype a diffusion model's weights are kept; see `DtypePolicy.unet_dtype`."""
    return _dtypes.unet_dtype(device, model_params, supported_dtypes, weight_dtype)


# -- attention -------------------------------------------------------------------------------------

_attention = AttentionChoice(_HERE, args)
sage_attention_enabled = _attention.sage_attention_enabled
flash_attention_enabled = _attention.flash_attention_enabled
xformers_enabled = _attention.xformers_enabled
xformers_enabled_vae = _attention.xformers_enabled_vae
pytorch_attention_enabled = _attention.pytorch_attention_enabled
pytorch_attention_enabled_vae = _attention.pytorch_attention_enabled_vae
pytorch_attention_flash_attention = _attention.pytorch_attention_flash_attention


# -- single tensors --------------------------------------------------------------------------------


def device_supports_non_blocking(device: Any) -> bool:
    """Whether copies to a device may be left running."""
    return casting.supports_non_blocking(device, args.force_non_blocking, args.deterministic)


def cast_to_device(
    tensor: torch.Tensor, device: Any, dtype: torch.dtype | None, copy: bool = False
) -> torch.Tensor:
    """Give a tensor a device and a dtype; what is still in its file is read straight to there."""
    non_blocking = device_supports_non_blocking(device)
    return tensor.to(device, dtype or tensor.dtype, non_blocking=non_blocking, copy=copy)


def get_offload_stream(device: Any) -> Any:
    """A stream for copies that overlap computing; None where the device has none."""
    return casting.STREAMS.next(torch.device(device), _HERE.NUM_STREAMS)


def pin_memory(tensor: torch.Tensor) -> bool:
    """Page-lock a host tensor for the run device; False if it is not locked by this call."""
    if args.disable_pinned_memory:
        return False
    return casting.PINNED.pin(tensor, get_torch_device())


def unpin_memory(tensor: torch.Tensor) -> bool:
    """Undo `pin_memory`; False if it did not lock this tensor."""
    return casting.PINNED.unpin(tensor)


# -- models ----------------------------------------------------------------------------------------

_loading = ModelLoading(_HERE, args)


def load_models_gpu(
    models: Iterable[Any],
    memory_required: float = 0,
    force_patch_weights: bool = False,
    minimum_memory_required: float | None = None,
    force_full_load: bool = False,
) -> None:
    """Bring models, and those that their patches need, to their load devices; others give way.

    Args:
        models: Patchers; loaded ones and duplicates cost nothing, clones replace each other.
        memory_required: Estimate of a forward pass's activations, in bytes.
        force_patch_weights: Apply patches to weights that stay in their file, too.
        minimum_memory_required: The same of the smallest useful forward pass.
        force_full_load: Load all weights or none; else what does not fit is fetched when needed.

    Raises:
        NotEnoughMemory: Before the first byte is read if it cannot run at all; otherwise if the
            device is full after all other models gave way and a second try. Nothing of the model
            that failed stays on its device.
    """
    _loading.load(
        models, memory_required, minimum_memory_required, force_patch_weights, force_full_load
    )


def load_model_gpu(model: Any) -> None:
    """Bring one model to its load device."""
    load_models_gpu([model])


def free_memory(
    memory_required: float, device: torch.device, keep_loaded: Sequence[LoadedModel] = ()
) -> list[LoadedModel]:
    """Unload models, least recently used first, until a device has that much free.

    Args:
        memory_required: Bytes.
        device: Which; models on others count where the memory is one.
        keep_loaded: These stay.

    Returns:
        What was unloaded entirely.
    """
    return _loading.free(memory_required, device, keep_loaded)


def loaded_models(only_currently_used: bool = False) -> list[Any]:
    """The patchers of all loaded models, the most recently used first."""
    known = (one for one in current_loaded_models if one.currently_used or not only_currently_used)
    return [model for model in (one.model for one in known) if model is not None]


def unload_all_models() -> None:
    """Unload every model."""
    for device in {get_torch_device(), *(one.device for one in current_loaded_models)}:
        free_memory(admission.FULL, device)


def cleanup_models() -> None:
    """Forget models that are gone; their memory went with them."""
    _loading.forget_gone()


def cleanup_models_gc() -> None:
    """Collect models that nobody can unload any more, and forget what is gone."""
    _loading.collect_dead()


# -- variables that are answered -------------------------------------------------------------------


def _vram_state() -> VRAMState:
    device = get_torch_device()
    return devices.vram_state(args, device, lambda: device_memory.is_unified(device))


def _streams() -> int:
    if args.disable_async_offload:
        return 0
    return args.async_offload or (2 if is_nvidia() or is_amd() else 0)


_ANSWERS: dict[str, Callable[[], Any]] = {
    "interrupt_processing": processing_interrupted,
    "vram_state": _vram_state,
    "cpu_state": lambda: devices.cpu_state(_run_device()),
    "total_vram": lambda: get_total_memory() / device_memory.MIB,
    "total_ram": lambda: get_total_memory(devices.CPU) / device_memory.MIB,
    "directml_enabled": lambda: args.directml is not None,
    "DISABLE_SMART_MEMORY": lambda: args.disable_smart_memory,
    "EXTRA_RESERVED_VRAM": lambda: device_memory.extra_reserved(
        args.reserve_vram, lambda: int(get_total_memory())
    ),
    "NUM_STREAMS": _streams,
    "XFORMERS_IS_AVAILABLE": lambda: has_xformers(args, devices.kind(get_torch_device())),
    "XFORMERS_ENABLED_VAE": lambda: _HERE.XFORMERS_IS_AVAILABLE,
    "ENABLE_PYTORCH_ATTENTION": lambda: uses_pytorch(args, _HERE.XFORMERS_IS_AVAILABLE),
    "PRIORITIZE_FP16": lambda: PerformanceFeature.Fp16Accumulation in args.fast,
    "FORCE_FP32": lambda: args.force_fp32,
}
