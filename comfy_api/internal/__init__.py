"""Small things that all versions of the interface share."""

from __future__ import annotations

from comfy_api.internal.dicts import prune_dict
from comfy_api.internal.properties import classproperty

__all__ = ["classproperty", "prune_dict"]
