"""The models that can be run, each with the numbers by which it is known.

`models` is asked in order: first for the class whose numbers are exactly those of the file
(`BASE.matches`), then for one that is built alike (`BASE.resembles`), so that a UNet of other
widths or depths runs as the family whose structure it has:

=============  ==============  =====  ==================================================
family         projections     adm    and
=============  ==============  =====  ==================================================
SD15           1x1 conv        no
SD20           linear          no
SD21UnclipL    linear          1536   pictures' encoder or statistics of its embeddings
SD21UnclipH    linear          yes    likewise
SDXLRefiner    linear          yes    one text encoder: in the file, or context width =
                                      adm - 5 * 256, the width of its pooled text
SDXL           linear          yes    else
=============  ==============  =====  ==================================================

A new family is a class here, a row of `comfy.model_detection.FAMILIES` and a network in
``comfy/ldm``; where it stands in `models` is its priority.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import comfy.utils
from comfy import latent_formats, model_base, sd1_clip, sdxl_clip
from comfy.clip_keys import checkpoint_text_encoders
from comfy.model_base import ModelType
from comfy.open_clip_keys import to_open_clip
from comfy.supported_models_base import BASE, ClipTarget, StateDict
from comfy.text_encoders import sd2_clip
from comfy.unclip_parts import UnclipParts

# Above this the bias of one norm tells that a SD 2 network predicts v; it is about 0.05 else.
_V_DEVIATION = 0.09
_V_WITNESS = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SINUSOID = 256


def _take(state_dict: StateDict, prefixes: Sequence[str]) -> StateDict:
    """Move the entries under some prefixes out, keys unchanged."""
    keys = [key for key in state_dict if key.startswith(tuple(prefixes))]
    return {key: state_dict.pop(key) for key in keys}


def _has_adm(unet_config: Mapping[str, Any]) -> bool:
    return unet_config.get("adm_in_channels") is not None


def _is_unet(unet_config: Mapping[str, Any]) -> bool:
    return "model_channels" in unet_config


class _TextInCheckpoint(BASE):
    """A model whose checkpoints hold its text encoders.

    Attributes:
        encoders: Prefix in a checkpoint to the encoder's name in the text model.
    """

    encoders: Mapping[str, str] = {}

    def process_clip_state_dict(self, state_dict: StateDict) -> StateDict:
        """See `BASE.process_clip_state_dict`."""
        own = _take(state_dict, list(self.encoders))
        return checkpoint_text_encoders(own, self.encoders)


class SD15(_TextInCheckpoint):
    """Stable Diffusion 1, and its inpainting variant of nine input channels."""

    unet_config: Mapping[str, Any] = {
        "context_dim": 768,
        "model_channels": 320,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
    }
    unet_extra_config: Mapping[str, Any] = {"num_heads": 8, "num_head_channels": -1}
    latent_format: Any = latent_formats.SD15
    encoders: Mapping[str, str] = {"cond_stage_model.": "clip_l"}

    @classmethod
    def resembles(
        cls, unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None = None
    ) -> bool:
        """See the module's table."""
        linear = unet_config.get("use_linear_in_transformer", True)
        return _is_unet(unet_config) and not linear and not _has_adm(unet_config)

    def clip_target(self, state_dict: Mapping[str, torch.Tensor] | None = None) -> ClipTarget:
        """CLIP-L."""
        return ClipTarget(sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel)

    def process_clip_state_dict_for_saving(self, state_dict: StateDict) -> StateDict:
        """See `BASE.process_clip_state_dict_for_saving`."""
        return comfy.utils.state_dict_prefix_replace(
            dict(state_dict), {"clip_l.": "cond_stage_model."}
        )


