"""Merging models and text encoders, and saving the results.

A merged model is the first one with the weights of the second as patches. Nothing is computed until
it is loaded or saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from comfy import checkpoints
from comfy.image_saving import graph_metadata
from comfy_extras.model_files import (
    output_file,
    save_checkpoint,
    text_encoder_files,
    write_file,
)

_NETWORK = "diffusion_model."
_CATEGORY = "advanced/model_merging"
# How quantised weights are stored: what these numbers mean is merged with the weights.
_STORAGE = (".weight_scale", ".weight_scale_2", ".input_scale", ".comfy_quant")
# The same in every text encoder, or not used.
_SKIPPED = (".position_ids", ".logit_scale")

Saved = dict[str, Any]
Inputs = Mapping[str, tuple[str, dict[str, Any]]]


def block_ratio() -> tuple[str, dict[str, Any]]:
    """The input that says how much of the first model is kept: 1 all, 0 nothing."""
    return "FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}


def _multiplier() -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.01}


def _network_patches(model: Any) -> dict[str, Any]:
    """A model's weights as patches for another model."""
    patches: dict[str, Any] = model.get_key_patches(_NETWORK)
    return {key: one for key, one in patches.items() if not key.endswith(_STORAGE)}


def _merged(model1: Any, model2: Any, strength2: float, strength1: float) -> Any:
    """``strength1 * model1 + strength2 * model2``, weight by weight."""
    merged = model1.clone()
    merged.add_patches(_network_patches(model2), strength2, strength1)
    return merged


def _merged_clip(clip1: Any, clip2: Any, strength2: float, strength1: float) -> Any:
    """``strength1 * clip1 + strength2 * clip2``, weight by weight."""
    merged = clip1.clone()
    patches = clip2.get_key_patches()
    kept = {key: one for key, one in patches.items() if not key.endswith(_SKIPPED + _STORAGE)}
    merged.add_patches(kept, strength2, strength1)
    return merged


class _Merging:
    """A node that makes one of two of a kind.

    Attributes:
        KIND: "model" or "clip".
        NUMBERS: Its inputs besides both.
    """

    KIND = "model"
    NUMBERS: ClassVar[Inputs] = {}
    RETURN_TYPES: tuple[str, ...] = ("MODEL",)
    FUNCTION = "merge"
    CATEGORY = _CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        both = {f"{cls.KIND}{place}": (cls.KIND.upper(),) for place in (1, 2)}
        return {"required": {**both, **cls.NUMBERS}}


class _ClipMerging(_Merging):
    KIND = "clip"
    RETURN_TYPES = ("CLIP",)


class ModelMergeSimple(_Merging):
    """Mixes two models in one proportion."""

    NUMBERS: ClassVar[Inputs] = {"ratio": block_ratio()}

    def merge(self, model1: Any, model2: Any, ratio: float) -> tuple[Any]:
        """``ratio * model1 + (1 - ratio) * model2``."""
        return (_merged(model1, model2, 1.0 - ratio, ratio),)


class ModelMergeSubtract(_Merging):
    """Takes one model from another: their difference, to be added to a third."""

    NUMBERS: ClassVar[Inputs] = {"multiplier": _multiplier()}

    def merge(self, model1: Any, model2: Any, multiplier: float) -> tuple[Any]:
        """``multiplier * (model1 - model2)``."""
        return (_merged(model1, model2, -multiplier, multiplier),)


class ModelMergeAdd(_Merging):
    """Adds two models, one of which is usually a difference."""

    def merge(self, model1: Any, model2: Any) -> tuple[Any]:
        """``model1 + model2``."""
        return (_merged(model1, model2, 1.0, 1.0),)


class ModelMergeBlocks(_Merging):
    """Mixes two models, each part of the network in its own proportion."""

    NUMBERS: ClassVar[Inputs] = {name: block_ratio() for name in ("input", "middle", "out")}

    def merge(self, model1: Any, model2: Any, **kwargs: float) -> tuple[Any]:
        """Mix as `ModelMergeSimple` does.

        Args:
            model1: Of which the ratio is kept.
            model2: Of which the rest is taken.
            kwargs: Beginning of a weight's name to its ratio. The longest that fits counts; a weight
                that none fits has the ratio of the first one that the node lists.
        """
        listed = [name for name in self.INPUT_TYPES()["required"] if name in kwargs]
        first = kwargs[(listed or list(kwargs))[0]]
        merged = model1.clone()
        by_ratio: dict[float, dict[str, Any]] = {}
        for key, patch in _network_patches(model2).items():
            name = key.removeprefix(_NETWORK)
            fitting = [one for one in kwargs if name.startswith(one)]
            ratio = kwargs[max(fitting, key=len)] if fitting else first
            by_ratio.setdefault(ratio, {})[key] = patch
        for ratio, patches in by_ratio.items():
            merged.add_patches(patches, 1.0 - ratio, ratio)
        return (merged,)


