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
        RuntimeError: See `pyav`.
    """
    samples = waveform.detach().cpu().float().contiguous().numpy()
    frame = pyav().AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate = rate
    return frame
