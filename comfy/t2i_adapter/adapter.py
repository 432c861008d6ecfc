"""T2I-Adapters: small networks that turn a hint picture into features for a UNet's input side.

The picture is folded into channels, 8x8 (16x16 for SDXL) pixels to a position, and goes down through
four levels, whose features are added to those of the UNet of the same width.

Source: Mou et al.: T2I-Adapter (2023), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

LEVELS = 4
_FOLD, _FOLD_XL = 8, 16
# Behind which input block of the UNet each level's features belong; the last one of SDXL's belong
# into the middle.
_PLACES = (2, 5, 8, 11)
_PLACES_XL = (3, 5, 8)


class _Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int, kernel: int, conv: Any) -> None:
        super().__init__()
        self.block1 = conv(width, width, 3)
        self.block2 = conv(width, width, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.block2(torch.relu(self.block1(x)))
        return result


class _First(_Residual):
    """The first of a level: halves if it is to, and widens if widths differ."""

    def __init__(self, before: int, width: int, kernel: int, conv: Any, down: Any) -> None:
        super().__init__(width, kernel, conv)
        self.down_opt = down
        self.in_conv = conv(before, width, kernel) if before != width else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.down_opt is not None:
            x = self.down_opt(x)
        if self.in_conv is not None:
            x = self.in_conv(x)
        return super().forward(x)


class _Halved(nn.Module):
    def __init__(self, width: int, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.op = operations.Conv2d(width, width, 3, stride=2, padding=1, **place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.op(x)
        return result


class _LightLevel(nn.Module):
    """Residual blocks of few channels between two pointwise convolutions."""

    def __init__(
        self, before: int, inner: int, width: int, depth: int, conv: Any, down: Any
    ) -> None:
        super().__init__()
        self.down_opt = down
        self.in_conv = conv(before, inner, 1)
        self.body = nn.Sequential(*(_Residual(inner, 3, conv) for _ in range(depth)))
        self.out_conv = conv(inner, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.down_opt is not None:
            x = self.down_opt(x)
        result: torch.Tensor = self.out_conv(self.body(self.in_conv(x)))
        return result


@dataclass(frozen=True)
class AdapterFile:
    """An adapter out of a file; no tensor is read.

    Attributes:
        state: Its tensors, named as `Adapter` names them.
        folded: Channels of the folded picture.
        widths: Of each level.
        depth: Residual blocks of each level.
        kernel: Of their second convolution.
        inner: Width of these blocks at each level of a light one; empty for a full one.
        halves_by_conv: Whether levels are halved by a convolution, not by means of 2x2.
    """

    state: dict[str, torch.Tensor]
    folded: int
    widths: tuple[int, ...]
    depth: int
    kernel: int
    inner: tuple[int, ...] = ()
    halves_by_conv: bool = False

    @property
    def is_xl(self) -> bool:
        """Whether it is for SDXL: one or three channels, 16x16 pixels each."""
        return self.folded in (_FOLD_XL**2, 3 * _FOLD_XL**2)

    @property
    def fold(self) -> int:
        """Side of the pixels that become one position."""
        return _FOLD_XL if self.is_xl else _FOLD

    @property
    def channels_in(self) -> int:
        """Of the hint."""
        return self.folded // self.fold**2

    def build(self, *, dtype: Any, device: Any, operations: Any) -> Adapter:
        """Make the network, without weights."""
        return Adapter(self, dtype, device, operations)


class Adapter(nn.Module):
    """Picture to residuals."""

    def __init__(self, numbers: AdapterFile, dtype: Any, device: Any, operations: Any) -> None:
        """Make the layers; see `AdapterFile.build`."""
        super().__init__()
        place = {"dtype": dtype, "device": device}

        def conv(before: int, after: int, kernel: int) -> nn.Module:
            made: nn.Module = operations.Conv2d(before, after, kernel, padding=kernel // 2, **place)
            return made

        def down(level: int, width: int) -> nn.Module | None:
            # SDXL's picture is folded twice as far, so that it is halved only once.
            if level not in ((2,) if numbers.is_xl else (1, 2, 3)):
                return None
            if numbers.halves_by_conv:
                return _Halved(width, operations, place)
            return nn.AvgPool2d(2, ceil_mode=True)

        self.is_xl = numbers.is_xl
        self.unfold = nn.PixelUnshuffle(numbers.fold)
        self.depth = 1 if numbers.inner else numbers.depth
        before = numbers.folded
        body: list[nn.Module] = []
        self.conv_in = None if numbers.inner else conv(before, numbers.widths[0], 3)
        if not numbers.inner:
            before = numbers.widths[0]
        for level, width in enumerate(numbers.widths):
            halved = down(level, before)
            if numbers.inner:
                inner = numbers.inner[level]
                body.append(_LightLevel(before, inner, width, numbers.depth, conv, halved))
            else:
                body.append(_First(before, width, numbers.kernel, conv, halved))
                body += [_Residual(width, numbers.kernel, conv) for _ in range(numbers.depth - 1)]
            before = width
        self.body = nn.ModuleList(body)

    def features(self, picture: torch.Tensor) -> list[torch.Tensor]:
        """Make each level's features.

        Args:
            picture: [batch, channels, height, width], 0 to 1.
        """
        x = self.unfold(picture)
        if self.conv_in is not None:
            x = self.conv_in(x)
        found = []
        for number, block in enumerate(self.body, start=1):
            x = block(x)
            if number % self.depth == 0:
                found.append(x)
        return found

    def forward(self, picture: torch.Tensor) -> dict[str, list[torch.Tensor | None]]:
        """Make residuals for input blocks, the last one first, and for the middle of SDXL's.

        Args:
            picture: [batch, channels, height, width], 0 to 1.
        """
        features = self.features(picture)
        places = _PLACES_XL if self.is_xl else _PLACES
        inputs: list[torch.Tensor | None] = [None] * (places[-1] + 1)
        for place, feature in zip(places, features, strict=False):
            inputs[place] = feature
        middle: list[torch.Tensor | None] = list(features[len(places) :])
        return {"input": inputs[::-1], "middle": middle, "output": []}


def _renamed(sd: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give diffusers' tensors their original names; original ones are kept."""
    is_light = "adapter.body.0.out_conv.weight" in sd
    per_level = 0
    while f"adapter.body.0.resnets.{per_level}.block1.weight" in sd:
        per_level += 1
    names = {"adapter.": ""}
    for level in range(LEVELS if per_level else 0):
        theirs = f"adapter.body.{level}."
        if is_light:
            names[theirs + "resnets."] = f"body.{level}.body."
            continue
        for number in range(per_level):
            names[f"{theirs}resnets.{number}."] = f"body.{level * per_level + number}."
        names[theirs] = f"body.{level * per_level}."
    found = {}
    for key, tensor in sd.items():
        start = max((name for name in names if key.startswith(name)), key=len, default="")
        found[names.get(start, "") + key[len(start) :]] = tensor
    return found


def recognise(sd: Mapping[str, torch.Tensor]) -> AdapterFile | None:
    """Find what an adapter is; None if it is none."""
    state = _renamed(sd)
    shapes = {key: tensor.shape for key, tensor in state.items()}
    if "body.0.out_conv.weight" in shapes:
        return AdapterFile(
            state,
            shapes["body.0.in_conv.weight"][1],
            tuple(shapes[f"body.{level}.out_conv.weight"][0] for level in range(LEVELS)),
            sum(f"body.0.body.{n}.block1.weight" in shapes for n in range(len(shapes))),
            3,
            tuple(shapes[f"body.{level}.in_conv.weight"][0] for level in range(LEVELS)),
        )
    if "conv_in.weight" not in shapes or "body.0.block1.weight" not in shapes:
        return None
    blocks = sum(f"body.{n}.block1.weight" in shapes for n in range(len(shapes)))
    depth = blocks // LEVELS
    return AdapterFile(
        state,
        shapes["conv_in.weight"][1],
        tuple(shapes[f"body.{n * depth}.block1.weight"][0] for n in range(LEVELS)),
        depth,
        shapes["body.0.block2.weight"][2],
        halves_by_conv=any(".down_opt.op." in key for key in shapes),
    )
