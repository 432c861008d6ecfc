"""What a supported model is: a class of numbers and names; see `comfy.supported_models`."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import comfy.utils
from comfy import latent_formats, model_base
from comfy.file_kinds import UndetectedModel
from comfy.model_base import ModelType

StateDict = MutableMapping[str, torch.Tensor]

_INPAINT_CHANNELS = 5  # a mask, and the latent of the picture behind it


@dataclass
class ClipTarget:
    """Which text encoder a model takes.

    Attributes:
        tokenizer: Class.
        clip: Class of the text model.
        params: Further arguments of `clip`.
    """

    tokenizer: Any
    clip: Any
    params: dict[str, Any] = field(default_factory=dict)


class BASE:
    """A model with its numbers; class attributes are what all of its kind share.

    Attributes:
        unet_config: On the class: numbers by which it is known. On an instance: all of them.
        unet_extra_config: Numbers that shapes do not tell.
        required_keys: Keys that a file must have besides.
        sampling_settings: For the noise schedule.
        latent_format: Class of `comfy.latent_formats`; on an instance, an object of it.
        vae_key_prefix: Where in a checkpoint the VAE is.
        text_encoder_key_prefix: Where text encoders are.
        clip_prefix: Where a text encoder with another prefix is.
        clip_vision_prefix: Where a vision encoder is; None if it has none.
        supported_inference_dtypes: In which it may be computed, best first.
        memory_usage_factor: Activations relative to those of SD 1.5 per latent position.
        manual_cast_dtype: In which it is computed, if not in that of its weights.
        custom_operations: Layers that replace those of `comfy.ops`.
        quant_config: How its layers are quantised; None if they are not.
        optimizations: Switches; ``fp8`` asks for products in eight bits.
    """

    unet_config: Mapping[str, Any] = {}
    unet_extra_config: Mapping[str, Any] = {"num_heads": -1, "num_head_channels": 64}
    required_keys: Sequence[str] = ()
    sampling_settings: Mapping[str, Any] = {}
    latent_format: Any = latent_formats.LatentFormat
    vae_key_prefix: Sequence[str] = ("first_stage_model.",)
    text_encoder_key_prefix: Sequence[str] = ("cond_stage_model.",)
    clip_prefix: Sequence[str] = ()
    clip_vision_prefix: str | None = None
    supported_inference_dtypes: Sequence[torch.dtype] = (
        torch.float16,
        torch.bfloat16,
        torch.float32,
    )
    memory_usage_factor: float = 1.0
    manual_cast_dtype: torch.dtype | None = None
    custom_operations: Any = None
    quant_config: Any = None
    optimizations: Mapping[str, Any] = {"fp8": False}

    @classmethod
    def matches(
        cls, unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None = None
    ) -> bool:
        """Whether a network has exactly the numbers of this class."""
        if any(unet_config.get(key) != value for key, value in cls.unet_config.items()):
            return False
        return all(key in (state_dict or {}) for key in cls.required_keys)

    @classmethod
    def resembles(
        cls, unet_config: Mapping[str, Any], state_dict: Mapping[str, Any] | None = None
    ) -> bool:
        """Whether a network of other widths or depths is built like this class; by default: no."""
        return False

    def __init__(self, unet_config: Mapping[str, Any]) -> None:
        """Take the numbers that were read from a file."""
        self.unet_config = {**unet_config, **self.unet_extra_config}
        self.latent_format = self.latent_format()
        self.sampling_settings = dict(self.sampling_settings)
        self.optimizations = dict(self.optimizations)

    def model_type(self, state_dict: Mapping[str, torch.Tensor], prefix: str = "") -> ModelType:
        """What the network predicts."""
        return ModelType.EPS

    def inpaint_model(self) -> bool:
        """Whether the network takes a mask and the picture behind it, beside the latent."""
        return self.unet_config["in_channels"] > self.latent_format.latent_channels

    def network_class(self) -> type[model_base.BaseModel]:
        """The class of `comfy.model_base` that runs this model."""
        return model_base.BaseModel

    def get_model(
        self,
        state_dict: Mapping[str, torch.Tensor],
        prefix: str = "",
        device: torch.device | str | None = None,
    ) -> model_base.BaseModel:
        """Build the model, without weights.

        Args:
            state_dict: The file's, for marks of what the network predicts.
            prefix: Of the network in it.
            device: Of the parameters that are made; `meta` makes none.

        Raises:
            UndetectedModel: If its input has channels of unknown meaning.
        """
        extra = self.unet_config["in_channels"] - self.latent_format.latent_channels
        if extra not in (0, _INPAINT_CHANNELS):
            raise UndetectedModel(
                f"a {type(self).__name__} with {self.unet_config['in_channels']} input channels "
                "(instruct-pix2pix, depth or the like) is not supported yet"
            )
        model_type = self.model_type(state_dict, prefix)
        model = self.network_class()(self, model_type=model_type, device=device)
        if self.inpaint_model():
            model.set_inpaint()
        return model

    def clip_target(
        self, state_dict: Mapping[str, torch.Tensor] | None = None
    ) -> ClipTarget | None:
        """Which text encoder it takes; None if it takes none.

        Args:
            state_dict: Of the text encoder, keys as its class has them.
        """
        return None

    def set_inference_dtype(
        self, dtype: torch.dtype | None, manual_cast_dtype: torch.dtype | None
    ) -> None:
        """Say in which dtype weights are kept, and in which the network is computed."""
        self.unet_config = {**self.unet_config, "dtype": dtype}
        self.manual_cast_dtype = manual_cast_dtype

    # -- names in files --------------------------------------------------------------------------

    def process_unet_state_dict(self, state_dict: StateDict) -> StateDict:
        """Rename the network's tensors from a file to the module's names."""
        return state_dict

    def process_vae_state_dict(self, state_dict: StateDict) -> StateDict:
        """Rename the VAE's tensors, prefix removed, to the module's names."""
        return state_dict

    def process_clip_state_dict(self, state_dict: StateDict) -> StateDict:
        """Move the text encoders' tensors out of a checkpoint, under the module's names."""
        prefixes = dict.fromkeys(self.text_encoder_key_prefix, "")
        return comfy.utils.state_dict_prefix_replace(state_dict, prefixes, filter_keys=True)

    def process_clip_vision_state_dict(self, state_dict: StateDict) -> StateDict:
        """Move the vision encoder's tensors out of a checkpoint, prefix removed."""
        if self.clip_vision_prefix is None:
            return {}
        prefixes = {self.clip_vision_prefix: ""}
        return comfy.utils.state_dict_prefix_replace(state_dict, prefixes, filter_keys=True)

    def process_unet_state_dict_for_saving(self, state_dict: StateDict) -> StateDict:
        """Give the network's tensors their names in a checkpoint."""
        return _prefixed(state_dict, "model.diffusion_model.")

    def process_vae_state_dict_for_saving(self, state_dict: StateDict) -> StateDict:
        """Give the VAE's tensors their names in a checkpoint."""
        return _prefixed(state_dict, self.vae_key_prefix[0])

    def process_clip_state_dict_for_saving(self, state_dict: StateDict) -> StateDict:
        """Give the text encoders' tensors their names in a checkpoint."""
        return _prefixed(state_dict, self.text_encoder_key_prefix[0])

    def process_clip_vision_state_dict_for_saving(self, state_dict: StateDict) -> StateDict:
        """Give the vision encoder's tensors their names in a checkpoint."""
        return _prefixed(state_dict, self.clip_vision_prefix or "")


def _prefixed(state_dict: StateDict, prefix: str) -> StateDict:
    return {prefix + key: tensor for key, tensor in state_dict.items()}
