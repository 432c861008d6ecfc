"""Sounds read from files, also from films."""

from __future__ import annotations

import numpy as np
import torch

from comfy_api.internal.pyav import pyav


def read_sound(path: str) -> tuple[torch.Tensor, int]:
    """The first stream of sound in a file.

    Returns:
        (channels, samples), float32, -1 to 1, and samples a second.

    Raises:
        ValueError: There is no sound in it.
        RuntimeError: PyAV is missing.
    """
    av = pyav()
    with av.open(path) as container:
        if not container.streams.audio:
            raise ValueError(f"There is no sound in {path}. Choose another file.")
        stream = container.streams.audio[0]
        as_floats = av.AudioResampler(format="fltp")
        parts = [
            part.to_ndarray()
            for frame in [*container.decode(stream), None]
            for part in as_floats.resample(frame)
        ]
        rate = int(stream.rate)
    if not parts:
        raise ValueError(f"No sound could be decoded from {path}. It may be cut off.")
    return torch.from_numpy(np.concatenate(parts, axis=1)), rate
