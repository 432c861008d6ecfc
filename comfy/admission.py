"""Admission: how many bytes of a model's weights may come to a device, decided before any is read.

Pure arithmetic over figures that `comfy.model_management` gathers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from comfy.loading import FileTensor
from comfy.loading.devices import DeviceFull
from comfy.loading.memory import Pool

FULL = 1 << 60
"""A budget for weights that no model exceeds."""

# On a small device a general figure for activations must not turn away a model that fits.
_INFERENCE_SHARE = 4
_EXTRA_SHARE = 8


@dataclass(frozen=True, slots=True)
class Beside:
    """What needs memory beside the weights, in bytes.

    Attributes:
        inference: Activations of a forward pass.
        inference_least: Those of the smallest useful one: what a model that does not fit as a whole
            leaves free.
        reserve: Left to other programs.
        staging: The ring between file and device, where it takes from the device's memory.
        cast: Temporary of the largest weight: cast, patched, or fetched for one layer.
    """

    inference: int
    inference_least: int
    reserve: int
    staging: int
    cast: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.inference + self.reserve + self.staging + self.cast

    @property
    def least(self) -> int:
        """All of it for the smallest useful forward pass."""
        return self.total - self.inference + self.inference_least


def beside(
    *,
    asked: int,
    minimum: int | None,
    usual: int,
    reserve: int,
    extra: int,
    is_extra_fixed: bool,
    staging: int,
    cast: int,
    capacity: int,
) -> Beside:
    """Tell what must stay free beside the weights.

    Args:
        asked: The caller's estimate of a forward pass.
        minimum: The caller's estimate of the smallest useful one; None where there is but one.
        usual: What a forward pass is taken to need at least.
        reserve: What loading leaves free.
        extra: What other programs on the device are taken to need.
        is_extra_fixed: The user named it; else a small device keeps less.
        staging: Of the ring.
        cast: Of the largest weight.
        capacity: What the device could give if all models were unloaded.
    """
    floor = min(usual, capacity // _INFERENCE_SHARE)
    inference = max(asked, floor)
    least = inference if minimum is None else min(inference, max(minimum, floor))
    share = capacity // _EXTRA_SHARE
    kept = max(reserve, extra if is_extra_fixed else min(extra, share))
    return Beside(inference, least, kept, min(staging, share), cast)


def budget(missing: int, room: Beside, free: int) -> int:
    """Tell how many bytes of weights may come to a device.

    Args:
        missing: Bytes of the model that are not there yet.
        room: What must stay free beside them.
        free: What the device can give.

    Returns:
        `FULL` if all may come; else what is left, perhaps 0: the rest stays where it is and is
        fetched layer by layer.
    """
    if missing + room.total <= free:
        return FULL
    return max(0, min(missing, free - room.least))


def demand_room(pool: Pool, room: Beside, weights: int, doing: str) -> None:
    """Refuse what cannot run even layer by layer.

    Args:
        pool: The device's memory, after all that could go has gone.
        room: What is needed beside the weights.
        weights: Bytes that must come in any case; 0 where a model may stay in its file.
        doing: What is wanted, for the message.

    Raises:
        DeviceFull: With the numbers.
    """
    need = weights + room.staging + room.cast
    if need <= pool.free:
        return
    raise DeviceFull(
        need,
        pool.free,
        pool.name,
        hint=f"This is for {doing}. Close other programs, or use a smaller model or dtype.",
    )


# -- figures of a module ---------------------------------------------------------------------------


def weights_of(module: object) -> Iterator[torch.Tensor]:
    """A module's parameters and buffers, each once; none of what is no module."""
    if isinstance(module, torch.nn.Module):
        yield from module.parameters()
        yield from module.buffers()


def bytes_elsewhere(module: object, device: torch.device) -> int:
    """Add up the weights whose bytes are not on a device: in a file, on the host, elsewhere."""
    return sum(weight.nbytes for weight in weights_of(module) if not _is_on(weight, device))


def _is_on(weight: torch.Tensor, device: torch.device) -> bool:
    if isinstance(weight, FileTensor) and weight.is_in_file:
        return False
    return weight.device.type == device.type and (
        device.index is None or weight.device.index in (None, device.index)
    )


def largest_weight(module: object, itemsize: int = 0) -> int:
    """Size of the largest weight.

    Args:
        module: Where from.
        itemsize: Bytes per element to count with, if that is more than the weight's own.
    """
    sizes = (one.numel() * max(one.element_size(), itemsize) for one in weights_of(module))
    return max(sizes, default=0)
