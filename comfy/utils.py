"""What custom nodes import as `comfy.utils`: loading and saving weights, progress, helpers.

Names that packs replace or set at run time (`load_torch_file`, `PROGRESS_BAR_ENABLED`,
`UNET_MAP_BASIC`) are defined here and looked up here at each use; code above calls
``comfy.utils.load_torch_file(...)``, never a copy imported by name. What is only read is
re-exported from the modules that hold it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NoReturn

import torch

import comfy.cli_args
import comfy.devices
import comfy.interrupts
import comfy.loading
import comfy.options
from comfy import key_maps, key_tables, progress
from comfy.attributes import ATTR_UNSET, copy_to_param, get_attr, set_attr, set_attr_param
from comfy.images import (
    bislerp,
    common_upscale,
    lanczos,
    pack_latents,
    repeat_to_batch_size,
    reshape_mask,
    resize_list_to_batch_size,
    resize_to_batch_size,
    unpack_latents,
    upscale_dit_mask,
)
from comfy.key_maps import (
    auraflow_to_diffusers,
    flux_to_diffusers,
    mmdit_to_diffusers,
    pixart_to_diffusers,
    z_image_to_diffusers,
)
from comfy.key_tables import (
    MMDIT_MAP_BASIC,
    MMDIT_MAP_BLOCK,
    PIXART_MAP_BASIC,
    PIXART_MAP_BLOCK,
    TRANSFORMER_BLOCKS,
    UNET_MAP_ATTENTIONS,
    UNET_MAP_RESNET,
    swap_scale_shift,
)
from comfy.loading.errors import LoadCancelled
from comfy.loading.header import read_raw_header
from comfy.loading.options import LoadOptions, from_namespace
from comfy.quant_markers import convert_old_quants, detect_layer_quantization
from comfy.state_dicts import (
    calculate_parameters,
    clip_text_transformers_convert,
    convert_sd_to,
    state_dict_key_replace,
    state_dict_prefix_replace,
    transformers_convert,
    weight_dtype,
)
from comfy.tiles import get_tiled_scale_steps, tiled_scale, tiled_scale_multidim

__all__ = [
    "ALWAYS_SAFE_LOAD",
    "ATTR_UNSET",
    "DISABLE_MMAP",
    "MMAP_TORCH_FILES",
    "MMDIT_MAP_BASIC",
    "MMDIT_MAP_BLOCK",
    "PIXART_MAP_BASIC",
    "PIXART_MAP_BLOCK",
    "PROGRESS_BAR_ENABLED",
    "PROGRESS_BAR_HOOK",
    "TRANSFORMER_BLOCKS",
    "UNET_MAP_ATTENTIONS",
    "UNET_MAP_BASIC",
    "UNET_MAP_RESNET",
    "ProgressBar",
    "auraflow_to_diffusers",
    "bislerp",
    "calculate_parameters",
    "clip_text_transformers_convert",
    "common_upscale",
    "convert_old_quants",
    "convert_sd_to",
    "copy_to_param",
    "detect_layer_quantization",
    "flux_to_diffusers",
    "get_attr",
    "get_tiled_scale_steps",
    "lanczos",
    "load_strategies",
    "load_torch_file",
    "mmdit_to_diffusers",
    "pack_latents",
    "pixart_to_diffusers",
    "register_load_strategy",
    "repeat_to_batch_size",
    "reshape_mask",
    "resize_list_to_batch_size",
    "resize_to_batch_size",
    "safetensors_header",
    "save_torch_file",
    "set_attr",
    "set_attr_param",
    "set_progress_bar_enabled",
    "set_progress_bar_global_hook",
    "state_dict_key_replace",
    "state_dict_prefix_replace",
    "swap_scale_shift",
    "tiled_scale",
    "tiled_scale_multidim",
    "transformers_convert",
    "unet_to_diffusers",
    "unpack_latents",
    "upscale_dit_mask",
    "weight_dtype",
    "z_image_to_diffusers",
]

DISABLE_MMAP: bool = comfy.cli_args.args.disable_mmap
MMAP_TORCH_FILES: bool = comfy.cli_args.args.mmap_torch_files
ALWAYS_SAFE_LOAD = True
"""Pickled checkpoints never run code, whatever ``safe_load`` says."""

UNET_MAP_BASIC = key_tables.UNET_MAP_BASIC
PROGRESS_BAR_ENABLED = True
PROGRESS_BAR_HOOK: progress.Hook | None = None


# -- loading and saving --------------------------------------------------------------------------


def load_torch_file(
    ckpt: str | os.PathLike[str],
    safe_load: bool = False,
    device: torch.device | str | int | None = None,
    return_metadata: bool = False,
) -> Any:
    """Load a checkpoint, so that each weight exists once.

    Args:
        ckpt: A safetensors file, the index of a sharded one, or a pickled checkpoint.
        safe_load: Without effect: no file may run code.
        device: Where the weights shall live, index included. None leaves each where the load
            strategy holds it: in its file, or in host memory.
        return_metadata: Return the header's metadata, too.

    Returns:
        The state dict, or it and the metadata (None if the format has none).

    Raises:
        ValueError: If the file is damaged; all errors of `comfy.loading.errors` name the file.
    """
    _hand_over_options()
    path = os.fspath(ckpt)
    target = None if device is None else torch.device(device)
    with byte_progress(os.path.basename(path)) as show:
        try:
            loaded = comfy.loading.load(
                path, device=target, progress=show, strategy=_strategy.get()
            )
        except LoadCancelled as err:
            _interrupt(err)
    if return_metadata:
        return loaded.state_dict, loaded.metadata
    return loaded.state_dict


def _interrupt(cancelled: LoadCancelled) -> NoReturn:
    """Raise what nodes see of a cancelled load; the one place where the two kinds of error meet."""
    raise comfy.interrupts.InterruptProcessingException from cancelled


def _hand_over_options() -> None:
    """Give the loader the parsed flags; a library that parses none has configured it itself."""
    if comfy.options.args_parsing:
        _configure_once(from_namespace(comfy.cli_args.args))


@functools.lru_cache(maxsize=1)
def _configure_once(options: LoadOptions) -> None:
    loader = comfy.loading.configure(options)
    # Weights are planned for the device on which networks will run.
    loader.run_device = comfy.devices.choose(comfy.cli_args.args, lambda: loader.run_device)


def safetensors_header(
    safetensors_path: str | os.PathLike[str], max_size: int = 100 * 1024 * 1024
) -> bytes | None:
    """Read the JSON text of a safetensors header, unchecked; None if it is longer than `max_size`."""
    return read_raw_header(safetensors_path, max_size)


def save_torch_file(
    sd: Mapping[str, torch.Tensor],
    ckpt: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, whole or not at all; see `comfy.loading.save_state_dict`."""
    with byte_progress(os.path.basename(os.fspath(ckpt))) as show:
        comfy.loading.save_state_dict(sd, ckpt, metadata=metadata, progress=show)


