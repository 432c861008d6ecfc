"""Words for parts of films and of bodies in space."""

from __future__ import annotations

from comfy_api.util.geometry_types import MESH, VOXEL
from comfy_api.util.video_types import VideoCodec, VideoComponents, VideoContainer

__all__ = ["MESH", "VOXEL", "VideoCodec", "VideoComponents", "VideoContainer"]
