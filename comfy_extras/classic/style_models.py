"""Style models out of files, and prompts that get a picture's tokens from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

import comfy.sd
import folder_paths
from comfy_extras.classic.conditioning import Conditioning

_MASK, _MASK_SHAPE = "attention_mask", "attention_mask_img_shape"


class StyleModelLoader:
    """Loads a style model."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        names = folder_paths.get_filename_list("style_models")
        return {"required": {"style_model_name": (names,)}}

    RETURN_TYPES = ("STYLE_MODEL",)
    FUNCTION = "load_style_model"
    CATEGORY = "loaders"

    def load_style_model(self, style_model_name: str) -> tuple[Any]:
        """Give it; RuntimeError if the file holds none. No weight is read yet."""
        path = folder_paths.get_full_path_or_raise("style_models", style_model_name)
        return (comfy.sd.load_style_model(path),)


class StyleModelApply:
    """Adds a picture's tokens to a prompt."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        kinds = {"tooltip": "attn_bias needs a model that takes attention masks, as Flux does."}
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "style_model": ("STYLE_MODEL",),
                "clip_vision_output": ("CLIP_VISION_OUTPUT",),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.001}),
                "strength_type": (["multiply", "attn_bias"], kinds),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "apply_stylemodel"
    CATEGORY = "conditioning/style_model"

    def apply_stylemodel(
        self,
        conditioning: Conditioning,
        style_model: Any,
        clip_vision_output: Any,
        strength: float,
        strength_type: str,
    ) -> tuple[Conditioning]:
        """Put the tokens behind those of each part; tokens of several pictures follow each other.

        Args:
            strength: By how much the tokens are multiplied, or by how much the attention that
                others pay them; a model without attention masks cannot do the latter.
            strength_type: "multiply" or "attn_bias".
        """
        tokens = style_model.get_cond(clip_vision_output).flatten(0, 1)[None]
        bias = 0.0
        if strength_type == "multiply":
            tokens = tokens * strength
        else:
            bias = math.log(strength) if strength > 0 else -math.inf
        return ([_joined(part[0], part[1], tokens, bias) for part in conditioning],)


def _joined(
    text: torch.Tensor, options: Mapping[str, Any], tokens: torch.Tensor, bias: float
) -> list[Any]:
    """A part with more tokens; with a mask if it had one, or if there is a bias."""
    if text.shape[-1] != tokens.shape[-1]:
        raise ValueError(
            f"StyleModelApply: the style model's tokens have a width of {tokens.shape[-1]}, the "
            f"prompt's {text.shape[-1]}: use a style model of the family of the text encoder."
        )
    options = dict(options)
    mask = options.get(_MASK)
    if mask is not None or bias != 0:
        options.setdefault(_MASK_SHAPE, (1, 1))
        count = text.shape[1]
        if mask is None:
            side = count + math.prod(options[_MASK_SHAPE])
            mask = torch.zeros(text.shape[0], side, side)
        options[_MASK] = _widened(mask, count, tokens.shape[1], bias)
    more = tokens.to(text).expand(text.shape[0], -1, -1)
    return [torch.cat([text, more], dim=1), options]


def _widened(mask: torch.Tensor, text: int, added: int, bias: float) -> torch.Tensor:
    """Make room in an attention mask, behind the text's tokens.

    Args:
        mask: [..., N, N], N tokens of the text first, then of the picture: booleans, or what is
            added to scores.
        text: How many are the text's.
        added: How many are to come behind them.
        bias: Added to the scores of the new ones as old ones see them. What the new ones see of
            all others is not touched.

    Returns:
        [..., N + added, N + added], float32 or as the mask, added to scores.
    """
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask.cpu(), -math.inf)
    side = mask.shape[-1] + added
    places = torch.arange(side)
    is_new = (places >= text) & (places < text + added)
    old = places[~is_new]
    wide = mask.new_zeros(*mask.shape[:-2], side, side)
    wide[..., old[:, None], old] = mask
    wide[..., old[:, None], places[is_new]] = bias
    return wide


NODE_CLASS_MAPPINGS = {
    "StyleModelLoader": StyleModelLoader,
    "StyleModelApply": StyleModelApply,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "StyleModelLoader": "Load Style Model",
    "StyleModelApply": "Apply Style Model",
}
