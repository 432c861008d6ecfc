"""Everything that a node shows on the page; nodes import it as ``ui``."""

from __future__ import annotations

from comfy_api.latest._audio_files import AudioSaveHelper
from comfy_api.latest._image_files import ImageSaveHelper
from comfy_api.latest._previews import (
    PreviewAudio,
    PreviewImage,
    PreviewMask,
    PreviewText,
    PreviewUI3D,
    PreviewVideo,
)
from comfy_api.latest._saved import SavedAudios, SavedImages, SavedResult
from comfy_api.latest._widget_options import FolderType

__all__ = [
    "AudioSaveHelper",
    "FolderType",
    "ImageSaveHelper",
    "PreviewAudio",
    "PreviewImage",
    "PreviewMask",
    "PreviewText",
    "PreviewUI3D",
    "PreviewVideo",
    "SavedAudios",
    "SavedImages",
    "SavedResult",
]
