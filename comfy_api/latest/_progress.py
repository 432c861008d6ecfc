"""What a node tells about its progress."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

import comfy.utils
from comfy.cli_args import args
from comfy.image_saving import to_pillow
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

_BATCHED = 4


class Execution:
    """What a running node can do."""

    async def set_progress(
        self,
        value: float,
        max_value: float,
        node_id: str | None = None,
        preview_image: Image.Image | torch.Tensor | None = None,
        ignore_size_limit: bool = False,
    ) -> None:
        """Tell how far a node is.

        Args:
            value: How much is done.
            max_value: What counts as all.
            node_id: The node; None is the one that runs.
            preview_image: A Pillow image, or an IMAGE, (height, width, channels) with or without
                batch, of which the first is shown.
            ignore_size_limit: Send it larger than --preview-size.

        Raises:
            ValueError: If no node runs and none is named.
            InterruptProcessingException: The user wants to stop.
        """
        context = get_executing_context()
        if node_id is None and context is None:
            raise ValueError("No node runs here. Say with node_id whose progress it is.")
        node = context.node_id if node_id is None and context is not None else node_id
        preview = _preview(preview_image, ignore_size_limit)
        hook = comfy.utils.PROGRESS_BAR_HOOK
        if hook is not None:
            hook(value, max_value, preview, node_id=node)
        else:
            get_progress_state().update_progress(str(node), value, max_value, preview)


def _preview(image: Any, ignore_size_limit: bool) -> tuple[str, Image.Image, int | None] | None:
    """Kind of file, picture and largest side."""
    if image is None:
        return None
    if isinstance(image, torch.Tensor):
        image = to_pillow(image[0] if image.ndim == _BATCHED else image)
    kind = "PNG" if "A" in image.getbands() else "JPEG"
    return kind, image, None if ignore_size_limit else args.preview_size
