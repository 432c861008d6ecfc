"""GLIGENs out of files, and the boxes that tell them what is where."""

from __future__ import annotations

from typing import Any

import comfy.gligen
import comfy.sd
import folder_paths
from comfy_extras.classic.conditioning import Conditioning, in_latent, needed_clip, pixels_input


class GLIGENLoader:
    """Loads a GLIGEN."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"gligen_name": (folder_paths.get_filename_list("gligen"),)}}

    RETURN_TYPES = ("GLIGEN",)
    FUNCTION = "load_gligen"
    CATEGORY = "loaders"

    def load_gligen(self, gligen_name: str) -> tuple[Any]:
        """Give it; RuntimeError if the file holds none. No weight is read yet."""
        path = folder_paths.get_full_path_or_raise("gligen", gligen_name)
        return (comfy.sd.load_gligen(path),)


class GLIGENTextBoxApply:
    """Adds a box to a prompt, and what is to be seen in it."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "conditioning_to": ("CONDITIONING",),
                "clip": ("CLIP",),
                "gligen_textbox_model": ("GLIGEN",),
                "text": ("STRING", {"multiline": True, "dynamicPrompts": True}),
                "width": pixels_input(64, 8),
                "height": pixels_input(64, 8),
                "x": pixels_input(0, 0),
                "y": pixels_input(0, 0),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "conditioning/gligen"

    def append(
        self,
        conditioning_to: Conditioning,
        clip: Any,
        gligen_textbox_model: Any,
        text: str,
        width: int,
        height: int,
        x: int,
        y: int,
    ) -> tuple[Conditioning]:
        """Add the box to those that each part has; the model is that of all of them.

        Args:
            conditioning_to: Stays as it is.
            clip: Of the diffusion model.
            gligen_textbox_model: What `GLIGENLoader` gives.
            text: The thing in the box.
            width: In pixels, as all that follow; rounded down to positions of the latent.
            height: See there.
            x: Left edge, from the picture's.
            y: Upper edge, from the picture's.

        Raises:
            TooManyBoxes: If there are then more than GLIGEN knows.
            RuntimeError: If there is no text encoder, or one that sums nothing up.
        """
        tokens = needed_clip(clip).tokenize(text)
        _, summary = clip.encode_from_tokens(tokens, return_pooled="unprojected")
        if summary is None:
            raise RuntimeError(
                "GLIGEN needs a text encoder that sums a text up in one vector, as CLIP does; the "
                "one that is connected gives none. Connect that of the SD 1.x checkpoint."
            )
        box = (summary, *in_latent(height, width, y, x))

        def added(options: dict[str, Any]) -> dict[str, Any]:
            boxes = [*(options["gligen"][2] if options.get("gligen") else ()), box]
            comfy.gligen.check_box_count(boxes)
            return {**options, "gligen": ("position", gligen_textbox_model, boxes)}

        return ([[part[0], added(part[1])] for part in conditioning_to],)


NODE_CLASS_MAPPINGS = {
    "GLIGENLoader": GLIGENLoader,
    "GLIGENTextBoxApply": GLIGENTextBoxApply,
}
# In the menu they have the names of their classes.
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
