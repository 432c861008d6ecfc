"""Token merging: self-attention over fewer tokens, since many are alike."""

from __future__ import annotations

import random
from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.choices import choices_of
from comfy_extras.guidance.patching import patch_schema

_WINDOW = 2


def targets_of(height: int, width: int, chooser: random.Random) -> torch.Tensor:
    """One token of each window of 2 x 2, by its number in [height x width]; ascending."""
    generator = torch.Generator().manual_seed(chooser.getrandbits(63))
    windows = (height // _WINDOW, width // _WINDOW)
    rows, columns = (
        torch.arange(count).mul(_WINDOW).reshape(shape)
        + torch.randint(_WINDOW, windows, generator=generator)
        for count, shape in zip(windows, ((-1, 1), (1, -1)), strict=True)
    )
    return (rows * width + columns).flatten().sort().values


class Merge:
    """Which tokens are merged into which; made for one set of tokens.

    Targets are given. Of all others those most alike to a target are merged into it: it becomes the
    mean. Afterwards they get what it got.

    Source: Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion", section 4.
    """

    def __init__(self, tokens: torch.Tensor, targets: torch.Tensor, ratio: float) -> None:
        """Compare.

        Args:
            tokens: [B, N, C].
            targets: [T], numbers of tokens.
            ratio: How many of all tokens are to be merged, 0 to 1.
        """
        count = tokens.shape[1]
        is_target = torch.zeros(count, dtype=torch.bool)
        is_target[targets] = True
        self._targets = targets.to(tokens.device)
        self._sources = (~is_target).nonzero().flatten().to(tokens.device)
        unit = torch.nn.functional.normalize(tokens, dim=-1)
        alike = unit[:, self._sources] @ unit[:, self._targets].mT
        score, best = alike.max(-1)
        order = score.argsort(dim=-1, descending=True)
        merged = min(len(self._sources), int(count * ratio))
        self._merged, self._kept = order[:, :merged], order[:, merged:]
        self._into = best.gather(1, self._merged)

    def merge(self, x: torch.Tensor) -> torch.Tensor:
        """Shape [B, N, C] to [B, fewer, C]: the other tokens that stay, then the targets."""
        sources, targets = x[:, self._sources], x[:, self._targets]
        moved = _rows(sources, self._merged)
        index = self._into.unsqueeze(-1).expand_as(moved)
        means = targets.scatter_reduce(1, index, moved, "mean", include_self=True)
        return torch.cat([_rows(sources, self._kept), means], dim=1)

    def unmerge(self, x: torch.Tensor) -> torch.Tensor:
        """Give every token of [B, N, C] its result from [B, fewer, C]."""
        kept, targets = x[:, : self._kept.shape[1]], x[:, self._kept.shape[1] :]
        out = x.new_empty(x.shape[0], len(self._sources) + len(self._targets), x.shape[2])
        out[:, self._targets] = targets
        sources = x.new_empty(x.shape[0], len(self._sources), x.shape[2])
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        sources[rows, self._kept] = kept
        sources[rows, self._merged] = _rows(targets, self._into)
        out[:, self._sources] = sources
        return out


def _rows(x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return x.gather(1, numbers.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class TokenMerging:
    """Patches of self-attention at the latent's own size, where there are most tokens."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._merge: Merge | None = None

    def reduce(
        self, n: torch.Tensor, context: Any, value: Any, extra_options: dict[str, Any]
    ) -> tuple[torch.Tensor, Any, Any]:
        """Merge what queries, keys and values are made of."""
        height, width = extra_options["activations_shape"][-2:]
        self._merge = None
        if list(extra_options["original_shape"][-2:]) != [height, width] or min(height, width) < 2:
            return n, context, value
        targets = targets_of(height, width, choices_of(extra_options, "tokens"))
        self._merge = Merge(n, targets, self._ratio)
        merged = self._merge.merge(n)
        others = [merged if one is n else self._merge.merge(one) for one in (context, value)]
        return merged, others[0], others[1]

    def expand(self, out: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        """Give every token its result."""
        if self._merge is None:
            return out
        merge, self._merge = self._merge, None
        return merge.unmerge(out)


class TomePatchModel(io.ComfyNode):
    """Merges tokens that are alike."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        ratio = io.Float.Input("ratio", default=0.3, min=0.0, max=1.0, step=0.01)
        return patch_schema("TomePatchModel", "model_patches/unet", [ratio])

    @classmethod
    def execute(cls, model: Any, ratio: float) -> Any:
        """Patch a clone; see `Merge`."""
        merging = TokenMerging(ratio)
        patched = model.clone()
        patched.set_model_attn1_patch(merging.reduce)
        patched.set_model_attn1_output_patch(merging.expand)
        return io.NodeOutput(patched)

    patch = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(TomePatchModel)
