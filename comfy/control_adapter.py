"""The control net around a T2I-Adapter's network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from comfy.controls import ControlBase, Residuals, broadcast_image_to, patcher_of


class T2IAdapter(ControlBase):
    """A small network that sees the hint alone: its residuals are the same at every step.

    Attributes:
        t2i_model: The network.
        t2i_model_wrapped: Its patcher; shared by copies.
        channels_in: Of the hint.
        control_input: Its residuals, during a run.
    """

    def __init__(
        self,
        t2i_model: Any,
        channels_in: int,
        compression_ratio: int,
        upscale_algorithm: str,
        device: torch.device | None = None,
    ) -> None:
        """Wrap a network; nothing moves.

        Args:
            t2i_model: See `comfy.t2i_adapter.adapter`.
            channels_in: See the class.
            compression_ratio: See `ControlBase`.
            upscale_algorithm: See there.
            device: Where it runs.
        """
        super().__init__()
        self.t2i_model = t2i_model
        self.channels_in = channels_in
        self.compression_ratio = compression_ratio
        self.upscale_algorithm = upscale_algorithm
        self.device = device
        self.t2i_model_wrapped = patcher_of(t2i_model, device)
        self.control_input: Residuals | None = None
        self._seen: torch.Tensor | None = None

    def copy(self) -> T2IAdapter:
        """See `ControlBase.copy`."""
        made = T2IAdapter(
            self.t2i_model,
            self.channels_in,
            self.compression_ratio,
            self.upscale_algorithm,
            self.device,
        )
        made.t2i_model_wrapped = self.t2i_model_wrapped
        self.copy_to(made)
        return made

    def get_models(self) -> list[Any]:
        """See `ControlBase.get_models`."""
        return [*super().get_models(), self.t2i_model_wrapped]

    def cleanup(self) -> None:
        """See `ControlBase.cleanup`."""
        self.control_input = self._seen = None
        super().cleanup()

    def residuals(
        self, x_noisy: torch.Tensor, t: torch.Tensor, cond: Mapping[str, Any], batched_number: int
    ) -> Residuals:
        """See `ControlBase.residuals`."""
        hint = self.resized_hint(x_noisy)
        if self.control_input is None or self._seen is not hint:
            shown = hint.mean(1, keepdim=True) if self.channels_in == 1 else hint
            dtype = next(self.t2i_model.parameters()).dtype
            self.control_input = self.t2i_model(shown.to(x_noisy.device, dtype))
            self._seen = hint
        return {
            name: [
                None if one is None else broadcast_image_to(one, x_noisy.shape[0], batched_number)
                for one in each
            ]
            for name, each in self.control_input.items()
        }
