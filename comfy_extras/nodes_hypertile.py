"""HyperTile: self-attention within tiles, for large pictures."""

from __future__ import annotations

import math
import random
from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.choices import choices_of
from comfy_extras.guidance.patching import patch_schema

_LATENT_PIXELS = 8
_LEAST_TILE = 4
"""In positions of the latent: 32 pixels."""


def tiles_along(side: int, least: int, choices: int, chooser: random.Random) -> int:
    """Into how many tiles a side is cut.

    Args:
        side: Its length.
        least: The shortest tile.
        choices: How many of the possible numbers are chosen from, the largest ones.
        chooser: Chooses.
    """
    possible = [side // size for size in range(min(least, side), side + 1) if side % size == 0]
    return chooser.choice(possible[: max(choices, 1)])


def to_tiles(x: torch.Tensor, height: int, rows: int, columns: int) -> torch.Tensor:
    """Cut [B, H W, C] into [B rows columns, H W / (rows columns), C]."""
    batch, _, channels = x.shape
    x = x.reshape(batch, rows, height // rows, columns, -1, channels)
    return x.transpose(2, 3).reshape(batch * rows * columns, -1, channels)


def from_tiles(x: torch.Tensor, height: int, rows: int, columns: int) -> torch.Tensor:
    """Undo `to_tiles`."""
    channels = x.shape[-1]
    x = x.reshape(-1, rows, columns, height // rows, x.shape[1] * rows // height, channels)
    return x.transpose(2, 3).reshape(x.shape[0], -1, channels)


class Tiling:
    """Patches of self-attention: one before it cuts, one after it joins again.

    Attributes:
        tile: The shortest side of a tile, in positions of the latent.
        swap_size: How many numbers of tiles are chosen from.
        max_depth: How often features may be halved to be cut still.
        scale_depth: Tiles are twice as large with each halving.
    """

    def __init__(self, tile: int, swap_size: int, max_depth: int, scale_depth: bool) -> None:
        self.tile, self.swap_size = tile, swap_size
        self.max_depth, self.scale_depth = max_depth, scale_depth
        self._cut: tuple[int, int, int] | None = None

    def _chosen(self, extra_options: dict[str, Any]) -> tuple[int, int, int] | None:
        """Height, rows and columns of tiles; None for features that stay whole."""
        height, width = extra_options["activations_shape"][-2:]
        whole = extra_options["original_shape"]
        depth = round(math.log2(max(whole[-2] / height, 1)))
        if depth > self.max_depth:
            return None
        least = self.tile * 2**depth if self.scale_depth else self.tile
        chooser = choices_of(extra_options, "tiles")
        rows, columns = (
            tiles_along(side, least, self.swap_size, chooser) for side in (height, width)
        )
        return (height, rows, columns) if rows * columns > 1 else None

    def cut(
        self, n: torch.Tensor, context: Any, value: Any, extra_options: dict[str, Any]
    ) -> tuple[torch.Tensor, Any, Any]:
        """Cut what queries, keys and values are made of."""
        self._cut = self._chosen(extra_options)
        if self._cut is None:
            return n, context, value
        tiled = to_tiles(n, *self._cut)
        others = [tiled if one is n else to_tiles(one, *self._cut) for one in (context, value)]
        return tiled, others[0], others[1]

    def join(self, out: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        """Join the result."""
        if self._cut is None:
            return out
        height_rows_columns, self._cut = self._cut, None
        return from_tiles(out, *height_rows_columns)


class HyperTile(io.ComfyNode):
    """Lets self-attention look at tiles of the picture instead of all of it.

    Source: the method of github.com/tfernd/HyperTile, described in its readme.
    """

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.Int.Input("tile_size", default=256, min=1, max=2048),
            io.Int.Input("swap_size", default=2, min=1, max=128),
            io.Int.Input("max_depth", default=0, min=0, max=10),
            io.Boolean.Input("scale_depth", default=False),
        ]
        return patch_schema("HyperTile", "model_patches/unet", inputs)

    @classmethod
    def execute(
        cls, model: Any, tile_size: int, swap_size: int, max_depth: int, scale_depth: bool
    ) -> Any:
        """Patch a clone; `tile_size` is in pixels, 32 at least; see `Tiling`."""
        tile = max(tile_size // _LATENT_PIXELS, _LEAST_TILE)
        tiling = Tiling(tile, swap_size, max_depth, scale_depth)
        patched = model.clone()
        patched.set_model_attn1_patch(tiling.cut)
        patched.set_model_attn1_output_patch(tiling.join)
        return io.NodeOutput(patched)

    patch = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(HyperTile)
