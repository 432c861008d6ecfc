"""One patched weight: how it is computed from the stored one, when loaded or for each call."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any, NamedTuple

import torch

import comfy.float
import comfy.lora
from comfy.attributes import get_attr


class Backup(NamedTuple):
    """A weight that was patched and cannot be read again.

    Attributes:
        weight: As it was.
        inplace_update: Whether the patched one was written into its memory.
    """

    weight: torch.Tensor
    inplace_update: bool


def string_to_seed(data: str) -> int:
    """A number that is always the same for a text: its CRC-32."""
    return zlib.crc32(data.encode())


def get_key_weight(model: Any, key: str) -> tuple[torch.Tensor, Any, Any]:
    """Find a weight and how its layer wants it handled.

    Returns:
        The weight; the layer's function that stores a wide weight, or None; the layer's function
        that widens a stored one, or None.
    """
    path, _, name = key.rpartition(".")
    layer = get_attr(model, path) if path else model
    setter, widener = getattr(layer, f"set_{name}", None), getattr(layer, f"convert_{name}", None)
    return getattr(layer, name), setter, widener


def as_it_is(weight: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Widens a weight that is stored as it is meant."""
    return weight


def compares_models(patches: Sequence[tuple[Any, ...]]) -> bool:
    """Whether one of the patches is another model's weight, less the unpatched one."""
    kinds = (one[1][0] for one in patches if isinstance(one[1], tuple))
    return any(isinstance(kind, str) and kind == "model_as_lora" for kind in kinds)


def wide_copy(
    weight: torch.Tensor, convert_func: Callable[..., Any] | None, device: torch.device | None
) -> torch.Tensor:
    """A float32 copy of a stored weight on a device, free to be changed."""
    moved = weight.detach().to(device=device)
    if convert_func is not None:
        moved = convert_func(moved, inplace=False)
    return moved.to(torch.float32, copy=moved.dtype == torch.float32)


def narrow(
    wide: torch.Tensor, key: str, dtype: torch.dtype, set_func: Callable[..., Any] | None
) -> torch.Tensor:
    """Round a patched weight to how it is stored; by chance if in eight bits, the same each time.

    Args:
        wide: float32.
        key: The weight's name, which seeds the chance.
        dtype: Of the result, if the layer has no `set_func`.
        set_func: Of `get_key_weight`.
    """
    seed = string_to_seed(key)
    if set_func is None:
        return comfy.float.stochastic_rounding(wide, dtype, seed=seed)
    stored: torch.Tensor = set_func(wide, inplace_update=False, seed=seed, return_weight=True)
    return stored


def _weakly(method: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Keep a layer from being kept alive by its own weight function: that would be a cycle."""
    if not isinstance(method, MethodType):
        return method
    reference = weakref.WeakMethod(method)

    def call(*args: Any, **kwargs: Any) -> Any:
        alive = reference()
        assert alive is not None  # a layer calls this while it runs
        return alive(*args, **kwargs)

    return call


class LowVramPatch:
    """Patches a weight that is brought for one call; a ``weight_function`` of a layer."""

    in_storage_dtype = True

    def __init__(
        self,
        key: str,
        patches: Mapping[str, Sequence[tuple[Any, ...]]],
        convert_func: Callable[..., Any] | None = None,
        set_func: Callable[..., Any] | None = None,
    ) -> None:
        """Prepare.

        Args:
            key: The weight's name.
            patches: By name.
            convert_func: Of `get_key_weight`.
            set_func: Of `get_key_weight`.
        """
        self.key = key
        self.patches = patches
        self.convert_func = _weakly(convert_func)
        self.set_func = _weakly(set_func)

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """Give the patched weight, the same as if it had been patched when loaded."""
        wide = wide_copy(weight, self.convert_func, weight.device)
        original = {self.key: [(weight, self.convert_func or as_it_is)]}
        wide = comfy.lora.calculate_weight(
            self.patches[self.key], wide, self.key, original_weights=original
        )
        return narrow(wide, self.key, weight.dtype, self.set_func)


def wipe_lowvram_weight(m: Any) -> None:
    """Make a layer take its weights as they are."""
    for name in ("comfy_cast_weights", "weight_stream"):
        vars(m).pop(name, None)
    m.weight_function, m.bias_function = [], []
