"""Loaders of old workflows: with a configuration's name, and from a pipeline's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import comfy.diffusers_load
import comfy.sd
import folder_paths
from comfy.file_listing import without_circles


class CheckpointLoader:
    """Loads a file that holds everything; the configuration that is named has no effect."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "config_name": (folder_paths.get_filename_list("configs"),),
                "ckpt_name": (folder_paths.get_filename_list("checkpoints"),),
            }
        }

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load_checkpoint"
    CATEGORY = "advanced/loaders"
    DEPRECATED = True

    @classmethod
    def VALIDATE_INPUTS(cls, config_name: str) -> bool:
        """Any name will do: workflows name files that nobody needs any more."""
        return True

    def load_checkpoint(self, config_name: str, ckpt_name: str) -> tuple[Any, ...]:
        """Give model, text encoders and autoencoder; what family they are is seen in the file."""
        return comfy.sd.load_checkpoint(
            folder_paths.get_full_path("configs", config_name),
            folder_paths.get_full_path_or_raise("checkpoints", ckpt_name),
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
        )


def _pipelines() -> Iterator[tuple[str, str]]:
    """Name and path of each pipeline; one that an earlier folder has, too, hides a later one."""
    for top in folder_paths.get_folder_paths("diffusers"):
        for path, folders, files in without_circles(top):
            if path != top and comfy.diffusers_load.MARK in files:
                yield os.path.relpath(path, top), path
                # Its parts are no pipelines.
                folders.clear()


class DiffusersLoader:
    """Loads a pipeline of the diffusers library."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        names = dict.fromkeys(name for name, _ in _pipelines())
        return {"required": {"model_path": (sorted(names),)}}

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load_checkpoint"
    CATEGORY = "advanced/loaders/deprecated"

    def load_checkpoint(
        self, model_path: str, output_vae: bool = True, output_clip: bool = True
    ) -> tuple[Any, Any, Any]:
        """Give model, text encoders and autoencoder; FileNotFoundError if a part is missing."""
        path = next((path for name, path in _pipelines() if name == model_path), None)
        if path is None:
            raise FileNotFoundError(
                f"There is no pipeline {model_path} in the folders for diffusers: "
                f"{', '.join(folder_paths.get_folder_paths('diffusers'))}."
            )
        return comfy.diffusers_load.load_diffusers(
            path, output_vae, output_clip, folder_paths.get_folder_paths("embeddings")
        )


NODE_CLASS_MAPPINGS = {
    "CheckpointLoader": CheckpointLoader,
    "DiffusersLoader": DiffusersLoader,
}
NODE_DISPLAY_NAME_MAPPINGS = {"CheckpointLoader": "Load Checkpoint With Config (DEPRECATED)"}
