"""Low frequencies of pictures and features, scaled."""

from __future__ import annotations

import torch


def scale_frequencies(x: torch.Tensor, cutoff: int, low: float, high: float = 1.0) -> torch.Tensor:
    """Scale the frequencies from -cutoff to cutoff - 1, along both last axes, and all others.

    Args:
        x: [..., H, W], any float dtype; computed in fp32.
        cutoff: In periods per side.
        low: Factor of those that are low along both axes.
        high: Factor of the rest.
    """
    spectrum = torch.fft.fft2(x.float())
    is_low = [
        (number >= -cutoff) & (number < cutoff)
        for number in (
            torch.fft.fftfreq(side, 1 / side, device=x.device).round() for side in x.shape[-2:]
        )
    ]
    both = is_low[0][:, None] & is_low[1]
    factors = torch.where(both, low, high).to(spectrum.real.dtype)
    back: torch.Tensor = torch.fft.ifft2(spectrum * factors).real
    return back.to(x.dtype)
