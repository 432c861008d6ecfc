"""Pictures enlarged by a network, in tiles."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

import comfy.model_management
import comfy.utils
from comfy.loading.errors import NotEnoughMemory

logger = logging.getLogger(__name__)

LARGEST_TILE = 512
SMALLEST_TILE = 128
_OVERLAP = 32
# Activations of common networks, in tiles of the result.
_TILES_OF_ACTIVATIONS = 384.0


def from_state_dict(state_dict: Mapping[str, torch.Tensor], file: str) -> Any:
    """The network that a state dict belongs to, found by the library ``spandrel``.

    Args:
        state_dict: Keys may begin with "module.", as after training on several devices.
        file: What the weights come from, for the message.

    Returns:
        Its descriptor, in evaluation mode.

    Raises:
        ImportError: spandrel, or torchvision, which it needs, is not installed.
        ValueError: The network does not turn one picture into another.
    """
    try:
        import spandrel  # noqa: PLC0415 - optional; it needs torchvision
    except ImportError as err:
        raise ImportError(
            f"The upscale model {file} cannot be built without the package spandrel, which tells "
            "the kinds of such networks apart and needs torchvision. Install both: "
            "pip install spandrel torchvision"
        ) from err
    plain = {key.removeprefix("module."): value for key, value in state_dict.items()}
    found = spandrel.ModelLoader().load_from_state_dict(plain).eval()
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise ValueError(
            f"{file} holds a {type(found).__name__}, which needs more than one picture. Choose a "
            "model that enlarges single pictures."
        )
    return found


def _tile_bytes(model: Any, image: torch.Tensor, tile: int) -> int:
    """What the network's weights and one tile are estimated to take."""
    weights = comfy.model_management.module_size(model.model)
    pixels = tile * tile * image.shape[-1] * image.element_size()
    return int(weights + pixels * max(float(model.scale), 1.0) * _TILES_OF_ACTIVATIONS)


def upscaled(model: Any, image: torch.Tensor) -> torch.Tensor:
    """Enlarge a batch; tiles halve when the device is full.

    Args:
        model: A descriptor: called with [1, C, h, w] it gives ``scale`` times the size; has
            ``model``, the module, and ``to(device)``.
        image: (batch, height, width, channels), 0 to 1.

    Returns:
        (batch, scale * height, scale * width, channels), 0 to 1, on the CPU.

    Raises:
        OutOfMemoryError: Not even the smallest tile fits.
    """
    device = comfy.model_management.get_torch_device()
    comfy.model_management.free_memory(_tile_bytes(model, image, LARGEST_TILE), device)
    model.to(device)
    try:
        planes = _in_ever_smaller_tiles(model, image.movedim(-1, 1), device)
    finally:
        model.to("cpu")
    return planes.movedim(1, -1).clamp(0.0, 1.0)


def _in_ever_smaller_tiles(model: Any, planes: torch.Tensor, device: torch.device) -> torch.Tensor:
    tile = LARGEST_TILE
    while True:
        try:
            return _in_tiles(model, planes, device, tile)
        except (comfy.model_management.OOM_EXCEPTION, NotEnoughMemory) as err:
            if tile // 2 < SMALLEST_TILE:
                raise
            logger.warning("Upscaling ran out of memory; it goes on in tiles of half. (%s)", err)
        tile //= 2
        comfy.model_management.soft_empty_cache()


def _in_tiles(model: Any, planes: torch.Tensor, device: torch.device, tile: int) -> torch.Tensor:
    rows, columns = planes.shape[-2:]
    steps = comfy.utils.get_tiled_scale_steps(columns, rows, tile, tile, _OVERLAP)
    return comfy.utils.tiled_scale(
        planes,
        lambda part: model(part.to(device)),
        tile_x=tile,
        tile_y=tile,
        overlap=_OVERLAP,
        upscale_amount=model.scale,
        pbar=comfy.utils.ProgressBar(planes.shape[0] * steps),
    )
