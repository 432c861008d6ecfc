"""Loaders: files of the model folders to models, text encoders, autoencoders and LoRAs."""

from __future__ import annotations

import os
from typing import Any

import torch

import comfy.sd
import comfy.utils
import folder_paths

_FP8 = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
_CLIP_TYPES = [
    "stable_diffusion",
    "stable_cascade",
    "sd3",
    "stable_audio",
    "mochi",
    "ltxv",
    "pixart",
    "cosmos",
    "lumina2",
    "wan",
    "hidream",
    "chroma",
    "ace",
    "omnigen2",
    "qwen_image",
    "hunyuan_image",
    "flux2",
    "ovis",
]
_DUAL_CLIP_TYPES = [
    "sdxl",
    "sd3",
    "flux",
    "hunyuan_video",
    "hidream",
    "hunyuan_image",
    "hunyuan_video_15",
    "kandinsky5",
    "kandinsky5_image",
    "ltxv",
    "newbie",
]
# What a tiny autoencoder's latents are scaled and shifted by, to be those of its family.
_TINY_VAES = {
    "taesd": (0.18215, 0.0),
    "taesdxl": (0.13025, 0.0),
    "taesd3": (1.5305, 0.0609),
    "taef1": (0.3611, 0.1159),
}


def _strength(default: float = 1.0) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": default, "min": -100.0, "max": 100.0, "step": 0.01}


class CheckpointLoaderSimple:
    """Loads a file that holds everything."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"ckpt_name": (folder_paths.get_filename_list("checkpoints"),)}}

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load_checkpoint"
    CATEGORY = "loaders"

    def load_checkpoint(self, ckpt_name: str) -> tuple[Any, ...]:
        """Give model, text encoders and autoencoder; no weight is read yet."""
        path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
        embeddings = folder_paths.get_folder_paths("embeddings")
        return comfy.sd.load_checkpoint_guess_config(path, embedding_directory=embeddings)[:3]


class UNETLoader:
    """Loads a diffusion model alone."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        dtypes = ["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"]
        return {
            "required": {
                "unet_name": (folder_paths.get_filename_list("diffusion_models"),),
                "weight_dtype": (dtypes,),
            }
        }

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load_unet"
    CATEGORY = "advanced/loaders"

    def load_unet(self, unet_name: str, weight_dtype: str) -> tuple[Any]:
        """Give the model, its weights held in the chosen dtype."""
        options: dict[str, Any] = {}
        if weight_dtype != "default":
            options["dtype"] = _FP8[weight_dtype.removesuffix("_fast")]
            options["fp8_optimizations"] = weight_dtype.endswith("_fast")
        path = folder_paths.get_full_path_or_raise("diffusion_models", unet_name)
        return (comfy.sd.load_diffusion_model(path, model_options=options),)


def _load_clip(names: list[str], family: str, device: str) -> Any:
    options: dict[str, Any] = {}
    if device == "cpu":
        options["load_device"] = options["offload_device"] = torch.device("cpu")
    kind = getattr(comfy.sd.CLIPType, family.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)
    return comfy.sd.load_clip(
        ckpt_paths=[folder_paths.get_full_path_or_raise("text_encoders", name) for name in names],
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        clip_type=kind,
        model_options=options,
    )


_DEVICE = {"device": (["default", "cpu"], {"advanced": True})}


class CLIPLoader:
    """Loads one text encoder."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        names = folder_paths.get_filename_list("text_encoders")
        return {"required": {"clip_name": (names,), "type": (_CLIP_TYPES,)}, "optional": _DEVICE}

    RETURN_TYPES = ("CLIP",)
    FUNCTION = "load_clip"
    CATEGORY = "advanced/loaders"

    def load_clip(
        self, clip_name: str, type: str = "stable_diffusion", device: str = "default"
    ) -> tuple[Any]:
        """Give the text encoder."""
        return (_load_clip([clip_name], type, device),)


class DualCLIPLoader:
    """Loads two text encoders that work together."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        names = folder_paths.get_filename_list("text_encoders")
        required = {"clip_name1": (names,), "clip_name2": (names,), "type": (_DUAL_CLIP_TYPES,)}
        return {"required": required, "optional": _DEVICE}

    RETURN_TYPES = ("CLIP",)
    FUNCTION = "load_clip"
    CATEGORY = "advanced/loaders"

    def load_clip(
        self, clip_name1: str, clip_name2: str, type: str, device: str = "default"
    ) -> tuple[Any]:
        """Give both as one."""
        return (_load_clip([clip_name1, clip_name2], type, device),)


