"""BOFT: an orthogonal turn in several stages, wired like the butterflies of a Fourier transform."""

from __future__ import annotations

import torch

from comfy.weight_adapter.oft import OFTAdapter, cayley
from comfy.weight_adapter.parts import Matrix, Place, flat


class BOFTAdapter(OFTAdapter):
    """``rescale * S_m ... S_1 W - W`` (arXiv 2311.06243).

    As OFT, with blocks (stages, number, size, size). Stage i turns groups of `size` outputs; the
    groups are drawn by splitting the outputs into runs of ``2 * size / 2 * 2**i`` and weaving the
    two halves of each run.
    """

    name = "boft"
    block_axes = 4

    def shape(self, weight: torch.Tensor) -> Matrix | None:
        """As OFT's, if the runs of the last stage divide the outputs, too."""
        stages, _, size, _ = self.weights[0].shape
        run = size // 2 * 2**stages
        return super().shape(weight) if run and not flat(weight)[0] % run else None

    def rotate(self, rows: torch.Tensor, weight: torch.Tensor, place: Place) -> torch.Tensor:
        """Turn `rows`, (out, in * kernel)."""
        stages = cayley(self.generators(weight, place))
        size = stages.shape[-1]
        for number, blocks in enumerate(stages):
            half = size // 2 * 2**number
            woven = _weave(rows, 2, half)
            turned = blocks @ woven.reshape(blocks.shape[0], size, -1)
            rows = _weave(turned.reshape(rows.shape), half, 2)
        return rows


def _weave(rows: torch.Tensor, outer: int, inner: int) -> torch.Tensor:
    """Exchange two factors of the row number in each run of ``outer * inner`` rows."""
    runs = rows.reshape(-1, outer, inner, rows.shape[1])
    return runs.transpose(1, 2).reshape(rows.shape)
