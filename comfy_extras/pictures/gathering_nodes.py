"""Nodes that make one batch of as many inputs as are linked."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.latents.batch_nodes import gathered as gathered_latents
from comfy_extras.pictures.geometry import gathered

_MOST = 50


def _several(name: str, part: Any) -> Any:
    template = io.Autogrow.TemplatePrefix(part, prefix=part.id, min=2, max=_MOST)
    return io.Autogrow.Input(name, template=template)


class BatchImagesNode(io.ComfyNode):
    """Joins pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="BatchImagesNode",
            display_name="Batch Images",
            category="image",
            inputs=[_several("images", io.Image.Input("image"))],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, images: dict[str, torch.Tensor]) -> io.NodeOutput:
        """All take the size of the first."""
        return io.NodeOutput(gathered(list(images.values())))


class BatchMasksNode(io.ComfyNode):
    """Joins masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="BatchMasksNode",
            display_name="Batch Masks",
            category="mask",
            inputs=[_several("masks", io.Mask.Input("mask"))],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, masks: dict[str, torch.Tensor]) -> io.NodeOutput:
        """All take the size of the first."""
        pictures = [mask.reshape(-1, *mask.shape[-2:], 1) for mask in masks.values()]
        return io.NodeOutput(gathered(pictures)[..., 0])


class BatchLatentsNode(io.ComfyNode):
    """Joins latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="BatchLatentsNode",
            display_name="Batch Latents",
            category="latent",
            inputs=[_several("latents", io.Latent.Input("latent"))],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, latents: dict[str, dict[str, Any]]) -> io.NodeOutput:
        """All take the size of the first; see `comfy_extras.latents.batch_nodes.gathered`."""
        return io.NodeOutput(gathered_latents(list(latents.values())))
