"""Bodies in space."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class VOXEL:
    """A grid, (batch, depth, height, width)."""

    data: torch.Tensor


@dataclass
class MESH:
    """Triangles.

    Attributes:
        vertices: (batch, points, 3).
        faces: (batch, triangles, 3), numbers of points.
    """

    vertices: torch.Tensor
    faces: torch.Tensor
