"""Placement: on which device each part of a pipeline runs and rests.

To rest on the CPU means "back to the file": no weights are copied there. Names that custom nodes
replace are looked up in the public module at each use.
"""

from __future__ import annotations

from typing import Any

import torch

from comfy.devices import CPU, VRAMState


class Placement:
    """Answers which device is used for what."""

    def __init__(self, face: Any, flags: Any) -> None:
        """Prepare; asks no hardware.

        Args:
            face: The module in which replaceable names are looked up.
            flags: The parsed command line.
        """
        self._face = face
        self._flags = flags

    def _keeps_on_device(self) -> bool:
        return bool(self._face.vram_state == VRAMState.HIGH_VRAM)

    def unet_offload_device(self) -> torch.device:
        """Where diffusion models rest. The CPU stands for "back to the file": nothing is copied."""
        return self._face.get_torch_device() if self._keeps_on_device() else CPU

    def unet_inital_load_device(self, parameters: int, dtype: torch.dtype) -> torch.device:
        """Where a diffusion model is before its first use: at rest, since its weights are in a file."""
        return self._face.unet_offload_device()

    def text_encoder_device(self) -> torch.device:
        """Where text encoders run: on the CPU if device memory is short."""
        if self._flags.gpu_only:
            return self._face.get_torch_device()
        if self._face.vram_state in (VRAMState.HIGH_VRAM, VRAMState.NORMAL_VRAM, VRAMState.SHARED):
            return self._face.get_torch_device()
        return CPU

    def text_encoder_offload_device(self) -> torch.device:
        """Where text encoders rest."""
        return self._face.get_torch_device() if self._flags.gpu_only else CPU

    def text_encoder_initial_device(
        self, load_device: torch.device, offload_device: torch.device, model_size: int = 0
    ) -> torch.device:
        """Where a text encoder is before its first use: at rest, since its weights are in a file."""
        return offload_device

    def intermediate_device(self) -> torch.device:
        """Where latents and pictures are between nodes."""
        return self._face.get_torch_device() if self._flags.gpu_only else CPU

    def vae_device(self) -> torch.device:
        """Where the VAE runs."""
        return CPU if self._flags.cpu_vae else self._face.get_torch_device()

    def vae_offload_device(self) -> torch.device:
        """Where the VAE rests."""
        return self._face.get_torch_device() if self._flags.gpu_only else CPU