class SD20(_TextInCheckpoint):
    """Stable Diffusion 2; predicts v or the noise."""

    unet_config: Mapping[str, Any] = {
        "context_dim": 1024,
        "model_channels": 320,
        "use_linear_in_transformer": True,
        "adm_in_channels": None,
    }
    unet_extra_config: Mapping[str, Any] = {
        "num_heads": -1,
        "num_head_channels": 64,
        "attn_precision": torch.float32,  # its scores overflow half precision
    }
    latent_format: Any = latent_formats.SD15
    encoders: Mapping[str, str] = {
        "cond_stage_model.model.": "clip_h",
        "conditioner.embedders.0.model.": "clip_h",
    }

    @classmethod
    def resembles(
        cls, unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None = None
    ) -> bool:
        """See the module's table."""
        linear = unet_config.get("use_linear_in_transformer", False)
        return _is_unet(unet_config) and linear and not _has_adm(unet_config)

    def model_type(self, state_dict: Mapping[str, torch.Tensor], prefix: str = "") -> ModelType:
        """v, if the deviation of one bias says so; reads that one tensor."""
        witness = state_dict.get(prefix + _V_WITNESS)
        if self.unet_config["in_channels"] != 4 or witness is None:
            return ModelType.EPS
        deviation = torch.std(witness.float(), unbiased=False).item()
        return ModelType.V_PREDICTION if deviation > _V_DEVIATION else ModelType.EPS

    def clip_target(self, state_dict: Mapping[str, torch.Tensor] | None = None) -> ClipTarget:
        """CLIP-H."""
        return ClipTarget(sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel)

    def process_clip_state_dict_for_saving(self, state_dict: StateDict) -> StateDict:
        """See `BASE.process_clip_state_dict_for_saving`."""
        return to_open_clip(state_dict, "clip_h.transformer.", "cond_stage_model.model.")


class _Unclip(UnclipParts, SD20):
    """Stable Diffusion 2.1 that sees pictures, too."""

    @classmethod
    def resembles(
        cls, unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None = None
    ) -> bool:
        """See the module's table."""
        linear = unet_config.get("use_linear_in_transformer", False)
        is_built_so = _is_unet(unet_config) and linear and _has_adm(unet_config)
        return is_built_so and cls.are_in(state_dict or {})

    def model_type(self, state_dict: Mapping[str, torch.Tensor], prefix: str = "") -> ModelType:
        """v, as all that were published."""
        return ModelType.V_PREDICTION


def _unclip_numbers(adm: int) -> dict[str, Any]:
    """The numbers of SD 2.1 unCLIP whose vector has this width."""
    return {**SD20.unet_config, "adm_in_channels": adm}


class SD21UnclipL(_Unclip):
    """Stable Diffusion 2.1 that sees pictures as CLIP-L does."""

    unet_config: Mapping[str, Any] = _unclip_numbers(2 * 768)
    has_statistics = True

    @classmethod
    def resembles(
        cls, unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None = None
    ) -> bool:
        """See the module's table."""
        own = unet_config.get("adm_in_channels") == cls.unet_config["adm_in_channels"]
        return own and super().resembles(unet_config, state_dict)


class SD21UnclipH(_Unclip):
    """Stable Diffusion 2.1 that sees pictures as CLIP-H does."""

    unet_config: Mapping[str, Any] = _unclip_numbers(2 * 1024)


def _sdxl_numbers(depth: list[int]) -> dict[str, Any]:
    """The numbers of SDXL with transformers of these depths after each resnet."""
    return {
        "model_channels": 320,
        "use_linear_in_transformer": True,
        "transformer_depth": depth,
        "context_dim": 2048,
        "adm_in_channels": 2816,
    }


