"""Sounds cut, joined and mixed.

A sound is ``{"waveform": (batch, channels, samples), "sample_rate": Hz}``, values around -1 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

import comfy.utils

Sound = dict[str, Any]

_DB_PER_FACTOR_10 = 20.0

MERGES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "mean": lambda first, second: (first + second) / 2.0,
    "subtract": torch.sub,
    "multiply": torch.mul,
}
"""Ways to merge two sounds, sample by sample."""


def at_rate(waveform: torch.Tensor, rate: int, wanted: int) -> torch.Tensor:
    """Resample by a filter without delay; see `scipy.signal.resample_poly`.

    Args:
        waveform: (..., samples).
        rate: Its samples a second.
        wanted: Those of the result, whose length is ``ceil(samples * wanted / rate)``.
    """
    if rate == wanted:
        return waveform
    import scipy.signal  # noqa: PLC0415 - large, and needed by few prompts

    shared = math.gcd(rate, wanted)
    samples = waveform.detach().cpu().double().numpy()
    resampled = scipy.signal.resample_poly(samples, wanted // shared, rate // shared, axis=-1)
    return torch.from_numpy(resampled).to(waveform)


def alike(first: Sound, second: Sound) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Waveforms of two sounds with one rate, the higher; as many channels, and as long a batch.

    Raises:
        ValueError: The channels differ, and neither sound has only one.
    """
    rate = max(int(first["sample_rate"]), int(second["sample_rate"]))
    pair = [at_rate(one["waveform"], int(one["sample_rate"]), rate) for one in (first, second)]
    channels = max(one.shape[1] for one in pair)
    if any(one.shape[1] not in (1, channels) for one in pair):
        raise ValueError(
            f"A sound of {pair[0].shape[1]} channels and one of {pair[1].shape[1]} do not go "
            "together. Split off channels, or make one of them mono."
        )
    count = max(one.shape[0] for one in pair)
    one, other = (
        comfy.utils.repeat_to_batch_size(each.expand(-1, channels, -1), count) for each in pair
    )
    return one, other.to(one), rate


def joined(first: Sound, second: Sound) -> Sound:
    """One sound after the other."""
    one, other, rate = alike(first, second)
    return {"waveform": torch.cat((one, other), dim=-1), "sample_rate": rate}


def merged(first: Sound, second: Sound, way: str) -> Sound:
    """Two sounds at a time, as long as the first; what would be too loud is made as loud as 1.

    Args:
        second: Is cut, or goes on in silence.
        way: One of `MERGES`.
    """
    one, other, rate = alike(first, second)
    other = torch.nn.functional.pad(other, (0, one.shape[-1] - other.shape[-1]))
    mixed = MERGES[way](one, other)
    # A sound may have no samples at all.
    if mixed.numel():
        mixed = mixed / mixed.abs().amax(dim=(-2, -1), keepdim=True).clamp(min=1.0)
    return {"waveform": mixed, "sample_rate": rate}


def trimmed(sound: Sound, start_s: float, duration_s: float) -> Sound:
    """A part of a sound.

    Args:
        start_s: Begin, in seconds; a negative one counts from the end.
        duration_s: Length, in seconds; what lies outside is left out.

    Raises:
        ValueError: Nothing is left.
    """
    waveform, rate = sound["waveform"], int(sound["sample_rate"])
    length = waveform.shape[-1]
    start = round(start_s * rate)
    first = max(0, length + start) if start < 0 else min(start, length)
    last = min(length, first + round(duration_s * rate))
    if first >= last:
        raise ValueError(
            f"Nothing is left of a sound of {length / rate:.3f} s from second {start_s} on for "
            f"{duration_s} s. Begin earlier, or take a longer part."
        )
    return {**sound, "waveform": waveform[..., first:last]}


def amplified(sound: Sound, decibels: float) -> Sound:
    """Louder or softer by decibels: 20 are ten times the amplitude."""
    factor = 10.0 ** (decibels / _DB_PER_FACTOR_10)
    return {**sound, "waveform": sound["waveform"] * factor}
