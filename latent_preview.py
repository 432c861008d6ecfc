"""Pictures while sampling runs: from a latent to a small image at every step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

import comfy.model_management
import comfy.utils
import folder_paths
from comfy.cli_args import args
from comfy.cli_types import LatentPreviewMethod as LatentPreviewMethod
from comfy.taesd.taesd import TAESD

logger = logging.getLogger(__name__)

MAX_PREVIEW_RESOLUTION: int = args.preview_size
default_preview_method: LatentPreviewMethod = args.preview_method
"""That of the command line; prompts may ask for another."""


def preview_to_image(latent_image: torch.Tensor, do_scale: bool = True) -> Image.Image:
    """Make a picture of values.

    Args:
        latent_image: Shape (height, width, 3).
        do_scale: The values are from -1 to 1; else from 0 to 1.
    """
    values = latent_image.detach().to("cpu", torch.float32)
    if do_scale:
        values = (values + 1) / 2
    return Image.fromarray(values.clamp(0, 1).mul(255).to(torch.uint8).numpy())


class LatentPreviewer:
    """Makes previews; a subclass says how."""

    def decode_latent_to_preview(self, x0: torch.Tensor) -> Image.Image:
        """Make a picture of the first latent of a batch; shape (batch, channels, height, width)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a latent is shown")

    def decode_latent_to_preview_image(
        self, preview_format: str, x0: torch.Tensor
    ) -> tuple[str, Image.Image, int]:
        """Make what a progress hook takes: format, picture, largest side in pixels."""
        return ("JPEG", self.decode_latent_to_preview(x0), MAX_PREVIEW_RESOLUTION)


class TAESDPreviewerImpl(LatentPreviewer):
    """Shows what a small decoder makes of a latent."""

    def __init__(self, taesd: Any) -> None:
        self.taesd = taesd

    def decode_latent_to_preview(self, x0: torch.Tensor) -> Image.Image:
        """See `LatentPreviewer`."""
        weight = next(self.taesd.parameters())
        return preview_to_image(self.taesd.decode(x0[:1].to(weight))[0].movedim(0, 2))


class Latent2RGBPreviewer(LatentPreviewer):
    """Shows a linear guess of a latent's colours, one pixel for each position."""

    def __init__(
        self,
        latent_rgb_factors: Sequence[Sequence[float]],
        latent_rgb_factors_bias: Sequence[float] | None = None,
        latent_rgb_factors_reshape: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Prepare.

        Args:
            latent_rgb_factors: One row of red, green and blue for each channel.
            latent_rgb_factors_bias: Added to the colours.
            latent_rgb_factors_reshape: Brings a latent into the form that the factors are for.
        """
        self.latent_rgb_factors = torch.tensor(latent_rgb_factors).transpose(0, 1)
        self.latent_rgb_factors_bias = (
            None if latent_rgb_factors_bias is None else torch.tensor(latent_rgb_factors_bias)
        )
        self.latent_rgb_factors_reshape = latent_rgb_factors_reshape

    def decode_latent_to_preview(self, x0: torch.Tensor) -> Image.Image:
        """See `LatentPreviewer`; of a video the first frame."""
        if self.latent_rgb_factors_reshape is not None:
            x0 = self.latent_rgb_factors_reshape(x0)
        latent = x0[0] if x0.ndim == 4 else x0[0, :, 0]
        factors = self.latent_rgb_factors.to(latent)
        bias = self.latent_rgb_factors_bias
        colours = torch.nn.functional.linear(
            latent.movedim(0, -1), factors, None if bias is None else bias.to(latent)
        )
        return preview_to_image(colours)


def get_previewer(device: torch.device, latent_format: Any) -> LatentPreviewer | None:
    """Choose how latents are shown.

    Args:
        device: Where small decoders run.
        latent_format: Of the model.

    Returns:
        None if previews are off, or nothing is known about the format.
    """
    method = args.preview_method
    if method == LatentPreviewMethod.NoPreviews:
        return None
    if method == LatentPreviewMethod.TAESD:
        small = _small_decoder(device, latent_format)
        if small is not None:
            return small
    if latent_format.latent_rgb_factors is None:
        return None
    return Latent2RGBPreviewer(
        latent_format.latent_rgb_factors,
        latent_format.latent_rgb_factors_bias,
        latent_format.latent_rgb_factors_reshape,
    )


def _small_decoder(device: torch.device, latent_format: Any) -> TAESDPreviewerImpl | None:
    name = latent_format.taesd_decoder_name
    if name is None:
        return None
    names = folder_paths.get_filename_list("vae_approx")
    found = next((one for one in names if one.startswith(name)), None)
    path = None if found is None else folder_paths.get_full_path("vae_approx", found)
    if path is None:
        logger.warning(
            "Previews by TAESD need a file %s.safetensors or .pth in models/vae_approx; "
            "colours are guessed instead.",
            name,
        )
        return None
    decoder = TAESD(None, path, latent_channels=latent_format.latent_channels)
    return TAESDPreviewerImpl(decoder.to(device))


def prepare_callback(
    model: Any, steps: int, x0_output_dict: dict[str, Any] | None = None
) -> Callable[[int, torch.Tensor, torch.Tensor, int], None]:
    """Make what a sampler calls at each step: progress, with a preview if there are any.

    Args:
        model: The patcher.
        steps: How many are planned.
        x0_output_dict: Gets the denoised latent as "x0".
    """
    previewer = get_previewer(model.load_device, model.model.latent_format)
    bar = comfy.utils.ProgressBar(steps)

    def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
        if x0_output_dict is not None:
            x0_output_dict["x0"] = x0
        # Nobody sees a preview without a hook, and making one costs time at each step.
        shown = None
        if previewer is not None and bar.hook is not None:
            shown = previewer.decode_latent_to_preview_image("JPEG", x0)
        bar.update_absolute(step + 1, total_steps, shown)

    return callback


def set_preview_method(override: str | None = None) -> None:
    """Set how latents are shown from now on.

    Args:
        override: "none", "auto", "latent2rgb" or "taesd"; any other word, and None, mean what the
            command line says.
    """
    chosen = None if override is None else LatentPreviewMethod.from_string(override)
    args.preview_method = default_preview_method if chosen is None else chosen
