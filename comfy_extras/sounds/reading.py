"""Sounds read from files, also from films."""

from __future__ import annotations

from comfy_api.input_impl.video_reading import opened, sound_of
from comfy_extras.sounds.mixing import Sound


def read_sound(path: str) -> Sound:
    """The first stream of sound in a file, float32, with a batch of one.

    Raises:
        ValueError: There is no sound in it.
        RuntimeError: PyAV is missing.
    """
    with opened(path) as container:
        sound = sound_of(container)
    if sound is None:
        raise ValueError(f"There is no sound in {path}. Choose another file.")
    return sound
