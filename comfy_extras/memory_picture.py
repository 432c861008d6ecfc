"""A picture of memory over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from comfy_extras.memory_recording import Moment, base_of, bound_of

_MIB = 1024 * 1024
_DPI = 100


def drawn(moments: Sequence[Moment], width: int, height: int) -> torch.Tensor:
    """Draw host and device memory, the weights in use, and the bound of loading.

    Args:
        moments: At least one.
        width: In pixels.
        height: In pixels.

    Returns:
        [1, height, width, 3], float32, 0 to 1.
    """
    # Large, and needed by few prompts.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    seconds = [one.seconds for one in moments]
    host, device = ([one / _MIB for one in kind] for kind in _kinds(moments))
    base = base_of(moments)
    axes.stackplot(seconds, host, device, labels=("host", "device"), colors=("#9ecae1", "#fdae6b"))
    weights = [(base + one.weights) / _MIB for one in moments]
    axes.plot(seconds, weights, color="#31a354", label="W: weights in use, on what was there")
    bound = bound_of(moments) / _MIB
    axes.axhline(bound, color="#de2d26", linestyle="--", label="bound: W + staging + slack")
    axes.set_ylim(0, 1.1 * max(bound, *(one.total / _MIB for one in moments)))
    axes.set_xlabel("seconds")
    axes.set_ylabel("MiB")
    axes.legend(loc="lower right")
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255.0
    return torch.from_numpy(pixels).unsqueeze(0)


def _kinds(moments: Sequence[Moment]) -> tuple[list[int], list[int]]:
    return [one.host for one in moments], [one.device for one in moments]
