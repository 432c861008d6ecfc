"""Weights of multistep and exponential methods; plans and step sizes of DPM-Solver."""

from __future__ import annotations

import math

import numpy
import pytest

from comfy.k_diffusion.deis import deis_weights, vp_time
from comfy.k_diffusion.dpm_solver import StepSize, fast_orders
from comfy.k_diffusion.weights import exponential_weights, lagrange_weights, phi, quadrature


@pytest.mark.parametrize("z", [-30.0, -1.5, -0.999, -1e-3, 0.0, 1e-8, 0.7, 3.0])
def test_phi_functions_are_the_moments_of_the_exponential(z: float) -> None:
    points, weights = numpy.polynomial.legendre.leggauss(60)
    v, weights = (points + 1) / 2, weights / 2
    assert phi(0, z) == pytest.approx(math.exp(z))
    for k in (1, 2, 3):
        moment = float(weights @ (numpy.exp((1 - v) * z) * v ** (k - 1))) / math.factorial(k - 1)
        assert phi(k, z) == pytest.approx(moment, rel=1e-9)


def test_equal_steps_give_the_weights_of_adams_bashforth() -> None:
    found = lagrange_weights([0, 1, 2, 3], 3, 4)
    assert found == pytest.approx([-9 / 24, 37 / 24, -59 / 24, 55 / 24])


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("nodes", [[1.0], [0.2, 1.0], [-1.0, 0.2, 1.0], [0.2, 1.0, 2.5]])
def test_exponential_weights_integrate_polynomials(nodes: list[float], rate: float) -> None:
    start, end = 1.0, 2.5
    h = end - start
    weights = exponential_weights(nodes, start, end, rate)
    assert sum(weights) == pytest.approx(-math.expm1(-rate * h))
    if len(nodes) > 1:
        linear = sum(w * (u - start) for w, u in zip(weights, nodes, strict=True))
        assert linear == pytest.approx(rate * h**2 * phi(2, -rate * h))


def test_deis_weights_integrate_what_is_linear_in_vp_time() -> None:
    levels, end = [3.0, 2.0, 1.2], 0.7
    weights = deis_weights(levels, 1.2, end, "tab")
    assert sum(weights) == pytest.approx(end - 1.2)
    times = [vp_time(level) for level in levels]
    points, parts = quadrature(1.2, end)
    exact = sum(p * vp_time(level) for level, p in zip(points, parts, strict=True))
    assert sum(w * t for w, t in zip(weights, times, strict=True)) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("count", range(1, 20))
def test_orders_of_dpm_fast_use_all_evaluations(count: int) -> None:
    orders = fast_orders(count)
    assert sum(orders) == count
    assert max(orders) <= 3
    assert len(orders) == (count // 3 + 1)


def test_steps_grow_after_small_errors_and_shrink_after_large_ones() -> None:
    size = StepSize(0.1, 3, 0.81, (0.0, 1.0, 0.0))
    assert size.accepts(0.01)
    grown = size.h
    assert grown > 0.1
    assert not size.accepts(100.0)
    assert size.h < grown
