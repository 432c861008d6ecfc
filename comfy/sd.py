"""What custom nodes import as `comfy.sd`: models out of files, and checkpoints back into them.

A loader looks at names and shapes; weights stay in their file until they are needed. Functions
are defined here, and called through the module, because packs replace them.
"""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch

import comfy.gligen
import comfy.lora
import comfy.lora_convert
import comfy.utils
from comfy import checkpoints, model_building, style_models, text_encoder_kinds
from comfy.clip import CLIP
from comfy.file_kinds import UndetectedModel, explain, named_by_path
from comfy.model_patcher import ModelPatcher
from comfy.state_loading import numbers_from_shapes, origin_of, summarised
from comfy.style_models import StyleModel
from comfy.text_encoder_kinds import TEModel, detect_te_model
from comfy.textual_inversion import Directories
from comfy.vae import VAE

__all__ = [
    "CLIP",
    "VAE",
    "CLIPType",
    "StyleModel",
    "TEModel",
    "detect_te_model",
    "load_checkpoint",
    "load_checkpoint_guess_config",
    "load_clip",
    "load_diffusion_model",
    "load_diffusion_model_state_dict",
    "load_gligen",
    "load_lora_for_models",
    "load_state_dict_guess_config",
    "load_style_model",
    "load_text_encoder_state_dicts",
    "load_unet",
    "load_unet_state_dict",
    "save_checkpoint",
]

logger = logging.getLogger(__name__)

StateDict = MutableMapping[str, torch.Tensor]
Loaded = tuple["ModelPatcher | None", "CLIP | None", "VAE | None", Any]


class CLIPType(enum.Enum):
    """For which family text encoders are loaded; used where their files do not tell."""

    STABLE_DIFFUSION = 1
    STABLE_CASCADE = 2
    SD3 = 3
    STABLE_AUDIO = 4
    HUNYUAN_DIT = 5
    FLUX = 6
    MOCHI = 7
    LTXV = 8
    HUNYUAN_VIDEO = 9
    PIXART = 10
    COSMOS = 11
    LUMINA2 = 12
    WAN = 13
    HIDREAM = 14
    CHROMA = 15
    ACE = 16
    OMNIGEN2 = 17
    QWEN_IMAGE = 18
    HUNYUAN_IMAGE = 19
    HUNYUAN_VIDEO_15 = 20
    OVIS = 21
    KANDINSKY5 = 22
    KANDINSKY5_IMAGE = 23
    NEWBIE = 24


# -- checkpoints ---------------------------------------------------------------------------------


