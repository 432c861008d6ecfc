"""Films written to files and buffers."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from comfy.image_saving import strict_json, whole_path
from comfy_api.internal.pyav import encoder_rate, pyav, sound_frame
from comfy_api.util.video_types import VideoCodec, VideoComponents, VideoContainer

_SOUND_CODEC = "aac"
_SUBSAMPLING = 2
_STEREO = 2


def container_to_output_format(container_format: str | None) -> str | None:
    """One kind of file of those that PyAV names together, divided by commas, when it reads one."""
    if container_format is None:
        return None
    return container_format.split(",", maxsplit=1)[0].strip() or None


def get_open_write_kwargs(
    dest: str | io.BytesIO, container_format: str, to_format: str | None
) -> dict[str, Any]:
    """Keywords for ``av.open`` that write a film with its metadata.

    Args:
        dest: A path tells the kind of file by its name, a buffer must be told it.
        container_format: Kind of the file that is copied.
        to_format: Kind that is wanted; "auto" is that of the file.
    """
    # Without this MP4 keeps only the few keys that it has fields for.
    wanted: dict[str, Any] = {"mode": "w", "options": {"movflags": "use_metadata_tags"}}
    if isinstance(dest, io.BytesIO):
        kind = container_format if to_format == VideoContainer.AUTO else to_format
        kind = None if kind is None else str(getattr(kind, "value", kind)).lower()
        wanted["format"] = container_to_output_format(kind)
    return wanted


@contextmanager
def opened_for_writing(
    dest: str | Path | io.BytesIO, container_format: str, to_format: str | None
) -> Iterator[Any]:
    """A container whose file is there only once it is whole."""
    if isinstance(dest, io.BytesIO):
        with pyav().open(dest, **get_open_write_kwargs(dest, container_format, to_format)) as into:
            yield into
        return
    with whole_path(Path(dest)) as temporary:
        options = get_open_write_kwargs(str(temporary), container_format, to_format)
        with pyav().open(str(temporary), **options) as into:
            yield into


def add_metadata(container: Any, metadata: Mapping[str, Any] | None) -> None:
    """Note entries in a container; what is not text becomes JSON."""
    for key, value in (metadata or {}).items():
        container.metadata[key] = value if isinstance(value, str) else strict_json(value)


def write_components(
    parts: VideoComponents,
    dest: str | io.BytesIO,
    format: VideoContainer | str,
    codec: VideoCodec | str,
    metadata: Mapping[str, Any] | None,
) -> None:
    """Encode pictures as H.264 and sound as AAC into an MP4.

    4:2:0 colour has one value for two by two pixels: the last column of an odd width, and the last
    row of an odd height, are left out. Sound that goes on after the pictures is cut off.

    Raises:
        ValueError: If another kind of file or encoding is asked for, or there is no picture.
    """
    if not len(parts.images):
        raise ValueError("A film needs at least one picture, and there is none.")
    if format not in (VideoContainer.AUTO, VideoContainer.MP4):
        raise ValueError(f"Films are written as mp4, not as {format!r}. Choose mp4 or auto.")
    if codec not in (VideoCodec.AUTO, VideoCodec.H264):
        raise ValueError(f"Films are encoded as h264, not as {codec!r}. Choose h264 or auto.")
    rate = Fraction(parts.frame_rate).limit_denominator(1_000_000)
    with opened_for_writing(dest, VideoContainer.MP4.value, VideoContainer.MP4.value) as into:
        add_metadata(into, metadata)
        pictures = into.add_stream("h264", rate=rate)
        # Streams must all be known before the first packet.
        has_sound = parts.audio is not None and parts.audio["waveform"].shape[-1] > 0
        sound = _sound_stream(into, parts.audio) if has_sound else None
        _encode_pictures(into, pictures, parts.images)
        if sound is not None:
            seconds = parts.images.shape[0] / rate
            _encode_sound(into, sound, parts.audio, seconds)


def _encode_pictures(into: Any, stream: Any, images: torch.Tensor) -> None:
    height, width = (size - size % _SUBSAMPLING for size in images.shape[1:3])
    if not height or not width:
        raise ValueError("A film's pictures must be at least two pixels wide and high.")
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    for image in images:
        shown = image[:height, :width, :3].detach().cpu().float().mul(255).round().clamp(0, 255)
        array = shown.to(torch.uint8).contiguous().numpy()
        frame = pyav().VideoFrame.from_ndarray(array, format="rgb24")
        into.mux(stream.encode(frame.reformat(format="yuv420p")))
    into.mux(stream.encode(None))


def _sound_stream(into: Any, audio: Mapping[str, Any]) -> Any:
    layout = "mono" if audio["waveform"].shape[1] == 1 else "stereo"
    rate = encoder_rate(_SOUND_CODEC, int(audio["sample_rate"]))
    return into.add_stream(_SOUND_CODEC, rate=rate, layout=layout)


def _encode_sound(into: Any, stream: Any, audio: Mapping[str, Any], seconds: Fraction) -> None:
    rate = int(audio["sample_rate"])
    waveform = audio["waveform"][0, :_STEREO, : math.ceil(seconds * rate)]
    frame = sound_frame(waveform, rate, stream.layout.name)
    frame.pts = 0
    into.mux(stream.encode(frame))
    into.mux(stream.encode(None))
