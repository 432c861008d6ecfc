"""Weights of multistep methods: integrals of the polynomials through past evaluations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy

# Exact for polynomials up to degree 47; exponentials over the steps that occur to fp64 precision.
POINTS = 24


def phi(k: int, z: float) -> float:
    """phi_k(z) = sum over j of z^j / (j + k)!, the weights of exponential integrators.

    phi_0 = e^z, phi_1 = (e^z - 1) / z, phi_2 = (e^z - 1 - z) / z^2.

    Source: Hochbruck and Ostermann 2010, "Exponential integrators", equation 2.10.
    """
    if abs(z) < 1.0:
        return sum(z**j / math.factorial(j + k) for j in range(20))
    value = math.exp(z)
    for j in range(k):
        value = (value - 1.0 / math.factorial(j)) / z
    return value


@functools.cache
def _gauss_legendre() -> tuple[numpy.ndarray, numpy.ndarray]:
    return numpy.polynomial.legendre.leggauss(POINTS)


def quadrature(start: float, end: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Points in [start, end] and weights of Gauss-Legendre quadrature; fp64."""
    points, weights = _gauss_legendre()
    half = (end - start) / 2
    return start + half * (points + 1.0), half * weights


def _lagrange(nodes: Sequence[float], j: int, points: numpy.ndarray) -> numpy.ndarray:
    """The polynomial that is 1 at the j-th node and 0 at the others."""
    values = numpy.ones_like(points)
    for k, node in enumerate(nodes):
        if k != j:
            values = values * (points - node) / (nodes[j] - node)
    return values


def lagrange_weights(
    nodes: Sequence[float],
    start: float,
    end: float,
    density: Callable[[numpy.ndarray], numpy.ndarray] | None = None,
) -> list[float]:
    """The integral from start to end of each node's Lagrange polynomial, times a density.

    Without a density these are the weights of the Adams methods with variable steps
    (Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", section III.5).
    """
    points, weights = quadrature(start, end)
    if density is not None:
        weights = weights * density(points)
    return [float(weights @ _lagrange(nodes, j, points)) for j in range(len(nodes))]


def exponential_weights(
    nodes: Sequence[float], start: float, end: float, rate: float
) -> list[float]:
    """As `lagrange_weights`, with the density rate * exp(-rate (end - u))."""
    return lagrange_weights(
        nodes, start, end, lambda points: rate * numpy.exp(-rate * (end - points))
    )
