"""What a film can do, wherever it is kept."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any

from comfy_api.util.video_types import VideoCodec, VideoComponents, VideoContainer


class VideoInput(ABC):
    """A film. Only the first two functions must be written; better ones may replace the others."""

    @abstractmethod
    def get_components(self) -> VideoComponents:
        """All pictures, and the sound."""

    @abstractmethod
    def save_to(
        self,
        path: str | io.BytesIO,
        format: VideoContainer = VideoContainer.AUTO,
        codec: VideoCodec = VideoCodec.AUTO,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Write it to a file or a buffer.

        Args:
            path: Where to.
            format: Kind of file.
            codec: How pictures are encoded.
            metadata: Written into the file, as JSON if it is not text.

        Raises:
            ValueError: If such a file cannot be written.
        """

    def get_stream_source(self) -> str | io.BytesIO:
        """Something that PyAV opens: a path, or a buffer at its start."""
        buffer = io.BytesIO()
        self.save_to(buffer)
        buffer.seek(0)
        return buffer

    def get_dimensions(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.get_components().images.shape[1:3]
        return width, height

    def get_duration(self) -> float:
        """Length in seconds."""
        return float(self.get_frame_count() / self.get_frame_rate())

    def get_frame_count(self) -> int:
        """Number of pictures."""
        return int(self.get_components().images.shape[0])

    def get_frame_rate(self) -> Fraction:
        """Pictures per second."""
        return Fraction(self.get_components().frame_rate)

    def get_container_format(self) -> str:
        """Name of the kind of file, as PyAV has it."""
        return VideoContainer.MP4.value
