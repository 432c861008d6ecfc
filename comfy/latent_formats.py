"""How a family's latents are scaled between its VAE and its diffusion model.

`process_in` maps what the VAE gives to what the model was trained on, `process_out` maps back.
"""

from __future__ import annotations

import torch


class LatentFormat:
    """A latent scaled by one number.

    Attributes:
        scale_factor: what the VAE's latent is multiplied with.
        latent_channels: channels per position.
        latent_dimensions: axes after the channels: 2 for images, 3 for video, 1 for sound.
        latent_rgb_factors: [channels][3], a linear guess of a latent's colours (-1 .. 1) for
            previews; None where none has been measured.
        latent_rgb_factors_bias: [3], added to it.
        latent_rgb_factors_reshape: maps a latent to the form the factors are for.
        taesd_decoder_name: file stem of the small decoder for previews.
    """

    scale_factor = 1.0
    latent_channels = 4
    latent_dimensions = 2
    latent_rgb_factors: list[list[float]] | None = None
    latent_rgb_factors_bias: list[float] | None = None
    latent_rgb_factors_reshape = None
    taesd_decoder_name: str | None = None

    def process_in(self, latent: torch.Tensor) -> torch.Tensor:
        """From the VAE to the model; [B, C, ...], any dtype."""
        return latent * self.scale_factor

    def process_out(self, latent: torch.Tensor) -> torch.Tensor:
        """From the model to the VAE; [B, C, ...], any dtype."""
        return latent / self.scale_factor


class _Shifted(LatentFormat):
    """(latent - shift) * scale."""

    shift_factor = 0.0

    def process_in(self, latent: torch.Tensor) -> torch.Tensor:
        return (latent - self.shift_factor) * self.scale_factor

    def process_out(self, latent: torch.Tensor) -> torch.Tensor:
        return latent / self.scale_factor + self.shift_factor


class _Standardised(LatentFormat):
    """(latent - mean) * scale / std, with a mean and a std per channel."""

    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()

    def _per_channel(self, values: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
        return like.new_tensor(values).reshape(-1, *[1] * (like.ndim - 2))

    def process_in(self, latent: torch.Tensor) -> torch.Tensor:
        mean = self._per_channel(self.latents_mean, latent)
        std = self._per_channel(self.latents_std, latent)
        return (latent - mean) * self.scale_factor / std

    def process_out(self, latent: torch.Tensor) -> torch.Tensor:
        mean = self._per_channel(self.latents_mean, latent)
        std = self._per_channel(self.latents_std, latent)
        return latent * std / self.scale_factor + mean


class SD15(LatentFormat):
    """Stable Diffusion 1 and 2."""

    scale_factor = 0.18215
    taesd_decoder_name = "taesd_decoder"
    # A linear fit of decoded pixels that K. Turner published in 2022 for Stable Diffusion 1.4.
    latent_rgb_factors = [  # noqa: RUF012 - packs read and copy plain lists
        [0.298, 0.207, 0.208],
        [0.187, 0.286, 0.173],
        [-0.158, 0.189, 0.264],
        [-0.184, -0.271, -0.473],
    ]


class SDXL(LatentFormat):
    """SDXL, base and refiner."""

    scale_factor = 0.13025
    taesd_decoder_name = "taesdxl_decoder"


class SDXL_Playground_2_5(_Standardised):
    """Playground 2.5: SDXL's VAE with its own statistics."""

    scale_factor = 0.5
    taesd_decoder_name = "taesdxl_decoder"
    latents_mean = (-1.6574, 1.886, -1.383, 2.5155)
    latents_std = (8.4927, 5.9022, 6.5498, 5.2299)


class SD_X4(LatentFormat):
    """The 4x upscaler of Stable Diffusion 2."""

    scale_factor = 0.08333


class SC_Prior(LatentFormat):
    """Stable Cascade, stage C."""

    latent_channels = 16


class SC_B(LatentFormat):
    """Stable Cascade, stage B."""

    scale_factor = 1.0 / 0.43


class SD3(_Shifted):
    """Stable Diffusion 3 and 3.5."""

    latent_channels = 16
    scale_factor = 1.5305
    shift_factor = 0.0609
    taesd_decoder_name = "taesd3_decoder"


class Flux(SD3):
    """Flux 1, Chroma, Z-Image."""

    scale_factor = 0.3611
    shift_factor = 0.1159
    taesd_decoder_name = "taef1_decoder"


class Flux2(LatentFormat):
    """Flux 2: 2x2 patches packed into 128 channels, normalised inside the VAE."""

    latent_channels = 128


class ChromaRadiance(LatentFormat):
    """Chroma Radiance works on pixels: three channels, no VAE."""

    latent_channels = 3


class StableAudio1(LatentFormat):
    """Stable Audio 1."""

    latent_channels = 64
    latent_dimensions = 1


class Mochi(_Standardised):
    """Mochi 1 (statistics: the published model's VAE configuration)."""

    latent_channels = 12
    latent_dimensions = 3
    latents_mean = (
        *(-0.06730895953510081, -0.038011381506090416, -0.07477820912866141),
        *(-0.05565264470995561, 0.012767231469026969, -0.04703542746246419),
        *(0.043896967884726704, -0.09346305707025976, -0.09918314763016893),
        *(-0.008729793427399178, -0.011931556316503654, -0.0321993391887285),
    )
    latents_std = (
        *(0.9263795028493863, 0.9248894543193766, 0.9393059390890617),
        *(0.959253732819592, 0.8244560132752793, 0.917259975397747),
        *(0.9294154431013696, 1.3720942357788521, 0.881393668867029),
        *(0.9168315692124348, 0.9185249279345552, 0.9274757570805041),
    )


class LTXV(LatentFormat):
    """LTX-Video."""

    latent_channels = 128
    latent_dimensions = 3


class HunyuanVideo(LatentFormat):
    """HunyuanVideo."""

    latent_channels = 16
    latent_dimensions = 3
    scale_factor = 0.476986


class Cosmos1CV8x8x8(LatentFormat):
    """Cosmos 1: normalised inside the VAE."""

    latent_channels = 16
    latent_dimensions = 3


class Wan21(_Standardised):
    """Wan 2.1 and Qwen-Image: [B, 16, T, H, W]."""

    latent_channels = 16
    latent_dimensions = 3
    latents_mean = (
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    )
    latents_std = (
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    )
