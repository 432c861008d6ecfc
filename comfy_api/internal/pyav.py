"""PyAV, imported when the first sound or film is touched: it is large."""

from __future__ import annotations

from typing import Any

import torch


def pyav() -> Any:
    """The module ``av``.

    Raises:
        RuntimeError: If it is not installed.
    """
    try:
        import av  # noqa: PLC0415 - large, and needed by few prompts
    except ImportError as err:
        raise RuntimeError(
            "Sound and film are read and written by PyAV, which cannot be imported. Install it "
            "with `pip install av`."
        ) from err
    return av


def sound_frame(waveform: torch.Tensor, rate: int, layout: str) -> Any:
    """One sound as an encoder takes it.

    Args:
        waveform: (channels, samples), -1 to 1.
        rate: Samples per second.
        layout: PyAV's name of as many channels.

    Raises:
        ValueError: It is empty.
        RuntimeError: See `pyav`.
    """
    if not waveform.shape[-1]:
        raise ValueError("The sound is empty: it has no samples. Give it a length, or none at all.")
    samples = waveform.detach().cpu().float().contiguous().numpy()
    frame = pyav().AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate = rate
    return frame


def encoder_rate(codec: str, rate: int) -> int:
    """The least rate that an encoder takes and that loses nothing, or its greatest.

    Args:
        codec: PyAV's name of the encoder.
        rate: Of the sound, in samples per second; the encoder resamples it.

    Raises:
        RuntimeError: See `pyav`.
    """
    known: list[int] = sorted(pyav().Codec(codec, "w").audio_rates or (rate,))
    return next((one for one in known if one >= rate), known[-1])
