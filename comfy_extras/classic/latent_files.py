"""Latents to and from files: safetensors with the extension .latent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import comfy.utils
import folder_paths
from comfy.image_saving import graph_metadata
from comfy_extras.classic.input_files import check_exists, content_hash, input_names, path_of

Latent = dict[str, Any]

_SUFFIX = ".latent"
_SAMPLES = "latent_tensor"
_IS_UNSCALED = "latent_format_version_0"
# Files without the marker hold latents as networks of SD 1.5 see them.
_OLD_SCALE = 0.18215


class SaveLatent:
    """Writes a latent into the output folder."""

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_output_directory()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "samples": ("LATENT",),
                "filename_prefix": ("STRING", {"default": "latents/ComfyUI"}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "_for_testing"

    def save(
        self,
        samples: Latent,
        filename_prefix: str = "ComfyUI",
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Save the samples, not masks; gives the record of the file."""
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, self.output_dir
        )
        file = f"{name}_{counter:05}_{_SUFFIX}"
        tensors = {_SAMPLES: samples["samples"].contiguous(), _IS_UNSCALED: torch.empty(0)}
        metadata = graph_metadata(prompt, extra_pnginfo)
        comfy.utils.save_torch_file(tensors, Path(folder, file), metadata=metadata or None)
        record = {"filename": file, "subfolder": subfolder, "type": "output"}
        return {"ui": {"latents": [record]}}


class LoadLatent:
    """Reads a latent of the input folder."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        names = [name for name in input_names() if name.endswith(_SUFFIX)]
        return {"required": {"latent": (names,)}}

    CATEGORY = "_for_testing"
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "load"

    def load(self, latent: str) -> tuple[Latent]:
        """Give the samples, float32; ValueError if the file holds none."""
        path = path_of(latent)
        tensors = comfy.utils.load_torch_file(path, safe_load=True)
        if _SAMPLES not in tensors:
            raise ValueError(
                f"{path} holds no latent: it has no tensor '{_SAMPLES}'. Take a file that "
                "SaveLatent wrote."
            )
        scale = 1.0 if _IS_UNSCALED in tensors else 1.0 / _OLD_SCALE
        return ({"samples": tensors[_SAMPLES].float() * scale},)

    @classmethod
    def IS_CHANGED(cls, latent: str | None) -> str | float:
        """The content's hash: a file that was replaced is read again."""
        return content_hash(latent)

    @classmethod
    def VALIDATE_INPUTS(cls, latent: str | None) -> bool | str:
        """Any existing file will do, listed or not."""
        return check_exists(latent, "latent")


NODE_CLASS_MAPPINGS = {"SaveLatent": SaveLatent, "LoadLatent": LoadLatent}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
