"""Pictures enlarged by a network that was trained for it."""

from __future__ import annotations

from typing import Any

import torch

import comfy.utils
import folder_paths
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.pictures.upscaling import from_state_dict, upscaled


class UpscaleModelLoader(io.ComfyNode):
    """Reads such a network."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        files = folder_paths.get_filename_list("upscale_models")
        return io.Schema(
            node_id="UpscaleModelLoader",
            display_name="Load Upscale Model",
            category="loaders",
            inputs=[io.Combo.Input("model_name", options=files)],
            outputs=[io.UpscaleModel.Output()],
        )

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        """See `comfy_extras.pictures.upscaling.from_state_dict`."""
        path = folder_paths.get_full_path_or_raise("upscale_models", model_name)
        state_dict = comfy.utils.load_torch_file(path, safe_load=True)
        return io.NodeOutput(from_state_dict(state_dict, path))

    load_model = execute


class ImageUpscaleWithModel(io.ComfyNode):
    """Enlarges pictures by it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="ImageUpscaleWithModel",
            display_name="Upscale Image (using Model)",
            category="image/upscaling",
            inputs=[io.UpscaleModel.Input("upscale_model"), io.Image.Input("image")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, upscale_model: Any, image: torch.Tensor) -> io.NodeOutput:
        """See `comfy_extras.pictures.upscaling.upscaled`."""
        return io.NodeOutput(upscaled(upscale_model, image))

    upscale = execute


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(UpscaleModelLoader, ImageUpscaleWithModel)