def _tiny_parts(name: str) -> list[str]:
    """Encoder's and decoder's file of a tiny autoencoder; fewer if it is not complete."""
    files = folder_paths.get_filename_list("vae_approx")
    starts = (f"{name}_encoder.", f"{name}_decoder.")
    found = ([file for file in files if file.startswith(start)] for start in starts)
    return [matches[0] for matches in found if matches]


def _load_tiny(name: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for half, file in zip(("taesd_encoder", "taesd_decoder"), _tiny_parts(name), strict=True):
        path = folder_paths.get_full_path_or_raise("vae_approx", file)
        for key, value in comfy.utils.load_torch_file(path).items():
            state[f"{half}.{key}"] = value
    scale, shift = _TINY_VAES[name]
    return {**state, "vae_scale": torch.tensor(scale), "vae_shift": torch.tensor(shift)}


class VAELoader:
    """Loads an autoencoder."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        tiny = [name for name in _TINY_VAES if len(_tiny_parts(name)) == 2]
        return {"required": {"vae_name": (folder_paths.get_filename_list("vae") + tiny,)}}

    RETURN_TYPES = ("VAE",)
    FUNCTION = "load_vae"
    CATEGORY = "loaders"

    def load_vae(self, vae_name: str) -> tuple[Any]:
        """Give the autoencoder; RuntimeError if the file holds none."""
        if vae_name in _TINY_VAES:
            state, metadata, origin = _load_tiny(vae_name), None, vae_name
        else:
            origin = folder_paths.get_full_path_or_raise("vae", vae_name)
            state, metadata = comfy.utils.load_torch_file(origin, return_metadata=True)
        vae = comfy.sd.VAE(sd=state, metadata=metadata, origin=origin)
        vae.throw_exception_if_invalid()
        return (vae,)


class LoraLoader:
    """Patches a model and its text encoders with a LoRA."""

    def __init__(self) -> None:
        self.loaded_lora: tuple[str, dict[str, torch.Tensor]] | None = None
        self._written: tuple[int, int] | None = None

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "lora_name": (folder_paths.get_filename_list("loras"),),
                "strength_model": _strength(),
                "strength_clip": _strength(),
            }
        }

    RETURN_TYPES: tuple[str, ...] = ("MODEL", "CLIP")
    FUNCTION = "load_lora"
    CATEGORY = "loaders"

    def load_lora(
        self, model: Any, clip: Any, lora_name: str, strength_model: float, strength_clip: float
    ) -> tuple[Any, Any]:
        """Give patched clones; the LoRA's tensors stay in its file until they are applied."""
        if strength_model == 0 and strength_clip == 0:
            return model, clip
        path = folder_paths.get_full_path_or_raise("loras", lora_name)
        facts = os.stat(path)
        written = (facts.st_mtime_ns, facts.st_size)
        if self.loaded_lora is None or (self.loaded_lora[0], self._written) != (path, written):
            self.loaded_lora = None
            self.loaded_lora = (path, comfy.utils.load_torch_file(path, safe_load=True))
            self._written = written
        return comfy.sd.load_lora_for_models(
            model, clip, self.loaded_lora[1], strength_model, strength_clip
        )


class LoraLoaderModelOnly(LoraLoader):
    """Patches a model with a LoRA."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "model": ("MODEL",),
                "lora_name": (folder_paths.get_filename_list("loras"),),
                "strength_model": _strength(),
            }
        }

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load_lora_model_only"

    def load_lora_model_only(self, model: Any, lora_name: str, strength_model: float) -> tuple[Any]:
        """Give a patched clone."""
        return (self.load_lora(model, None, lora_name, strength_model, 0)[0],)


NODE_CLASS_MAPPINGS = {
    "CheckpointLoaderSimple": CheckpointLoaderSimple,
    "UNETLoader": UNETLoader,
    "CLIPLoader": CLIPLoader,
    "DualCLIPLoader": DualCLIPLoader,
    "VAELoader": VAELoader,
    "LoraLoader": LoraLoader,
    "LoraLoaderModelOnly": LoraLoaderModelOnly,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "CheckpointLoaderSimple": "Load Checkpoint",
    "UNETLoader": "Load Diffusion Model",
    "CLIPLoader": "Load CLIP",
    "VAELoader": "Load VAE",
    "LoraLoader": "Load LoRA",
}
