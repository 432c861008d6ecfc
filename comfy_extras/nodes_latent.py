"""Latents: calculated with, cut, joined, numbered, and passed through operations."""

from __future__ import annotations

from comfy_extras.extension import Extension
from comfy_extras.latents.arithmetic_nodes import (
    LatentAdd,
    LatentConcat,
    LatentCut,
    LatentCutToBatch,
    LatentInterpolate,
    LatentMultiply,
    LatentSubtract,
)
from comfy_extras.latents.batch_nodes import (
    LatentBatch,
    LatentBatchSeedBehavior,
    ReplaceVideoLatentFrames,
)
from comfy_extras.latents.operation_nodes import (
    LatentApplyOperation,
    LatentApplyOperationCFG,
    LatentOperationSharpen,
    LatentOperationTonemapReinhard,
)
from comfy_extras.latents.operations import reshape_latent_to as reshape_latent_to


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(
        LatentAdd,
        LatentSubtract,
        LatentMultiply,
        LatentInterpolate,
        LatentConcat,
        LatentCut,
        LatentCutToBatch,
        LatentBatch,
        LatentBatchSeedBehavior,
        LatentApplyOperation,
        LatentApplyOperationCFG,
        LatentOperationTonemapReinhard,
        LatentOperationSharpen,
        ReplaceVideoLatentFrames,
    )
