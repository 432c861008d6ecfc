"""Checkpoints that see pictures, and pictures for them to see."""

from __future__ import annotations

from typing import Any

import comfy.sd
import folder_paths
from comfy_extras.classic.conditioning import Conditioning
from node_helpers import conditioning_set_values


class unCLIPCheckpointLoader:
    """Loads a file that holds everything, a picture encoder too."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"ckpt_name": (folder_paths.get_filename_list("checkpoints"),)}}

    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "CLIP_VISION")
    FUNCTION = "load_checkpoint"
    CATEGORY = "loaders"

    def load_checkpoint(
        self, ckpt_name: str, output_vae: bool = True, output_clip: bool = True
    ) -> tuple[Any, ...]:
        """Give model, text encoders, autoencoder and picture encoder; no weight is read yet."""
        return comfy.sd.load_checkpoint_guess_config(
            folder_paths.get_full_path_or_raise("checkpoints", ckpt_name),
            output_vae=output_vae,
            output_clip=output_clip,
            output_clipvision=True,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
        )


class unCLIPConditioning:
    """Lets a model see a picture beside the prompt."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        strength = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.01}
        noise = {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01}
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "clip_vision_output": ("CLIP_VISION_OUTPUT",),
                "strength": ("FLOAT", strength),
                "noise_augmentation": ("FLOAT", noise),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "apply_adm"
    CATEGORY = "conditioning"

    def apply_adm(
        self,
        conditioning: Conditioning,
        clip_vision_output: Any,
        strength: float,
        noise_augmentation: float,
    ) -> tuple[Conditioning]:
        """Add it to those that are there already; strength 0 changes nothing.

        Args:
            noise_augmentation: 0 to 1: how much the model may depart from the picture.
        """
        if strength == 0:
            return (conditioning,)
        picture = {
            "clip_vision_output": clip_vision_output,
            "strength": strength,
            "noise_augmentation": noise_augmentation,
        }
        values = {"unclip_conditioning": [picture]}
        return (conditioning_set_values(conditioning, values, append=True),)


NODE_CLASS_MAPPINGS = {
    "unCLIPCheckpointLoader": unCLIPCheckpointLoader,
    "unCLIPConditioning": unCLIPConditioning,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
