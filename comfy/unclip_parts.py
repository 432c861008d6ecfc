"""What checkpoints of unCLIP hold beside a model: a picture encoder, statistics of its embeddings."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from comfy import model_base
from comfy.open_clip_keys import to_open_clip
from comfy.state_loading import origin_of
from comfy.supported_models_base import BASE, StateDict
from comfy.unclip import NoiseAugmentation

logger = logging.getLogger(__name__)

_ENCODER = "embedder."
STATISTICS = ("noise_augmentor.data_mean", "noise_augmentor.data_std")
"""Names in a checkpoint of the embeddings' mean and standard deviation."""


class UnclipParts(BASE):
    """Mixed into a supported model; see `comfy.unclip`.

    Attributes:
        has_statistics: It was trained on embeddings normalized by statistics of them.
        statistics: Those of the file, by its names; may be there still.
    """

    clip_vision_prefix: str | None = "embedder.model.visual."
    has_statistics = False

    def __init__(self, unet_config: Mapping[str, Any]) -> None:
        """See `BASE`."""
        super().__init__(unet_config)
        self.statistics: dict[str, torch.Tensor] = {}

    @staticmethod
    def are_in(state_dict: Iterable[str]) -> bool:
        """Whether a checkpoint has such parts."""
        return any(key.startswith((_ENCODER, *STATISTICS)) for key in state_dict)

    def network_class(self) -> type[model_base.BaseModel]:
        """See `BASE.network_class`."""
        return model_base.SD21UNCLIP

    def get_model(
        self,
        state_dict: Mapping[str, torch.Tensor],
        prefix: str = "",
        device: torch.device | str | None = None,
    ) -> model_base.BaseModel:
        """See `BASE.get_model`; takes the statistics, unread, out of the file."""
        model = super().get_model(state_dict, prefix, device)
        assert isinstance(model, model_base.SD21UNCLIP)
        self.statistics = {name: state_dict[name] for name in STATISTICS if name in state_dict}
        if self.has_statistics and len(self.statistics) < len(STATISTICS):
            logger.warning(
                "%s: no statistics of pictures' embeddings ('%s', '%s'), with which the model "
                "was trained: noise on pictures will be of another strength",
                origin_of(state_dict),
                *STATISTICS,
            )
        mean, std = (self.statistics.get(name) for name in STATISTICS)
        model.noise_augmentor = NoiseAugmentation(model.adm_channels // 2, mean, std)
        return model

    # -- names in files --------------------------------------------------------------------------

    def process_clip_vision_state_dict(self, state_dict: StateDict) -> StateDict:
        """See `BASE.process_clip_vision_state_dict`; the other half of its CLIP is dropped."""
        own = super().process_clip_vision_state_dict(state_dict)
        for key in [key for key in state_dict if key.startswith(_ENCODER)]:
            del state_dict[key]
        return own

    def process_clip_vision_state_dict_for_saving(self, state_dict: StateDict) -> StateDict:
        """See `BASE.process_clip_vision_state_dict_for_saving`."""
        return to_open_clip(state_dict, "", self.clip_vision_prefix or "")

    def process_unet_state_dict_for_saving(self, state_dict: StateDict) -> StateDict:
        """See `BASE.process_unet_state_dict_for_saving`; adds the statistics."""
        return {**super().process_unet_state_dict_for_saving(state_dict), **self.statistics}
