"""The versions that there are, newest first."""

from __future__ import annotations

from comfy_api import latest, v0_0_1, v0_0_2
from comfy_api.internal.versions import ComfyAPIBase, ComfyAPIWithVersion, register_versions

supported_versions: list[type[ComfyAPIBase]] = [
    latest.ComfyAPI,
    v0_0_2.ComfyAPI,
    v0_0_1.ComfyAPI,
]

register_versions(ComfyAPIWithVersion(api.VERSION, api) for api in supported_versions)
