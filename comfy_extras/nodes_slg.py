"""Guidance by skipped layers; see `comfy_extras.guidance.skip_layers`."""

from __future__ import annotations

from comfy_extras.extension import Extension
from comfy_extras.guidance.skip_layers import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple)
