"""Films: in a file, or as pictures and sound."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

from comfy_api.input.video_types import VideoInput
from comfy_api.input_impl.video_reading import (
    count_frames,
    duration_s,
    frame_rate,
    opened,
    read_components,
    video_stream,
)
from comfy_api.input_impl.video_writing import (
    add_metadata,
    container_to_output_format,
    get_open_write_kwargs,
    opened_for_writing,
    write_components,
)
from comfy_api.util.video_types import VideoCodec, VideoComponents, VideoContainer

__all__ = [
    "VideoFromComponents",
    "VideoFromFile",
    "container_to_output_format",
    "get_open_write_kwargs",
]


class VideoFromFile(VideoInput):
    """A film in a file or a buffer; it is decoded only if its pictures are asked for.

    All functions raise PyAV's ``InvalidDataError`` for what is no film at all, and ValueError for
    a file without pictures.
    """

    def __init__(self, file: str | io.BytesIO) -> None:
        self._file = file

    def get_stream_source(self) -> str | io.BytesIO:
        """The path, or the buffer at its start."""
        if isinstance(self._file, io.BytesIO):
            self._file.seek(0)
        return self._file

    def get_dimensions(self) -> tuple[int, int]:
        """Width and height in pixels."""
        with opened(self._file) as container:
            stream = video_stream(container, self._file)
            return stream.width, stream.height

    def get_duration(self) -> float:
        """Length in seconds."""
        with opened(self._file) as container:
            return duration_s(container, self._file)

    def get_frame_count(self) -> int:
        """Number of pictures."""
        with opened(self._file) as container:
            return count_frames(container, self._file)

    def get_frame_rate(self) -> Fraction:
        """Pictures per second, on average."""
        with opened(self._file) as container:
            return frame_rate(video_stream(container, self._file))

    def get_container_format(self) -> str:
        """Name of the kind of file; several that are read alike are divided by commas."""
        with opened(self._file) as container:
            return str(container.format.name)

    def get_components(self) -> VideoComponents:
        """All pictures, and the sound."""
        with opened(self._file) as container:
            return read_components(container, self._file)

    def save_to(
        self,
        path: str | io.BytesIO,
        format: VideoContainer = VideoContainer.AUTO,
        codec: VideoCodec = VideoCodec.AUTO,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Copy it; it is encoded anew only if its kind or encoding is not what is wanted."""
        with opened(self._file) as container:
            stream = video_stream(container, self._file)
            kinds = container.format.name.split(",")
            same_kind = format == VideoContainer.AUTO or format in kinds
            if same_kind and codec in (VideoCodec.AUTO, stream.codec.name):
                _copy(container, path, format, metadata)
                return
            parts = read_components(container, self._file)
        kept = {**(parts.metadata or {}), **(metadata or {})}
        write_components(parts, path, format, codec, kept)


class VideoFromComponents(VideoInput):
    """A film that nodes made of pictures and sound."""

    def __init__(self, components: VideoComponents) -> None:
        self._components = components

    def get_components(self) -> VideoComponents:
        """The parts it was made of; they are shared, so do not write to them."""
        parts = self._components
        return VideoComponents(parts.images, parts.frame_rate, parts.audio, parts.metadata)

    def save_to(
        self,
        path: str | io.BytesIO,
        format: VideoContainer = VideoContainer.AUTO,
        codec: VideoCodec = VideoCodec.AUTO,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Encode it; see `write_components`."""
        write_components(self._components, path, format, codec, metadata)


def _copy(
    source: Any, dest: str | io.BytesIO, format: VideoContainer, metadata: dict[str, Any] | None
) -> None:
    """Put the packets of pictures and sound into a new file as they are."""
    with opened_for_writing(dest, source.format.name, format) as into:
        add_metadata(into, dict(source.metadata))
        add_metadata(into, metadata)
        targets = {
            stream: into.add_stream_from_template(stream, opaque=True)
            for stream in source.streams
            if stream.type in ("video", "audio")
        }
        for packet in source.demux(list(targets)):
            # Packets without a time only mark the end.
            if packet.dts is None:
                continue
            packet.stream = targets[packet.stream]
            into.mux(packet)
