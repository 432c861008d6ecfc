"""Pictures with opacities: laid over each other, taken apart, put together."""

from __future__ import annotations

import torch

import comfy.utils
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.masks.shapes import as_batch
from comfy_extras.pictures import porter_duff
from comfy_extras.pictures.geometry import scaled
from node_helpers import image_alpha_fix

_CATEGORY = "mask/compositing"


def _opacity(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """1 - mask, at a size, [B, 1, H, W]."""
    planes = 1.0 - mask.reshape(-1, 1, *mask.shape[-2:])
    if planes.shape[-2:] == (height, width):
        return planes
    return comfy.utils.common_upscale(planes, width, height, "bicubic", "center").clamp(0.0, 1.0)


class PorterDuffImageComposite(io.ComfyNode):
    """Lays one picture over another, each with its opacity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="PorterDuffImageComposite",
            display_name="Porter-Duff Image Composite",
            category=_CATEGORY,
            inputs=[
                io.Image.Input("source"),
                io.Mask.Input("source_alpha"),
                io.Image.Input("destination"),
                io.Mask.Input("destination_alpha"),
                io.Combo.Input("mode", options=list(porter_duff.MODES), default="DST"),
            ],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def execute(
        cls,
        source: torch.Tensor,
        source_alpha: torch.Tensor,
        destination: torch.Tensor,
        destination_alpha: torch.Tensor,
        mode: str,
    ) -> io.NodeOutput:
        """Everything takes the size of `destination`; the shortest batch counts.

        Masks are 1 where a picture is transparent, also the one that comes out.
        """
        height, width = destination.shape[1:3]
        destination, source = image_alpha_fix(destination, source)
        if source.shape[1:3] != (height, width):
            source = scaled(source, width, height, "bicubic", "center").clamp(0.0, 1.0)
        alphas = [_opacity(mask, height, width) for mask in (source_alpha, destination_alpha)]
        count = min(one.shape[0] for one in (source, destination, *alphas))
        over, under = (
            porter_duff.layer(image[:count].movedim(-1, 1), alpha[:count])
            for image, alpha in zip((source, destination), alphas, strict=True)
        )
        result = porter_duff.compose(over, under, mode)
        image = porter_duff.colours_of(result).movedim(1, -1)
        return io.NodeOutput(image, 1.0 - result[1][:, 0])

    composite = execute


class SplitImageWithAlpha(io.ComfyNode):
    """Takes a picture's opacity off."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="SplitImageWithAlpha",
            display_name="Split Image with Alpha",
            category=_CATEGORY,
            inputs=[io.Image.Input("image")],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor) -> io.NodeOutput:
        """The colours, and a mask that is 1 where they are transparent."""
        if image.shape[-1] > 3:
            return io.NodeOutput(image[..., :3], 1.0 - image[..., 3])
        return io.NodeOutput(image, torch.zeros_like(image[..., 0]))

    split_image_with_alpha = execute


class JoinImageWithAlpha(io.ComfyNode):
    """Gives a picture an opacity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="JoinImageWithAlpha",
            display_name="Join Image with Alpha",
            category=_CATEGORY,
            inputs=[io.Image.Input("image"), io.Mask.Input("alpha")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, alpha: torch.Tensor) -> io.NodeOutput:
        """Four channels; `alpha` is 1 where the picture becomes transparent. Batches repeat."""
        masks = as_batch(alpha).to(image)
        count = max(image.shape[0], masks.shape[0])
        colours = comfy.utils.repeat_to_batch_size(image[..., :3], count)
        covered = comfy.utils.reshape_mask(masks, (count, 1, *image.shape[1:3]))
        return io.NodeOutput(torch.cat((colours, 1.0 - covered.movedim(1, -1)), dim=-1))

    join_image_with_alpha = execute


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(PorterDuffImageComposite, SplitImageWithAlpha, JoinImageWithAlpha)
