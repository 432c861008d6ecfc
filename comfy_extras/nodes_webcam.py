"""A picture from the camera of whoever looks at the page."""

from __future__ import annotations

from typing import Any

import torch

from comfy_extras.classic.image_files import LoadImage
from node_helpers import MAX_RESOLUTION


class WebcamCapture(LoadImage):
    """Reads the picture that the page took and uploaded."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        side = {"default": 0, "min": 0, "max": MAX_RESOLUTION, "step": 1}
        return {
            "required": {
                "image": ("WEBCAM", {}),
                "width": ("INT", side),
                "height": ("INT", dict(side)),
                "capture_on_queue": ("BOOLEAN", {"default": True}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "load_capture"
    CATEGORY = "image"

    def load_capture(
        self, image: str, width: int = 0, height: int = 0, capture_on_queue: bool = True
    ) -> tuple[torch.Tensor]:
        """Only the file's name counts here; the page does the rest."""
        return (self.load_image(image)[0],)

    @classmethod
    def IS_CHANGED(
        cls, image: str | None, width: int = 0, height: int = 0, capture_on_queue: bool = True
    ) -> str | float:
        """See `LoadImage`."""
        return super().IS_CHANGED(image)


NODE_CLASS_MAPPINGS = {"WebcamCapture": WebcamCapture}
NODE_DISPLAY_NAME_MAPPINGS = {"WebcamCapture": "Webcam Capture"}
