"""Guidance whose negative score keeps only the direction that both scores share."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import patch_schema, projected


def damped(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Project a score on the first right singular vector of both, row by row.

    The vector is a combination of both scores, whose weights are the first eigenvector of their
    Gram matrix; so no decomposition of anything larger than 2 x 2 is needed.

    Args:
        positive: [B, ...].
        negative: Of the same shape.

    Source: Kwon et al. 2025, "TCFG: Tangential Damping Classifier-free Guidance", section 4.
    """
    scores = torch.stack([positive.flatten(1), negative.flatten(1)], dim=1).double()
    gram = scores @ scores.mT
    weights = torch.linalg.eigh(gram).eigenvectors[..., -1:]
    axis = (weights * scores).sum(1)
    return projected(scores[:, 1], axis).reshape(negative.shape).to(negative.dtype)


class TCFG(io.ComfyNode):
    """Tangential damping of the negative prediction."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return patch_schema(
            "TCFG", "advanced/guidance", [], "Tangential Damping CFG", output="patched_model"
        )

    @classmethod
    def execute(cls, model: Any) -> Any:
        """Patch a clone; scores are x - D."""

        def damp(args: dict[str, Any]) -> list[torch.Tensor]:
            x, (positive, negative, *others) = args["input"], args["conds_out"]
            if args["conds"][1] is None:
                return [positive, negative, *others]
            return [positive, x - damped(x - positive, x - negative), *others]

        patched = model.clone()
        patched.set_model_sampler_pre_cfg_function(damp)
        return io.NodeOutput(patched)

    patch = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(TCFG)