def load_checkpoint_guess_config(
    ckpt_path: str,
    output_vae: bool = True,
    output_clip: bool = True,
    output_clipvision: bool = False,
    embedding_directory: Directories = None,
    output_model: bool = True,
    model_options: Mapping[str, Any] | None = None,
    te_model_options: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load a checkpoint, whatever family it is of; no weight is read.

    Args:
        ckpt_path: A file with a diffusion model, perhaps with its text encoders and its VAE.
        output_vae: Make the VAE.
        output_clip: Make the text encoders.
        output_clipvision: Make the vision encoder; of the families here, unCLIP has one.
        embedding_directory: Where textual inversions are.
        output_model: Make the diffusion model.
        model_options: ``dtype``, ``custom_operations``, ``fp8_optimizations``.
        te_model_options: The same for text encoders, and ``load_device``, ``offload_device``.

    Returns:
        Patcher of the model, text encoders, VAE, vision encoder. What was not asked for is None.
        Encoders that the file lacks are None, and a VAE that it lacks is an invalid one
        (see `VAE.throw_exception_if_invalid`), each with a warning.

    Raises:
        RuntimeError: If the file holds no model that can be run; the message says what it holds.
        LoadError: If the file is damaged.
    """
    sd, metadata = comfy.utils.load_torch_file(ckpt_path, return_metadata=True)
    with named_by_path(ckpt_path):
        loaded = load_state_dict_guess_config(
            sd,
            output_vae,
            output_clip,
            output_clipvision,
            embedding_directory,
            output_model,
            model_options,
            te_model_options,
            metadata=metadata,
        )
    if loaded is None:
        raise UndetectedModel(explain(sd, ckpt_path, "a checkpoint"))
    return loaded


def load_state_dict_guess_config(
    sd: StateDict,
    output_vae: bool = True,
    output_clip: bool = True,
    output_clipvision: bool = False,
    embedding_directory: Directories = None,
    output_model: bool = True,
    model_options: Mapping[str, Any] | None = None,
    te_model_options: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Loaded | None:
    """Load a checkpoint's state dict; see `load_checkpoint_guess_config`.

    Args:
        sd: What is used is taken out of it.
        output_vae: See there, like all to the metadata.
        output_clip: See there.
        output_clipvision: See there.
        embedding_directory: See there.
        output_model: See there.
        model_options: See there.
        te_model_options: See there.
        metadata: Of the file.

    Returns:
        None if nothing known is there.
    """
    origin = origin_of(sd)
    found = checkpoints.recognise(sd, metadata)
    if found is None:
        bare = load_diffusion_model_state_dict(sd, model_options or {}, metadata=metadata)
        return None if bare is None else (bare, None, VAE(sd={}, origin=origin), None)
    parts = checkpoints.take_apart(sd, found, origin)
    model = clip = vae = None
    if output_vae:
        vae = VAE(sd=parts.vae, metadata=metadata, origin=origin)
    if output_clip and parts.target is not None and parts.text_encoders:
        clip = CLIP(
            parts.target,
            embedding_directory=embedding_directory,
            state_dict=parts.text_encoders,
            model_options=te_model_options,
        )
    if output_model:
        model = model_building.build_model(
            found.config, parts.network, found.prefix, model_options or {}, origin, parts.marks
        )
    vision = parts.load_vision(origin) if output_clipvision else None
    parts.report_missing(origin, vae=output_vae, clip=output_clip)
    return model, clip, vae, vision


def load_checkpoint(
    config_path: str | None = None,
    ckpt_path: str | None = None,
    output_vae: bool = True,
    output_clip: bool = True,
    embedding_directory: Directories = None,
    state_dict: StateDict | None = None,
    config: Any = None,
) -> tuple[ModelPatcher | None, CLIP | None, VAE | None]:
    """Load a checkpoint; deprecated, the configuration is not read any more.

    Args:
        config_path: Without effect.
        ckpt_path: Of the checkpoint; may be None if there is a state dict.
        output_vae: See `load_checkpoint_guess_config`.
        output_clip: See there.
        embedding_directory: See there.
        state_dict: Instead of a file.
        config: Without effect.
    """
    logger.warning("load_checkpoint is deprecated: use load_checkpoint_guess_config")
    if state_dict is not None:
        loaded = load_state_dict_guess_config(
            state_dict, output_vae, output_clip, False, embedding_directory
        )
        if loaded is None:
            raise UndetectedModel(explain(state_dict, "", "a checkpoint"))
        return loaded[:3]
    if ckpt_path is None:
        raise ValueError("load_checkpoint needs ckpt_path or state_dict")
    return load_checkpoint_guess_config(
        ckpt_path, output_vae, output_clip, False, embedding_directory
    )[:3]


def save_checkpoint(
    output_path: str | os.PathLike[str],
    model: ModelPatcher,
    clip: CLIP | None = None,
    vae: VAE | None = None,
    clip_vision: Any = None,
    metadata: Mapping[str, str] | None = None,
    extra_keys: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint with all patches applied; weights are read, patched and written in turn.

    Nothing is loaded for it, and what is loaded stays as it is.

    Args:
        output_path: A safetensors file, written whole or not at all.
        model: Its patches are applied.
        clip: The same.
        vae: The same.
        clip_vision: Its weights as they are.
        metadata: Strings for the header.
        extra_keys: Further tensors, such as marks of what the model predicts.

    Raises:
        WeightSaveFailed: If the disk refuses.
    """
    joined = model.model.state_dict_for_saving(
        checkpoints.weights_of_network(model),
        None if clip is None else checkpoints.weights_of_text_encoders(clip),
        None if vae is None else checkpoints.weights_of_vae(vae),
        None if clip_vision is None else clip_vision.get_sd(),
    )
    comfy.utils.save_torch_file({**joined, **(extra_keys or {})}, output_path, metadata=metadata)


# -- diffusion models ----------------------------------------------------------------------------


def load_diffusion_model(
    unet_path: str, model_options: Mapping[str, Any] | None = None
) -> ModelPatcher:
    """Load a file that holds a diffusion model alone; no weight is read.

    Args:
        unet_path: Keys with a checkpoint's prefix, without, or as diffusers names them.
        model_options: See `load_checkpoint_guess_config`.

    Raises:
        RuntimeError: If nothing that can be run is there; the message says what is.
    """
    sd, metadata = comfy.utils.load_torch_file(unet_path, return_metadata=True)
    with named_by_path(unet_path):
        model = load_diffusion_model_state_dict(sd, model_options or {}, metadata=metadata)
    if model is None:
        raise UndetectedModel(explain(sd, unet_path, "a diffusion model"))
    return model


def load_diffusion_model_state_dict(
    sd: StateDict,
    model_options: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ModelPatcher | None:
    """Load a diffusion model's state dict; None if nothing known is there."""
    return model_building.build_bare_model(sd, model_options or {}, metadata, origin_of(sd))


def load_unet(unet_path: str, dtype: torch.dtype | None = None) -> ModelPatcher:
    """Load a diffusion model; deprecated name of `load_diffusion_model`."""
    return load_diffusion_model(unet_path, {"dtype": dtype})


def load_unet_state_dict(sd: StateDict, dtype: torch.dtype | None = None) -> ModelPatcher | None:
    """Load a diffusion model; deprecated name of `load_diffusion_model_state_dict`."""
    return load_diffusion_model_state_dict(sd, {"dtype": dtype})


def load_gligen(ckpt_path: str) -> ModelPatcher:
    """Load a GLIGEN; no weight is read. RuntimeError if the file holds none that can be run."""
    return comfy.gligen.load(ckpt_path)


def load_style_model(ckpt_path: str) -> StyleModel:
    """Load a style model; see `comfy.style_models.load`."""
    return style_models.load(ckpt_path)


# -- text encoders, LoRAs ------------------------------------------------------------------------


def load_clip(
    ckpt_paths: Sequence[str],
    embedding_directory: Directories = None,
    clip_type: CLIPType = CLIPType.STABLE_DIFFUSION,
    model_options: Mapping[str, Any] | None = None,
) -> CLIP:
    """Load text encoders, one from each file; no weight is read.

    Args:
        ckpt_paths: One or two files, in any order.
        embedding_directory: Where textual inversions are.
        clip_type: Says the family where the files do not.
        model_options: See `comfy.clip.CLIP`.

    Raises:
        RuntimeError: If a file holds no text encoder that can be run, or they do not belong
            together; the message says what they hold.
    """
    state_dicts = [comfy.utils.load_torch_file(path) for path in ckpt_paths]
    return load_text_encoder_state_dicts(
        state_dicts, embedding_directory, clip_type, model_options or {}
    )


def load_text_encoder_state_dicts(
    state_dicts: Sequence[Mapping[str, torch.Tensor]] = (),
    embedding_directory: Directories = None,
    clip_type: CLIPType = CLIPType.STABLE_DIFFUSION,
    model_options: Mapping[str, Any] | None = None,
) -> CLIP:
    """Load text encoders' state dicts; see `load_clip`."""
    with numbers_from_shapes(f"{', '.join(map(origin_of, state_dicts))}: text encoder"):
        found = [text_encoder_kinds.recognised(sd, origin_of(sd)) for sd in state_dicts]
        found = text_encoder_kinds.without_doubles(found)
    target = text_encoder_kinds.target_of([model for model, _ in found], clip_type.name)
    return CLIP(
        target,
        embedding_directory=embedding_directory,
        state_dict=text_encoder_kinds.collected(found),
        model_options=model_options,
    )


def load_lora_for_models(
    model: ModelPatcher | None,
    clip: CLIP | None,
    lora: Mapping[str, torch.Tensor],
    strength_model: float,
    strength_clip: float,
) -> tuple[ModelPatcher | None, CLIP | None]:
    """Add a LoRA to clones of a model and its text encoders; weights are patched when loaded.

    Args:
        model: Left as it is; None if there is none.
        clip: Likewise.
        lora: The file's state dict.
        strength_model: Of the change to the model.
        strength_clip: Of the change to the text encoders.

    Returns:
        The clones, or None where None was given. Keys that change nothing are named in a warning.
    """
    names: dict[str, Any] = {}
    if model is not None:
        names = comfy.lora.model_lora_keys_unet(model.model, names)
    if clip is not None:
        names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, names)
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(lora), names)
    new_model = new_clip = None
    used: set[Any] = set()
    if model is not None:
        new_model = model.clone()
        used.update(new_model.add_patches(patches, strength_model))
    if clip is not None:
        new_clip = clip.clone()
        used.update(new_clip.add_patches(patches, strength_clip))
    unused = [str(key) for key in patches if key not in used]
    if unused:
        logger.warning("LoRA: not used: %s", summarised(unused))
    return new_model, new_clip
