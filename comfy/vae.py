"""The VAE object of nodes: pictures to latents and back, whole if there is room, else in tiles."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import comfy.model_management
import comfy.ops
import comfy.state_dicts
from comfy.dtypes import storage_dtype
from comfy.model_patcher import ModelPatcher
from comfy.residency import residency_of
from comfy.vae_kinds import Autoencoder, NotAVAE, build_autoencoder
from comfy.vae_runs import mean_of_tilings, whole_or_tiled

logger = logging.getLogger(__name__)

# Sides of tiles that are tried, in positions of the latent, and which part of them overlaps.
_DECODE_TILES = (128, 64, 32, 16)
_OVERLAP_PART = 4
_WORKING_DTYPES = (torch.bfloat16, torch.float32)

MemoryUsed = Callable[[Sequence[int], torch.dtype], int]


def _to_network(image: torch.Tensor) -> torch.Tensor:
    return (image * 2.0).sub_(1.0)


def _from_network(image: torch.Tensor) -> torch.Tensor:
    return (image + 1.0).div_(2.0).clamp_(0.0, 1.0)


class VAE:
    """An autoencoder with its place among the loaded models.

    Attributes:
        first_stage_model: The network; None if the state dict held none.
        patcher: Moves its weights.
        device: Where it runs.
        vae_dtype: In which it is computed.
        output_device: Where results are given.
        downscale_ratio: Pixels per position of the latent, along each side.
        upscale_ratio: The same, for decoding.
        latent_channels: Of its latents.
        latent_dim: Axes of a latent's grid.
        output_channels: Of its pictures.
        process_input: From 0..1 to what the network takes.
        process_output: Back, clamped.
        memory_used_encode: Bytes of activations, from the shape [B, C, H, W] of pixels and a dtype.
        memory_used_decode: The same, from the shape of latents.
        working_dtypes: In which its results are right, best first.
        crop_input: Whether pictures are cut to whole positions of the latent.
    """

    def __init__(
        self,
        sd: Mapping[str, torch.Tensor] | None = None,
        device: torch.device | None = None,
        config: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        metadata: Mapping[str, str] | None = None,
        origin: str = "the state dict",
    ) -> None:
        """Recognise and build; no weight is read.

        Args:
            sd: Of the autoencoder, keys without prefix; without one known in it the object is
                invalid, see `throw_exception_if_invalid`.
            device: Where it runs; chosen if None.
            config: Without effect: the numbers are taken from the shapes.
            dtype: In which it is computed; chosen if None.
            metadata: Of the file; without effect.
            origin: Name of the file, for messages.
        """
        self.first_stage_model: Any = None
        self.patcher: Any = None
        self.vae_dtype = torch.float32
        self.process_input: Callable[[torch.Tensor], torch.Tensor] = _to_network
        self.process_output: Callable[[torch.Tensor], torch.Tensor] = _from_network
        self.latent_dim = 2
        self.crop_input = True
        self.working_dtypes: list[torch.dtype] = list(_WORKING_DTYPES)
        self.device = comfy.model_management.vae_device() if device is None else device
        self.output_device = comfy.model_management.intermediate_device()
        self.reason = f"{origin} holds none."
        self._describe(Autoencoder(torch.nn.Module(), 4, 8, 0, 0))
        if sd:
            self._build(sd, dtype, origin)

    def _build(
        self, sd: Mapping[str, torch.Tensor], dtype: torch.dtype | None, origin: str
    ) -> None:
        kept = comfy.state_dicts.weight_dtype(sd) or torch.float32
        if dtype is None:
            dtype = comfy.model_management.vae_dtype(self.device, self.working_dtypes)
        self.vae_dtype = dtype
        stored = storage_dtype(kept, dtype)
        operations = comfy.ops.pick_operations(stored, self.vae_dtype)
        try:
            built = build_autoencoder(sd, stored, operations, f"{origin}: VAE")
        except NotAVAE as err:
            # ComfyUI's callers get an object that says what is wrong when it is used.
            self.reason = str(err)
            logger.warning("%s", err)
            return
        self._describe(built)
        self.first_stage_model = built.network.eval()
        if not built.casts:
            self.vae_dtype = stored = kept
        residency_of(self.first_stage_model).weight_dtype = None if stored == kept else stored
        self.patcher = ModelPatcher(
            self.first_stage_model,
            load_device=self.device,
            offload_device=comfy.model_management.vae_offload_device(),
        )

    def _describe(self, one: Autoencoder) -> None:
        self.latent_channels = one.latent_channels
        self.output_channels = one.output_channels
        self.downscale_ratio = self.upscale_ratio = ratio = one.ratio

        def decode_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
            pixels = shape[-2] * shape[-1] * ratio**2
            return int(pixels * one.decode_channels * dtype.itemsize)

        def encode_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
            return int(shape[-2] * shape[-1] * one.encode_channels * dtype.itemsize)

        self.memory_used_decode = decode_bytes
        self.memory_used_encode = encode_bytes

    def throw_exception_if_invalid(self) -> None:
        """Raise if there is no autoencoder.

        Raises:
            RuntimeError: Saying what the state dict was instead.
        """
        if self.first_stage_model is None:
            raise RuntimeError(
                f"The VAE is invalid: {self.reason} Take a checkpoint that holds one, or load a "
                "VAE of its own with VAELoader."
            )

    def spacial_compression_decode(self) -> int:
        """Pixels per position of the latent."""
        return self.upscale_ratio

    def spacial_compression_encode(self) -> int:
        """Pixels per position of the latent."""
        return self.downscale_ratio

    def temporal_compression_decode(self) -> int | None:
        """Frames per position of the latent; None for pictures."""
        return None

    def get_sd(self) -> dict[str, torch.Tensor]:
        """The weights by name, wherever they are."""
        self.throw_exception_if_invalid()
        weights: dict[str, torch.Tensor] = self.first_stage_model.state_dict()
        return weights

    def vae_encode_crop_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Cut pixels [B, H, W, C] evenly at both sides to whole positions of the latent."""
        if not self.crop_input:
            return pixels
        for axis in (1, 2):
            surplus = pixels.shape[axis] % self.downscale_ratio
            if surplus:
                pixels = pixels.narrow(axis, surplus // 2, pixels.shape[axis] - surplus)
        return pixels

    # -- whole -----------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(
        self, samples_in: torch.Tensor, vae_options: Mapping[str, Any] | None = None
    ) -> torch.Tensor:
        """Turn latents into pictures.

        Args:
            samples_in: [B, C, h, w], of the VAE's own scale.
            vae_options: Without effect: no autoencoder here takes any.

        Returns:
            [B, h * ratio, w * ratio, channels], 0..1, float32, on `output_device`. In tiles if
            the whole does not fit into free memory.

        Raises:
            RuntimeError: If the VAE is invalid.
            OutOfMemoryError: If not even the smallest tile fits.
        """
        self.throw_exception_if_invalid()

        def in_tiles(side: int) -> torch.Tensor:
            return self.decode_tiled_(samples_in, side, side, side // _OVERLAP_PART)

        pictures = self._run(
            samples_in, self.memory_used_decode, self._decode_batch, in_tiles, _DECODE_TILES
        )
        return pictures.movedim(1, -1)

    @torch.no_grad()
    def encode(self, pixel_samples: torch.Tensor) -> torch.Tensor:
        """Turn pictures into latents.

        Args:
            pixel_samples: [B, H, W, C], 0..1.

        Returns:
            [B, C, H / ratio, W / ratio], float32, on `output_device`. In tiles if the whole does
            not fit into free memory.

        Raises:
            RuntimeError: If the VAE is invalid.
            OutOfMemoryError: If not even the smallest tile fits.
        """
        self.throw_exception_if_invalid()
        pixels = self.vae_encode_crop_pixels(pixel_samples).movedim(-1, 1)

        def in_tiles(side: int) -> torch.Tensor:
            return self.encode_tiled_(pixels, side, side, side // _OVERLAP_PART)

        sides = [side * self.downscale_ratio for side in _DECODE_TILES]
        return self._run(pixels, self.memory_used_encode, self._encode_batch, in_tiles, sides)

    def _decode_batch(self, latents: torch.Tensor) -> torch.Tensor:
        return self.process_output(self._decoded(latents))

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures as the network gives them; where they are added up."""
        decoded = self.first_stage_model.decode(latents.to(self.device, self.vae_dtype))
        return decoded.to(self.output_device).float()

    def _encode_batch(self, pixels: torch.Tensor) -> torch.Tensor:
        prepared = self.process_input(pixels.to(self.device).float()).to(self.vae_dtype)
        return self.first_stage_model.encode(prepared).to(self.output_device).float()

    def _load(self, wanted: int, least: int) -> int:
        """Bring the weights, with room for activations; returns the bytes that are free then."""
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=wanted, minimum_memory_required=least
        )
        return int(comfy.model_management.get_free_memory(self.device))

    def _run(
        self,
        samples: torch.Tensor,
        memory_used: MemoryUsed,
        on_batch: Callable[[torch.Tensor], torch.Tensor],
        in_tiles: Callable[[int], torch.Tensor],
        sides: Sequence[int],
    ) -> torch.Tensor:
        """Load, and run whole or in tiles; see `comfy.vae_runs.whole_or_tiled`."""

        def needs(height: int, width: int) -> int:
            return memory_used((1, 1, height, width), self.vae_dtype)

        height, width = samples.shape[-2:]
        least = min(needs(height, width), needs(sides[-1], sides[-1]))
        free = self._load(needs(height, width), least)
        return whole_or_tiled(samples, needs, free, on_batch, in_tiles, sides)

    # -- in tiles --------------------------------------------------------------------------------

    def decode_tiled_(
        self, samples: torch.Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 16
    ) -> torch.Tensor:
        """Decode in tiles, the weights being loaded: the mean of three tilings.

        Args:
            samples: [B, C, h, w].
            tile_x: Width of a tile, in positions of the latent.
            tile_y: Its height.
            overlap: Of neighbours.

        Returns:
            [B, channels, H, W], 0..1.
        """
        return self.process_output(
            mean_of_tilings(
                samples,
                self._decoded,
                (tile_x, tile_y, overlap),
                upscale_amount=self.upscale_ratio,
                out_channels=self.output_channels,
                output_device=self.output_device,
            )
        )

    def encode_tiled_(
        self, pixel_samples: torch.Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64
    ) -> torch.Tensor:
        """Encode in tiles, the weights being loaded: the mean of three tilings.

        Args:
            pixel_samples: [B, channels, H, W], 0..1; sizes are multiples of the ratio.
            tile_x: Width of a tile, in pixels.
            tile_y: Its height.
            overlap: Of neighbours.

        Returns:
            [B, C, h, w].
        """
        return mean_of_tilings(
            pixel_samples,
            self._encode_batch,
            (tile_x, tile_y, overlap),
            upscale_amount=1 / self.downscale_ratio,
            out_channels=self.latent_channels,
            output_device=self.output_device,
        )

    def _ready_for_tiles(self, memory_used: MemoryUsed, width: int, height: int) -> tuple[int, int]:
        """Load, with room for one tile; returns its size."""
        self.throw_exception_if_invalid()
        need = memory_used((1, 1, height, width), self.vae_dtype)
        self._load(need, need)
        return width, height

    @torch.no_grad()
    def decode_tiled(
        self,
        samples: torch.Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,
        overlap_t: int | None = None,
    ) -> torch.Tensor:
        """Decode in tiles of a given size, in positions of the latent; see `decode`.

        Args:
            samples: [B, C, h, w].
            tile_x: 64 if None.
            tile_y: 64 if None.
            overlap: 16 if None.
            tile_t: Of videos; without effect.
            overlap_t: Of videos; without effect.
        """
        tile = self._ready_for_tiles(self.memory_used_decode, tile_x or 64, tile_y or 64)
        shared = 16 if overlap is None else overlap
        return self.decode_tiled_(samples, *tile, shared).movedim(1, -1)

    @torch.no_grad()
    def encode_tiled(
        self,
        pixel_samples: torch.Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,
        overlap_t: int | None = None,
    ) -> torch.Tensor:
        """Encode in tiles of a given size, in pixels; see `encode`.

        Args:
            pixel_samples: [B, H, W, C], 0..1.
            tile_x: 512 if None.
            tile_y: 512 if None.
            overlap: 64 if None.
            tile_t: Of videos; without effect.
            overlap_t: Of videos; without effect.
        """
        tile = self._ready_for_tiles(self.memory_used_encode, tile_x or 512, tile_y or 512)
        pixels = self.vae_encode_crop_pixels(pixel_samples).movedim(-1, 1)
        return self.encode_tiled_(pixels, *tile, 64 if overlap is None else overlap)