class SDXL(_TextInCheckpoint):
    """Stable Diffusion XL; marks in the file say what its fine-tunes predict."""

    unet_config: Mapping[str, Any] = _sdxl_numbers([0, 0, 2, 2, 10, 10])
    latent_format: Any = latent_formats.SDXL
    memory_usage_factor = 0.8  # no transformer on the finest level
    text_encoder_key_prefix = ("conditioner.embedders.",)
    encoders: Mapping[str, str] = {
        "conditioner.embedders.0.transformer.": "clip_l",
        "conditioner.embedders.1.model.": "clip_g",
    }

    @classmethod
    def resembles(
        cls, unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None = None
    ) -> bool:
        """See the module's table."""
        linear = unet_config.get("use_linear_in_transformer", False)
        return _is_unet(unet_config) and linear and _has_adm(unet_config)

    def network_class(self) -> type[model_base.BaseModel]:
        """See `BASE.network_class`."""
        return model_base.SDXL

    def model_type(self, state_dict: Mapping[str, torch.Tensor], prefix: str = "") -> ModelType:
        """What the marks say; reads those, which are scalars or one number per channel."""
        if "edm_mean" in state_dict and "edm_std" in state_dict:  # Playground 2.5
            self.latent_format = latent_formats.SDXL_Playground_2_5()
            self._set_sampling(sigma_data=0.5, sigma_min=0.002, sigma_max=80.0)
            return ModelType.EDM
        if "edm_vpred.sigma_max" in state_dict:
            for name in ("sigma_max", "sigma_min"):
                mark = state_dict.get(f"edm_vpred.{name}")
                if mark is not None:
                    self._set_sampling(**{name: float(mark)})
            return ModelType.V_PREDICTION_EDM
        if "v_pred" in state_dict:
            if "ztsnr" in state_dict:
                self._set_sampling(zsnr=True)
            return ModelType.V_PREDICTION
        return ModelType.EPS

    def _set_sampling(self, **settings: Any) -> None:
        self.sampling_settings = {**self.sampling_settings, **settings}

    def clip_target(self, state_dict: Mapping[str, torch.Tensor] | None = None) -> ClipTarget:
        """CLIP-L and CLIP-bigG side by side."""
        return ClipTarget(sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLClipModel)

    def process_clip_state_dict_for_saving(self, state_dict: StateDict) -> StateDict:
        """See `BASE.process_clip_state_dict_for_saving`."""
        small = {key: value for key, value in state_dict.items() if key.startswith("clip_l.")}
        named = comfy.utils.state_dict_prefix_replace(
            small, {"clip_l.": "conditioner.embedders.0."}
        )
        big = to_open_clip(state_dict, "clip_g.transformer.", "conditioner.embedders.1.model.")
        return {**named, **big}


class SSD1B(SDXL):
    """SDXL with fewer blocks: Segmind's SSD-1B."""

    unet_config: Mapping[str, Any] = _sdxl_numbers([0, 0, 2, 2, 4, 4])


class Segmind_Vega(SDXL):
    """SDXL with fewer blocks: Segmind's Vega."""

    unet_config: Mapping[str, Any] = _sdxl_numbers([0, 0, 1, 1, 2, 2])


class KOALA_700M(SDXL):
    """SDXL with fewer blocks and one resnet per level."""

    unet_config: Mapping[str, Any] = _sdxl_numbers([0, 2, 5])


class KOALA_1B(SDXL):
    """SDXL with fewer blocks and one resnet per level."""

    unet_config: Mapping[str, Any] = _sdxl_numbers([0, 2, 6])


class SDXLRefiner(SDXL):
    """The second stage of SDXL."""

    unet_config: Mapping[str, Any] = {
        "model_channels": 384,
        "use_linear_in_transformer": True,
        "context_dim": 1280,
        "adm_in_channels": 2560,
        "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
    }
    memory_usage_factor = 1.0
    encoders: Mapping[str, str] = {"conditioner.embedders.0.model.": "clip_g"}

    @classmethod
    def resembles(
        cls, unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None = None
    ) -> bool:
        """See the module's table."""
        if not super().resembles(unet_config, state_dict):
            return False
        keys = state_dict or {}
        if any(key.startswith("conditioner.embedders.1.") for key in keys):
            return False
        if any(key.startswith("conditioner.embedders.0.model.") for key in keys):
            return True
        pooled = unet_config["adm_in_channels"] - 5 * _SINUSOID
        return bool(unet_config["context_dim"] == pooled)

    def network_class(self) -> type[model_base.BaseModel]:
        """See `BASE.network_class`."""
        return model_base.SDXLRefiner

    def clip_target(self, state_dict: Mapping[str, torch.Tensor] | None = None) -> ClipTarget:
        """CLIP-bigG alone."""
        return ClipTarget(sdxl_clip.SDXLRefinerTokenizer, sdxl_clip.SDXLRefinerClipModel)

    def process_clip_state_dict_for_saving(self, state_dict: StateDict) -> StateDict:
        """See `BASE.process_clip_state_dict_for_saving`."""
        return to_open_clip(state_dict, "clip_g.transformer.", "conditioner.embedders.0.model.")


# Packs append classes of their own. Special cases of SDXL's structure come before it.
models: list[type[BASE]] = [
    SD15,
    SD20,
    SD21UnclipL,
    SD21UnclipH,
    SDXLRefiner,
    SDXL,
    SSD1B,
    Segmind_Vega,
    KOALA_700M,
    KOALA_1B,
]
