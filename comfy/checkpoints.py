"""The parts of a checkpoint: the diffusion model, its encoders, its VAE, and marks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch

import comfy.clip_vision
import comfy.utils
from comfy.merged_weights import merged_weights
from comfy.model_building import with_present_marks
from comfy.model_detection import model_config_from_unet, unet_prefix_from_state_dict
from comfy.state_loading import is_harmless, summarised
from comfy.supported_models_base import BASE, ClipTarget
from comfy.unclip_parts import STATISTICS

logger = logging.getLogger(__name__)

StateDict = MutableMapping[str, torch.Tensor]
_NETWORK = "diffusion_model."


@dataclass(frozen=True)
class Recognised:
    """What a checkpoint is.

    Attributes:
        config: The supported model.
        prefix: Of the network.
    """

    config: BASE
    prefix: str


@dataclass(frozen=True)
class Parts:
    """A checkpoint taken apart; no tensor is read.

    Attributes:
        network: With the prefix.
        text_encoders: Named as the text side names them; empty if the file has none.
        vae: Without prefix; empty if the file has none.
        vision: The picture encoder's, without prefix; empty if the file has none.
        target: Which text side the model takes.
        marks: What is left, among it marks of what the network predicts.
    """

    network: StateDict
    text_encoders: StateDict
    vae: StateDict
    vision: StateDict
    target: ClipTarget | None
    marks: StateDict = field(default_factory=dict)

    def load_vision(self, origin: str) -> comfy.clip_vision.ClipVisionModel | None:
        """Make the picture encoder, unread; None, with a warning, if there is none."""
        model = comfy.clip_vision.load_clipvision_from_sd(self.vision, convert_keys=True)
        if model is None:
            logger.warning(
                "%s holds no CLIP vision encoder: load one with CLIPVisionLoader", origin
            )
        return model

    def report_missing(self, origin: str, *, vae: bool, clip: bool) -> None:
        """Warn of parts that were asked for and are not there, and of tensors of no use."""
        if vae and not self.vae:
            logger.warning("%s holds no VAE: load one with VAELoader", origin)
        if clip and self.target is not None and not self.text_encoders:
            logger.warning("%s holds no text encoder: load one with CLIPLoader", origin)
        left = [key for key in self.marks if not is_harmless(key) and not _is_mark(key)]
        if left:
            logger.warning("%s: left over and not used: %s", origin, summarised(left))


_MARKS = (
    "v_pred",
    "ztsnr",
    "edm_mean",
    "edm_std",
    "edm_vpred.sigma_max",
    "edm_vpred.sigma_min",
    *STATISTICS,
)


def _is_mark(key: str) -> bool:
    return key in _MARKS


def recognise(sd: StateDict, metadata: Mapping[str, str] | None) -> Recognised | None:
    """Find what a checkpoint is; None if it is none.

    Args:
        sd: Old marks of quantised layers are exchanged for those of today.
        metadata: Of the file.

    Raises:
        UndetectedModel: If it is known, but cannot be run.
    """
    prefix = unet_prefix_from_state_dict(sd)
    with_present_marks(sd, prefix, metadata)
    config = model_config_from_unet(sd, prefix, metadata=metadata)
    return None if config is None else Recognised(config, prefix)


def take_apart(sd: StateDict, found: Recognised, origin: str) -> Parts:
    """Move the tensors of each part out of a checkpoint.

    Args:
        sd: Is left with what belongs to no part.
        found: What it is.
        origin: Name of the file, for messages.
    """
    config = found.config
    network = _taken(sd, found.prefix)
    vae_prefixes = dict.fromkeys(config.vae_key_prefix, "")
    vae: StateDict = comfy.utils.state_dict_prefix_replace(sd, vae_prefixes, filter_keys=True)
    text_encoders = config.process_clip_state_dict(sd)
    return Parts(
        network,
        text_encoders,
        config.process_vae_state_dict(vae),
        config.process_clip_vision_state_dict(sd),
        config.clip_target(text_encoders),
        sd,
    )


def _taken(sd: StateDict, prefix: str) -> StateDict:
    return {key: sd.pop(key) for key in [key for key in sd if key.startswith(prefix)]}


def weights_of_network(model: Any) -> dict[str, torch.Tensor]:
    """A diffusion model's weights under its own names, patches applied when they are written.

    Args:
        model: A patcher, loaded or not; see `comfy.merged_weights`.
    """
    return merged_weights(model, _NETWORK)


def weights_of_text_encoders(clip: Any) -> dict[str, torch.Tensor]:
    """Text encoders' weights under their own names, likewise, and what the tokenizer keeps."""
    return {**merged_weights(clip.patcher), **clip.tokenizer.state_dict()}


def weights_of_vae(vae: Any) -> dict[str, torch.Tensor]:
    """An autoencoder's weights under its own names, as they are in its file.

    Raises:
        RuntimeError: If there is none; see `comfy.vae.VAE.throw_exception_if_invalid`.
    """
    vae.throw_exception_if_invalid()
    patcher = getattr(vae, "patcher", None)
    if patcher is None:  # one of a pack's own kind
        own: dict[str, torch.Tensor] = vae.get_sd()
        return own
    return merged_weights(patcher)
