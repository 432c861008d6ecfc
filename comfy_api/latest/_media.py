"""Pictures, sounds and films: what nodes get, what they make, and the words for it."""

from __future__ import annotations

from comfy_api.input.basic_types import AudioInput, ImageInput, LatentInput, MaskInput
from comfy_api.input.video_types import VideoInput
from comfy_api.input_impl.video_types import VideoFromComponents, VideoFromFile
from comfy_api.util.geometry_types import MESH, VOXEL
from comfy_api.util.video_types import VideoCodec, VideoComponents, VideoContainer


class Input:
    """What nodes get."""

    Image = ImageInput
    Audio = AudioInput
    Mask = MaskInput
    Latent = LatentInput
    Video = VideoInput


class InputImpl:
    """What nodes make."""

    VideoFromFile = VideoFromFile
    VideoFromComponents = VideoFromComponents


class Types:
    """Words for their parts."""

    VideoCodec = VideoCodec
    VideoContainer = VideoContainer
    VideoComponents = VideoComponents
    MESH = MESH
    VOXEL = VOXEL
