"""Nodes that make one batch of as many inputs as are linked."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.latents.batch_nodes import gathered as gathered_latents
from comfy_extras.pictures.geometry import gathered

_MOST = 50


def _schema(what: str, category: str, kind: Any) -> io.Schema:
    """A node that joins things of one kind.

    Args:
        what: They in the singular, "Image" for a node BatchImagesNode of images.image0 and so on.
    """
    name = what.lower()
    template = io.Autogrow.TemplatePrefix(kind.Input(name), prefix=name, min=2, max=_MOST)
    return io.Schema(
        node_id=f"Batch{what}sNode",
        display_name=f"Batch {what}s",
        category=category,
        inputs=[io.Autogrow.Input(f"{name}s", template=template)],
        outputs=[kind.Output()],
    )


class BatchImagesNode(io.ComfyNode):
    """Joins pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _schema("Image", "image", io.Image)

    @classmethod
    def execute(cls, images: dict[str, torch.Tensor]) -> io.NodeOutput:
        """All take the size of the first."""
        return io.NodeOutput(gathered(list(images.values())))


class BatchMasksNode(io.ComfyNode):
    """Joins masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _schema("Mask", "mask", io.Mask)

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
        return _schema("Latent", "latent", io.Latent)

    @classmethod
    def execute(cls, latents: dict[str, dict[str, Any]]) -> io.NodeOutput:
        """All take the size of the first; see `comfy_extras.latents.batch_nodes.gathered`."""
        return io.NodeOutput(gathered_latents(list(latents.values())))
