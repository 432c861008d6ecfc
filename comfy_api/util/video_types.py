"""Kinds of films, and what a film is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

import torch


class VideoCodec(str, Enum):
    """How pictures are encoded; ``auto`` keeps what there is or takes H.264."""

    AUTO = "auto"
    H264 = "h264"

    @classmethod
    def as_input(cls) -> list[str]:
        """Choices for a node."""
        return [member.value for member in cls]


class VideoContainer(str, Enum):
    """Kinds of files; ``auto`` keeps what there is or takes MP4."""

    AUTO = "auto"
    MP4 = "mp4"

    @classmethod
    def as_input(cls) -> list[str]:
        """Choices for a node."""
        return [member.value for member in cls]

    @classmethod
    def get_extension(cls, value: VideoContainer | str) -> str:
        """What follows the dot in names of such files.

        Raises:
            ValueError: If there is no such kind.
        """
        return cls.MP4.value if cls(value) in (cls.AUTO, cls.MP4) else ""


@dataclass
class VideoComponents:
    """A film in parts.

    Attributes:
        images: (frames, height, width, channels), 0 to 1.
        frame_rate: Pictures per second.
        audio: Sound as links carry it, or None.
        metadata: What its file says about it, or None.
    """

    images: torch.Tensor
    frame_rate: Fraction
    audio: Any = None
    metadata: dict[str, Any] | None = None
