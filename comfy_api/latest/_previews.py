"""What nodes show without keeping it."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from typing import Any

import torch

from comfy_api.latest._audio_files import AudioSaveHelper
from comfy_api.latest._image_files import ImageSaveHelper
from comfy_api.latest._saved import SavedResult, UIOutput
from comfy_api.latest._widget_options import FolderType

_FAST = 1
_LETTERS = 5


def _temp_prefix() -> str:
    return "ComfyUI_temp_" + "".join(random.choices(string.ascii_lowercase, k=_LETTERS))


def _kept_for_now(images: torch.Tensor, cls: Any) -> list[SavedResult]:
    return ImageSaveHelper.save_images(images, _temp_prefix(), FolderType.temp, cls, _FAST)


class PreviewImage(UIOutput):
    """Pictures, (batch, height, width, channels), 0 to 1, saved to the temporary folder."""

    def __init__(
        self, image: torch.Tensor, animated: bool = False, cls: Any = None, **unknown: Any
    ) -> None:
        self.values = _kept_for_now(image, cls)
        self.animated = animated

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"images": self.values, "animated": (self.animated,)}


class PreviewMask(PreviewImage):
    """Masks, (batch, height, width) or one without batch, shown in grey."""

    def __init__(
        self, mask: torch.Tensor, animated: bool = False, cls: Any = None, **unknown: Any
    ) -> None:
        rows, columns = mask.shape[-2:]
        grey = mask.reshape(-1, rows, columns, 1).expand(-1, -1, -1, 3)
        super().__init__(grey, animated, cls)


class PreviewAudio(UIOutput):
    """Sounds, saved to the temporary folder; see `AudioSaveHelper`."""

    def __init__(self, audio: dict[str, Any], cls: Any = None, **unknown: Any) -> None:
        self.values = AudioSaveHelper.save_audio(audio, _temp_prefix(), FolderType.temp, cls)

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"audio": self.values}


class PreviewVideo(UIOutput):
    """Films that were saved already."""

    def __init__(self, values: Sequence[SavedResult], **unknown: Any) -> None:
        self.values = list(values)

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"images": self.values, "animated": (True,)}


class PreviewUI3D(UIOutput):
    """A model in space, as the page's viewer wants it.

    Attributes:
        model_file: Name of the model's file.
        camera_info: Where it is seen from.
        bg_image_path: The picture behind it, in the temporary folder, or None.
    """

    def __init__(
        self,
        model_file: str,
        camera_info: Any,
        bg_image: torch.Tensor | None = None,
        **unknown: Any,
    ) -> None:
        self.model_file = model_file
        self.camera_info = camera_info
        self.bg_image_path = None
        if bg_image is not None:
            (saved,) = _kept_for_now(bg_image[:1], None)
            self.bg_image_path = f"temp/{saved.filename}"

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"result": [self.model_file, self.camera_info, self.bg_image_path]}


class PreviewText(UIOutput):
    """A text."""

    def __init__(self, value: str, **unknown: Any) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"text": (self.value,)}