def register_load_strategy(name: str, factory: Any) -> None:
    """Add a way of loading that ``--load-strategy=name`` chooses.

    Args:
        name: Not yet taken.
        factory: Makes the strategy, or where it is: ``"package.module:Class"``.
    """
    comfy.loading.register_load_strategy(name, factory)


def load_strategies() -> Mapping[str, Any]:
    """Show all load strategies by name, read-only."""
    return comfy.loading.load_strategies()


# In a context, so that a load in another thread or node keeps its own.
_strategy: ContextVar[str | None] = ContextVar("load_strategy", default=None)


@contextlib.contextmanager
def use_load_strategy(name: str | None) -> Iterator[None]:
    """Load files inside with a strategy of this name, whatever the flags say.

    Args:
        name: See `load_strategies`; "auto" lets the facts decide, None leaves it to the flags.
    """
    token = _strategy.set(name)
    try:
        yield
    finally:
        _strategy.reset(token)


# -- progress ------------------------------------------------------------------------------------


def set_progress_bar_enabled(enabled: bool) -> None:
    """Switch bars on the terminal on or off."""
    global PROGRESS_BAR_ENABLED  # noqa: PLW0603 - ComfyUI's public switch, packs set it directly
    PROGRESS_BAR_ENABLED = enabled


def set_progress_bar_global_hook(function: progress.Hook | None) -> None:
    """Let `function` know of all progress, as ``function(value, total, preview, node_id=...)``."""
    global PROGRESS_BAR_HOOK  # noqa: PLW0603 - ComfyUI's public switch
    PROGRESS_BAR_HOOK = function


def byte_progress(title: str) -> progress.ByteProgress:
    """What is told of bytes on their way: to the terminal if bars are on, and to the hook."""
    stream = sys.stderr if PROGRESS_BAR_ENABLED else None
    return progress.ByteProgress(title, stream, PROGRESS_BAR_HOOK)


class ProgressBar(progress.ProgressBar):
    """Progress of a node; tells the hook that is set when it is made."""

    def __init__(self, total: int, node_id: str | None = None) -> None:
        super().__init__(total, node_id, PROGRESS_BAR_HOOK)


# -- key maps ------------------------------------------------------------------------------------


def unet_to_diffusers(unet_config: Mapping[str, Any]) -> dict[str, str]:
    """Map diffusers' keys of a UNet to native ones; `UNET_MAP_BASIC` as it is at this moment."""
    return key_maps.unet_to_diffusers(unet_config, UNET_MAP_BASIC)
