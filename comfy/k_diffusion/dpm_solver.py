"""DPM-Solver of Lu et al. 2022: singlestep methods of order 1 to 3, their plan and their error."""

from __future__ import annotations

import math

import torch

from comfy.k_diffusion.run import Run, to_d


class DpmStep:
    """The step of a run from level s to s', by several orders that share their evaluations.

    Lambda is -ln sigma here, for flow models too: in sigma both kinds follow the same equation.

    Args:
        run: evaluates the model.
        x: the state at s.
        slope: its slope, (x - D) / s.
        sigma: s.
        sigma_next: s', above zero.
    """

    def __init__(
        self, run: Run, x: torch.Tensor, slope: torch.Tensor, sigma: float, sigma_next: float
    ) -> None:
        self.run, self.x, self.slope = run, x, slope
        self.sigma, self.sigma_next = sigma, sigma_next
        self.h = math.log(sigma / sigma_next)
        self._differences: dict[float, torch.Tensor] = {}

    def _at(self, r: float) -> float:
        return self.sigma * math.exp(-r * self.h)

    def _difference(self, r: float) -> torch.Tensor:
        """Slope after an Euler step over the part r, less the slope at the start."""
        if r not in self._differences:
            self._differences[r] = self._slope(self.x + self.slope * (self._at(r) - self.sigma), r)
        return self._differences[r]

    def _slope(self, x: torch.Tensor, r: float) -> torch.Tensor:
        return to_d(x, self._at(r), self.run.denoise(x, self._at(r))) - self.slope

    def first(self) -> torch.Tensor:
        """Order 1 (equation 3.7), which is DDIM."""
        return self.x + self.slope * (self.sigma_next - self.sigma)

    def second(self, r1: float = 0.5) -> torch.Tensor:
        """Order 2 (algorithm 1)."""
        weight = self.sigma_next / (2 * r1) * math.expm1(self.h)
        return self.first() - self._difference(r1) * weight

    def third(self, r1: float = 1 / 3, r2: float = 2 / 3) -> torch.Tensor:
        """Order 3 (algorithm 2)."""
        h2 = r2 * self.h
        inner = self._at(r2) * (r2 / r1) * (math.expm1(h2) / h2 - 1)
        start = self.x + self.slope * (self._at(r2) - self.sigma) - self._difference(r1) * inner
        weight = self.sigma_next / r2 * (math.expm1(self.h) / self.h - 1)
        return self.first() - self._slope(start, r2) * weight

    def of_order(self, order: int) -> torch.Tensor:
        """The result of one order with its usual stages."""
        return (self.first, self.second, self.third)[order - 1]()

    def pair(self, order: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Results of the order below and of this one (2 or 3), without extra evaluations."""
        if order == 2:
            return self.first(), self.second()
        return self.second(r1=1 / 3), self.third()


def fast_orders(evaluations: int) -> list[int]:
    """Orders of the steps of DPM-Solver-fast, whose sum is the number of evaluations.

    Source: Lu et al. 2022, section 3.4.
    """
    threes, rest = divmod(evaluations, 3)
    if rest == 0:
        return [3] * (threes - 1) + [2, 1]
    return [3] * threes + [rest]


class StepSize:
    """Chooses the step of an adaptive solver from its error estimates.

    Args:
        h: the first step.
        order: of the solver; the error grows with h^order.
        accept_safety: a step whose proposed change is below this factor is done again.
        coefficients: of the proportional, integral and derivative terms.

    Source: Soderlind 2003, "Digital filters in adaptive time-stepping", equations 31 and 33.
    """

    def __init__(
        self,
        h: float,
        order: int,
        accept_safety: float,
        coefficients: tuple[float, float, float],
    ) -> None:
        p, i, d = coefficients
        self.h, self.accept_safety = h, accept_safety
        self.exponents = ((p + i + d) / order, -(p + 2 * d) / order, d / order)
        self.inverse_errors: list[float] = []

    def accepts(self, error: float) -> bool:
        """Judge a step by its error (1 is the tolerance) and set the next h."""
        inverse = 1.0 / (1e-8 + error)
        history = [inverse, *(self.inverse_errors or [inverse, inverse])]
        factor = math.prod(e**b for e, b in zip(history, self.exponents, strict=True))
        factor = 1.0 + math.atan(factor - 1.0)
        self.h *= factor
        if factor < self.accept_safety:
            return False
        self.inverse_errors = history[:2]
        return True


def relative_error(
    low: torch.Tensor, high: torch.Tensor, before: torch.Tensor, rtol: float, atol: float
) -> float:
    """Root mean square of the difference of two orders, in units of the tolerance."""
    tolerance = (rtol * torch.maximum(low.abs(), before.abs())).clamp(min=atol)
    return ((low - high) / tolerance).square().mean().sqrt().item()
