"""What an adapter is: tensors of one module of a LoRA file, and the change that they make."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from comfy.weight_adapter import dora
from comfy.weight_adapter.parts import Matrix, Place, flat, identity, placed

Function = Callable[[torch.Tensor], torch.Tensor]


class WeightAdapterBase:
    """One module of a LoRA file; the interface that custom nodes derive from.

    Attributes:
        name: Of the method.
        loaded_keys: Keys of the file that were taken.
        weights: The tensors and numbers, in an order of the method's own.
    """

    name: str = ""

    def __init__(self, loaded_keys: set[str], weights: Any) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

    @classmethod
    def load(
        cls,
        x: str,
        lora: Mapping[str, torch.Tensor],
        alpha: float | None,
        dora_scale: torch.Tensor | None,
        loaded_keys: set[str] | None = None,
    ) -> WeightAdapterBase | None:
        """Take the tensors of module `x` out of a file; reads none of them.

        Args:
            x: Name of the module in the file.
            lora: The file's state dict.
            alpha: Numerator of the scale; None where the file has none.
            dora_scale: Magnitudes, or None.
            loaded_keys: Receives the keys that were taken.

        Returns:
            The adapter, or None if `x` is not of this method.
        """
        raise NotImplementedError

    def misfit(self, weight: torch.Tensor) -> str | None:
        """Tell what does not fit `weight`, in words, reading nothing; None if all does."""
        return None

    def calculate_weight(
        self,
        weight: torch.Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: tuple[int, int, int] | None,
        function: Function | None,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weights: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        """Change a weight.

        Args:
            weight: May be written to; already multiplied by `strength_model`, already the slice
                that `offset` names.
            key: Its name.
            strength: Factor of the change.
            strength_model: For information.
            offset: For information.
            function: Applied to the change before it is added; None for none.
            intermediate_dtype: In which the change is computed.
            original_weights: The model's key patches, for patches that need the unpatched weight.

        Returns:
            The changed weight, `weight` itself where its shape stays.
        """
        raise NotImplementedError


class DenseAdapter(WeightAdapterBase):
    """An adapter whose change is one tensor of the weight's size, computed when it is needed."""

    @property
    def dora_scale(self) -> torch.Tensor | None:
        """Magnitudes; by convention the last of `weights`."""
        scale: torch.Tensor | None = self.weights[-1]
        return scale

    @property
    def factor(self) -> float:
        """By what the change is multiplied, alpha / rank."""
        raise NotImplementedError

    def shape(self, weight: torch.Tensor) -> Matrix | None:
        """Rows and columns of the change for a weight; None if the parts do not match."""
        raise NotImplementedError

    def change(self, weight: torch.Tensor, place: Place) -> torch.Tensor:
        """Compute the unscaled change, a new tensor with as many elements as the weight.

        Args:
            weight: (out, ...); not written to.
            place: Gives each part.
        """
        raise NotImplementedError

    def misfit(self, weight: torch.Tensor) -> str | None:
        """Compare the shapes of parts and weight."""
        shape = self.shape(weight)
        if shape is None:
            tensors = [part for part in self.weights if isinstance(part, torch.Tensor)]
            return "parts of shapes " + ", ".join(str(tuple(part.shape)) for part in tensors)
        if shape != flat(weight) or 0 in shape:
            return f"shape {shape}"
        if self.dora_scale is not None and not dora.fits(weight, self.dora_scale):
            return f"magnitudes of shape {tuple(self.dora_scale.shape)}"
        return None

    def calculate_weight(
        self,
        weight: torch.Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: tuple[int, int, int] | None,
        function: Function | None,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weights: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        """Add ``function(strength * factor * change)``, or decompose as DoRA does, in place."""
        if strength == 0.0:
            return weight
        function = function or identity
        place = functools.partial(placed, device=weight.device, dtype=intermediate_dtype)
        if self.dora_scale is None:
            return self._add(weight, strength * self.factor, function, place)
        change = self.change(weight, place).reshape(weight.shape).mul_(self.factor)
        return dora.weight_decompose(weight, function(change), place(self.dora_scale), strength)

    def _add(
        self, weight: torch.Tensor, scale: float, function: Function, place: Place
    ) -> torch.Tensor:
        change = self.change(weight, place).reshape(weight.shape).mul_(scale)
        return weight.add_(function(change))
