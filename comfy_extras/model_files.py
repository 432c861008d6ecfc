"""Where models are saved in the output folder, and what is written into the head of their files."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch

import comfy.sd
import comfy.utils
import folder_paths
from comfy import checkpoints, model_base, model_sampling
from comfy.image_saving import graph_metadata
from comfy.latent_formats import SDXL_Playground_2_5

logger = logging.getLogger(__name__)

# Names of Stability AI's model specification 1.0.0.
_ARCHITECTURES = (
    (model_base.SDXLRefiner, "stable-diffusion-xl-v1-refiner"),
    (model_base.SDXL, "stable-diffusion-xl-v1-base"),
)


def output_file(prefix: str, output_dir: str | None = None) -> tuple[str, str]:
    """Choose a safetensors file that is not there yet.

    Args:
        prefix: Folder below the output folder and beginning of the name, with its tokens.
        output_dir: Instead of the output folder.

    Returns:
        The path, and the file's title: name and number.
    """
    folder, name, counter, _, _ = folder_paths.get_save_image_path(
        prefix, output_dir or folder_paths.get_output_directory()
    )
    return os.path.join(folder, f"{name}_{counter:05}_.safetensors"), f"{name} {counter}"


def write_file(
    path: str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None
) -> None:
    """Write a file and say so."""
    comfy.utils.save_torch_file(tensors, path, metadata=metadata)
    logger.info("saved %s", path)


def save_checkpoint(
    model: Any,
    clip: Any = None,
    vae: Any = None,
    clip_vision: Any = None,
    filename_prefix: str = "checkpoints/ComfyUI",
    output_dir: str | None = None,
    prompt: Any = None,
    extra_pnginfo: Mapping[str, Any] | None = None,
) -> None:
    """Save a model, perhaps with what belongs to it, as one checkpoint; packs call it, too.

    Args:
        model: A patcher; its patches are applied.
        clip: Text encoders, likewise.
        vae: An autoencoder.
        clip_vision: A vision encoder.
        filename_prefix: See `output_file`.
        output_dir: See there.
        prompt: The graph, for the file's head.
        extra_pnginfo: What else belongs there, such as the page's workflow.
    """
    path, title = output_file(filename_prefix, output_dir)
    metadata = specification(model, title) | graph_metadata(prompt, extra_pnginfo)
    marks = marks_of(model)
    comfy.sd.save_checkpoint(
        path, model, clip, vae, clip_vision, metadata=metadata, extra_keys=marks
    )
    logger.info("saved %s", path)


def specification(model: Any, title: str) -> dict[str, str]:
    """Describe a model as Stability AI's specification does, as far as it has words for it."""
    found: dict[str, str] = {}
    for kind, name in _ARCHITECTURES:
        if isinstance(model.model, kind):
            found["modelspec.architecture"] = name
            break
    if found:
        found["modelspec.sai_model_spec"] = "1.0.0"
        found["modelspec.implementation"] = "sgm"
        found["modelspec.title"] = title
    sampling = model.get_model_object("model_sampling")
    if _predicts_v(sampling):
        found["modelspec.predict_key"] = "v"
    elif _predicts_noise(sampling):
        found["modelspec.predict_key"] = "epsilon"
    return found


def marks_of(model: Any) -> dict[str, torch.Tensor]:
    """Tensors by which a loader knows what a network predicts, where its shapes do not tell.

    Args:
        model: A patcher; its sampling object may be patched.
    """
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, model_sampling.ModelSamplingContinuousEDM):
        if _predicts_v(sampling):
            return {
                "edm_vpred.sigma_max": torch.tensor(float(sampling.sigma_max)),
                "edm_vpred.sigma_min": torch.tensor(float(sampling.sigma_min)),
            }
        latents = model.model.latent_format
        if isinstance(latents, SDXL_Playground_2_5):
            means, deviations = latents.latents_mean, latents.latents_std
            return {"edm_mean": torch.tensor(means), "edm_std": torch.tensor(deviations)}
        return {}
    if not _predicts_v(sampling):
        return {}
    marks = {"v_pred": torch.empty(0)}
    if getattr(sampling, "zsnr", False):
        marks["ztsnr"] = torch.empty(0)
    return marks


def _predicts_v(sampling: Any) -> bool:
    is_v = isinstance(sampling, model_sampling.V_PREDICTION)
    return is_v and not isinstance(sampling, model_sampling.EDM)


def _predicts_noise(sampling: Any) -> bool:
    others = (model_sampling.V_PREDICTION, model_sampling.X0)
    return isinstance(sampling, model_sampling.EPS) and not isinstance(sampling, others)


def text_encoder_files(clip: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Text encoders as their own files name them, patches applied when they are written.

    Returns:
        By the encoder's name, such as "clip_l"; what belongs to none of them has the name "".
    """
    weights = checkpoints.weights_of_text_encoders(clip)
    inner = "transformer."
    parts = {key: key.partition(".")[::2] for key in weights}
    names = {name for name, rest in parts.values() if rest.startswith(inner)}
    files: dict[str, dict[str, torch.Tensor]] = {}
    for key, (name, rest) in parts.items():
        if name in names:
            files.setdefault(name, {})[rest.removeprefix(inner)] = weights[key]
        else:
            files.setdefault("", {})[key] = weights[key]
    return files
