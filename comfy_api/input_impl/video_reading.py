"""Films read from files and buffers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from comfy_api.internal.pyav import pyav
from comfy_api.util.video_types import VideoComponents

_US_PER_S = 1_000_000


@contextmanager
def opened(source: str | io.BytesIO) -> Iterator[Any]:
    """A container to read from; a buffer is read from its start."""
    if isinstance(source, io.BytesIO):
        source.seek(0)
    with pyav().open(source, mode="r") as container:
        yield container


def video_stream(container: Any, source: Any) -> Any:
    """The first stream of pictures.

    Raises:
        ValueError: If there is none.
    """
    if not container.streams.video:
        raise ValueError(
            f"No video stream found in {_name(source)}. Choose a file that holds a film."
        )
    return container.streams.video[0]


def _name(source: Any) -> str:
    return "a buffer" if isinstance(source, io.BytesIO) else f"file '{source}'"


def read_components(container: Any, source: Any) -> VideoComponents:
    """All pictures as RGB, and the first stream of sound.

    Raises:
        ValueError: If there is no stream of pictures.
    """
    stream = video_stream(container, source)
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    if not frames:
        raise ValueError(f"No picture could be read from {_name(source)}. It may be cut off.")
    images = torch.from_numpy(np.stack(frames)).float().div_(255.0)
    if container.streams.audio:
        # Pictures were read to the end of the file.
        container.seek(0)
    sound, metadata = sound_of(container), dict(container.metadata)
    return VideoComponents(images, frame_rate(stream), sound, metadata)


def frame_rate(stream: Any) -> Fraction:
    """Pictures per second, on average; 1 if nothing tells."""
    return Fraction(stream.average_rate or stream.guessed_rate or 1)


def sound_of(container: Any) -> dict[str, Any] | None:
    """The first stream of sound, -1 to 1, with one batch; None if there is none.

    Args:
        container: At its start. Sounds of a few samples cannot be wound back.
    """
    if not container.streams.audio:
        return None
    stream = container.streams.audio[0]
    as_floats = pyav().AudioResampler(format="fltp")
    parts = [
        part.to_ndarray()
        for frame in [*container.decode(stream), None]
        for part in as_floats.resample(frame)
    ]
    if not parts:
        return None
    waveform = torch.from_numpy(np.concatenate(parts, axis=1)).unsqueeze(0)
    return {"waveform": waveform, "sample_rate": stream.rate}


def count_frames(container: Any, source: Any) -> int:
    """Number of pictures: as the file says, or else by decoding them."""
    stream = video_stream(container, source)
    return int(stream.frames) or sum(1 for _ in container.decode(stream))


def duration_s(container: Any, source: Any) -> float:
    """Length in seconds: as the file says, or else by counting pictures.

    Raises:
        ValueError: If there is no stream of pictures, or it has no pictures.
    """
    stream = video_stream(container, source)
    if container.duration is not None:
        return float(container.duration / _US_PER_S)
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    frames = count_frames(container, source)
    if not frames or not stream.average_rate:
        raise ValueError(f"The length of {_name(source)} cannot be told. It may be cut off.")
    return float(frames / stream.average_rate)