class CLIPMergeSimple(_ClipMerging):
    """Mixes two text encoders in one proportion."""

    NUMBERS: ClassVar[Inputs] = {"ratio": block_ratio()}

    def merge(self, clip1: Any, clip2: Any, ratio: float) -> tuple[Any]:
        """``ratio * clip1 + (1 - ratio) * clip2``."""
        return (_merged_clip(clip1, clip2, 1.0 - ratio, ratio),)


class CLIPMergeSubtract(_ClipMerging):
    """Takes one text encoder from another."""

    NUMBERS: ClassVar[Inputs] = {"multiplier": _multiplier()}

    def merge(self, clip1: Any, clip2: Any, multiplier: float) -> tuple[Any]:
        """``multiplier * (clip1 - clip2)``."""
        return (_merged_clip(clip1, clip2, -multiplier, multiplier),)


class CLIPMergeAdd(_ClipMerging):
    """Adds two text encoders, one of which is usually a difference."""

    def merge(self, clip1: Any, clip2: Any) -> tuple[Any]:
        """``clip1 + clip2``."""
        return (_merged_clip(clip1, clip2, 1.0, 1.0),)


class _Saving:
    """A node that writes a file.

    Attributes:
        KINDS: The inputs that it writes.
        PREFIX: Where it writes if the user says nothing.
    """

    KINDS: tuple[str, ...] = ()
    PREFIX = ""
    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = _CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        parts = {kind: (kind.upper(),) for kind in cls.KINDS}
        return {
            "required": {**parts, "filename_prefix": ("STRING", {"default": cls.PREFIX})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }


class CheckpointSave(_Saving):
    """Saves a model with its text encoders and its autoencoder in one file."""

    KINDS = ("model", "clip", "vae")
    PREFIX = "checkpoints/ComfyUI"

    def save(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        filename_prefix: str,
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> Saved:
        """See `comfy_extras.model_files.save_checkpoint`."""
        save_checkpoint(
            model,
            clip=clip,
            vae=vae,
            filename_prefix=filename_prefix,
            prompt=prompt,
            extra_pnginfo=extra_pnginfo,
        )
        return {}


class CLIPSave(_Saving):
    """Saves text encoders, each in a file of its own."""

    KINDS = ("clip",)
    PREFIX = "clip/ComfyUI"

    def save(
        self,
        clip: Any,
        filename_prefix: str,
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> Saved:
        """Write files that *Load CLIP* and its kin read, named after the encoders."""
        metadata = {"format": "pt"} | graph_metadata(prompt, extra_pnginfo)
        for name, tensors in text_encoder_files(clip).items():
            path, _ = output_file(f"{filename_prefix}_{name}" if name else filename_prefix)
            write_file(path, tensors, metadata)
        return {}


class VAESave(_Saving):
    """Saves an autoencoder."""

    KINDS = ("vae",)
    PREFIX = "vae/ComfyUI_vae"

    def save(
        self,
        vae: Any,
        filename_prefix: str,
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> Saved:
        """Write a file that *Load VAE* reads."""
        path, _ = output_file(filename_prefix)
        metadata = graph_metadata(prompt, extra_pnginfo)
        write_file(path, checkpoints.weights_of_vae(vae), metadata or None)
        return {}


class ModelSave(_Saving):
    """Saves a diffusion model alone."""

    KINDS = ("model",)
    PREFIX = "diffusion_models/ComfyUI"

    def save(
        self,
        model: Any,
        filename_prefix: str,
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> Saved:
        """See `comfy_extras.model_files.save_checkpoint`."""
        save_checkpoint(
            model, filename_prefix=filename_prefix, prompt=prompt, extra_pnginfo=extra_pnginfo
        )
        return {}


NODE_CLASS_MAPPINGS = {
    "ModelMergeSimple": ModelMergeSimple,
    "ModelMergeBlocks": ModelMergeBlocks,
    "ModelMergeSubtract": ModelMergeSubtract,
    "ModelMergeAdd": ModelMergeAdd,
    "CheckpointSave": CheckpointSave,
    "CLIPMergeSimple": CLIPMergeSimple,
    "CLIPMergeSubtract": CLIPMergeSubtract,
    "CLIPMergeAdd": CLIPMergeAdd,
    "CLIPSave": CLIPSave,
    "VAESave": VAESave,
    "ModelSave": ModelSave,
}
NODE_DISPLAY_NAME_MAPPINGS = {"CheckpointSave": "Save Checkpoint"}
