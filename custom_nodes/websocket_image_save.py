"""A node for programs that want pictures at once: it sends them, and saves nothing."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from PIL import Image

import comfy.utils


class SaveImageWebsocket:
    """Sends each picture as a preview of its full size, encoded as PNG."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"images": ("IMAGE",)}}

    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    CATEGORY = "api/image"

    def save_images(self, images: torch.Tensor) -> dict[str, Any]:
        """Send pictures.

        Args:
            images: (batch, height, width, channels), 0 to 1.
        """
        bar = comfy.utils.ProgressBar(images.shape[0])
        for index, image in enumerate(images):
            levels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
            bar.update_absolute(index, None, ("PNG", Image.fromarray(levels), None))
        return {}

    @classmethod
    def IS_CHANGED(cls, images: Any) -> float:
        """Always another value: who asks again wants the pictures again."""
        return time.time()


NODE_CLASS_MAPPINGS = {"SaveImageWebsocket": SaveImageWebsocket}
