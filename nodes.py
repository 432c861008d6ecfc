"""The nodes by name: what graphs are made of, and what packs import and extend."""

from __future__ import annotations

from typing import Any

from comfy_extras.classic import (
    conditioning,
    controlnets,
    image_files,
    images,
    inpainting,
    latent,
    latent_files,
    latent_transforms,
    loaders,
    sampling,
)
from comfy_extras.classic.sampling import common_ksampler as common_ksampler
from node_helpers import MAX_RESOLUTION as MAX_RESOLUTION

_ROOMS = (
    sampling,
    loaders,
    conditioning,
    controlnets,
    latent,
    latent_transforms,
    latent_files,
    inpainting,
    image_files,
    images,
)

NODE_CLASS_MAPPINGS: dict[str, type[Any]] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
for _room in _ROOMS:
    NODE_CLASS_MAPPINGS.update(_room.NODE_CLASS_MAPPINGS)
    NODE_DISPLAY_NAME_MAPPINGS.update(_room.NODE_DISPLAY_NAME_MAPPINGS)
# Packs import and subclass the classes as `nodes.KSampler`, too.
globals().update(NODE_CLASS_MAPPINGS)
