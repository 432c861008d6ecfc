"""UniPC: a multistep predictor and the corrector that shares its evaluations.

Source: Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of
Diffusion Models", algorithms 1 to 4 in data prediction. Lambda is -ln sigma, for flow models too:
in sigma both kinds follow the same equation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch

from comfy.k_diffusion.run import Run, ddim_step
from comfy.k_diffusion.weights import phi

ORDER = 3

Evaluation = tuple[float, torch.Tensor]
"""A lambda and D there."""


def _size(h: float, variant: str) -> float:
    """B(h) of the paper: h or 1 - exp(-h). It matters only where a weight is set to 1/2."""
    return h if variant == "bh1" else -math.expm1(-h)


def _weights(ratios: Sequence[float], h: float, variant: str) -> list[float]:
    """Weights a_m of the differences at lambda + r_m h: R a = b (equation 9), 1/2 for one alone."""
    if len(ratios) == 1:
        return [0.5]
    count, size = len(ratios), _size(h, variant)
    matrix = numpy.array([[r**k for r in ratios] for k in range(count)])
    right = [h * math.factorial(k) * phi(k + 1, -h) / size for k in range(1, count + 1)]
    return numpy.linalg.solve(matrix, numpy.array(right)).tolist()


def _update(
    x: torch.Tensor,
    levels: tuple[float, float],
    current: Evaluation,
    others: Sequence[Evaluation],
    variant: str,
) -> torch.Tensor:
    """The state at the second level from the one at the first.

    Args:
        x: the state at the first level.
        levels: both levels, above zero.
        current: lambda and D at the first level.
        others: further evaluations: past ones, and the one at the second level to correct with.
        variant: "bh1" or "bh2".
    """
    sigma, sigma_next = levels
    at, denoised = current
    h = math.log(sigma / sigma_next)
    result = ddim_step(x, denoised, sigma, sigma_next)
    ratios = [(other - at) / h for other, _ in others]
    for weight, ratio, (_, value) in zip(
        _weights(ratios, h, variant) if ratios else [], ratios, others, strict=True
    ):
        result = result + (value - denoised) * (_size(h, variant) * weight / ratio)
    return result


@torch.no_grad()
def sample_unipc(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    variant: str = "bh1",
) -> torch.Tensor:
    """UniPC-3 with as many evaluations as steps; the parameters are those of all samplers.

    Predictor and corrector look at up to three evaluations; the steps before a final level of 0,
    which is a long way in lambda, at fewer.

    Args:
        model: called as model(x, sigma [B], **extra_args); gives D.
        x: [B, ...], the state at sigmas[0].
        sigmas: [n + 1], descending; where it ends at 0, the result is the last D.
        extra_args: keyword arguments of the model.
        callback: told of each step.
        disable: no progress bar.
        variant: "bh1" or "bh2", the function B(h).

    Raises:
        ValueError: the variant is neither.
    """
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"UniPC has the variants 'bh1' and 'bh2', not {variant!r}.")
    run = Run(model, x, sigmas, extra_args, callback, disable)
    past: list[Evaluation] = []
    used: list[Evaluation] = []
    before, taken = x, (0.0, 0.0)
    for i, sigma, sigma_next in run:
        new = (-math.log(sigma), run.evaluate(x, i))
        if sigma_next == 0:
            return new[1]
        if past:
            x = _update(before, taken, past[-1], [*used, new], variant)
        past = [*past, new]
        order = min(ORDER, len(past), len(run.levels) - 1 - i if run.levels[-1] == 0 else ORDER)
        used = past[-order:-1]
        before, taken = x, (sigma, sigma_next)
        x = _update(x, taken, new, used, variant)
    return x


@torch.no_grad()
def sample_unipc_bh2(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
) -> torch.Tensor:
    """`sample_unipc` with B(h) = 1 - exp(-h)."""
    return sample_unipc(model, x, sigmas, extra_args, callback, disable, variant="bh2")
