"""Picture encoders, and what they find in pictures."""

from __future__ import annotations

from typing import Any

import torch

import comfy.clip_vision
import folder_paths


class CLIPVisionLoader:
    """Loads a picture encoder."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"clip_name": (folder_paths.get_filename_list("clip_vision"),)}}

    RETURN_TYPES = ("CLIP_VISION",)
    FUNCTION = "load_clip"
    CATEGORY = "loaders"

    def load_clip(self, clip_name: str) -> tuple[Any]:
        """Give it; RuntimeError if the file holds none. No weight is read yet."""
        path = folder_paths.get_full_path_or_raise("clip_vision", clip_name)
        return (comfy.clip_vision.load(path),)


class CLIPVisionEncode:
    """Encodes pictures."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "clip_vision": ("CLIP_VISION",),
                "image": ("IMAGE",),
                "crop": (["center", "none"],),
            }
        }

    RETURN_TYPES = ("CLIP_VISION_OUTPUT",)
    FUNCTION = "encode"
    CATEGORY = "conditioning"

    def encode(self, clip_vision: Any, image: torch.Tensor, crop: str) -> tuple[Any]:
        """Encode; "none" squeezes a picture that is no square instead of cutting it."""
        return (clip_vision.encode_image(image, crop=crop == "center"),)


NODE_CLASS_MAPPINGS = {
    "CLIPVisionLoader": CLIPVisionLoader,
    "CLIPVisionEncode": CLIPVisionEncode,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "CLIPVisionLoader": "Load CLIP Vision",
    "CLIPVisionEncode": "CLIP Vision Encode",
}
