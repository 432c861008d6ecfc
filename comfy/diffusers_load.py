"""Pipelines as the diffusers library keeps them: a folder with a folder for each part."""

from __future__ import annotations

import os
from typing import Any

import comfy.sd
import comfy.utils
from comfy.textual_inversion import Directories

MARK = "model_index.json"
"""The file that makes a folder a pipeline."""

_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
# Half precision first: it is half as much to read.
_ENDINGS = (
    ".fp16.safetensors",
    ".safetensors",
    ".safetensors.index.json",
    ".fp16.bin",
    ".bin",
)


def load_diffusers(
    model_path: str,
    output_vae: bool = True,
    output_clip: bool = True,
    embedding_directory: Directories = None,
) -> tuple[Any, Any, Any]:
    """Load a pipeline with a UNet; no weight is read.

    Args:
        model_path: The folder.
        output_vae: Make the VAE.
        output_clip: Make the text encoders.
        embedding_directory: Where textual inversions are.

    Returns:
        Patcher of the model, text encoders, VAE; None for what was not asked for.

    Raises:
        FileNotFoundError: A part has no file of weights.
        RuntimeError: A file holds nothing that can be run; the message says what it holds.
        LoadError: A file is damaged.
    """
    model = comfy.sd.load_diffusion_model(_weights(model_path, "unet"))
    clip = vae = None
    if output_clip:
        present = [one for one in _TEXT_ENCODERS if os.path.isdir(os.path.join(model_path, one))]
        paths = [_weights(model_path, one) for one in present or _TEXT_ENCODERS[:1]]
        clip = comfy.sd.load_clip(paths, embedding_directory)
    if output_vae:
        path = _weights(model_path, "vae")
        state, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
        vae = comfy.sd.VAE(sd=state, metadata=metadata, origin=path)
    return model, clip, vae


def _weights(folder: str, part: str) -> str:
    """The file with the weights of a part."""
    bases = ("model", "pytorch_model") if part in _TEXT_ENCODERS else ("diffusion_pytorch_model",)
    names = [base + ending for ending in _ENDINGS for base in bases]
    for name in names:
        path = os.path.join(folder, part, name)
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(
        f"{os.path.join(folder, part)} holds no weights: none of {', '.join(names)} is there. "
        "Download that part of the pipeline again."
    )
