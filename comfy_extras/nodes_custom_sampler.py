"""Sampling put together from parts; the nodes themselves are in `comfy_extras.sampling`."""

from __future__ import annotations

from comfy_extras.extension import Extension
from comfy_extras.sampling import (
    guider_nodes,
    noise_nodes,
    run_nodes,
    sampler_nodes,
    schedule_nodes,
    sigma_nodes,
)
from comfy_extras.sampling.guider_nodes import (
    BasicGuider,
    CFGGuider,
    DualCFGGuider,
    Guider_Basic,
    Guider_DualCFG,
)
from comfy_extras.sampling.noise_nodes import (
    AddNoise,
    DisableNoise,
    Noise_EmptyNoise,
    Noise_RandomNoise,
    RandomNoise,
)
from comfy_extras.sampling.run_nodes import SamplerCustom, SamplerCustomAdvanced
from comfy_extras.sampling.sampler_nodes import (
    KSamplerSelect,
    SamplerDPMAdaptative,
    SamplerDPMPP_2M_SDE,
    SamplerDPMPP_2S_Ancestral,
    SamplerDPMPP_3M_SDE,
    SamplerDPMPP_SDE,
    SamplerER_SDE,
    SamplerEulerAncestral,
    SamplerEulerAncestralCFGPP,
    SamplerLMS,
    SamplerSASolver,
    SamplerSEEDS2,
)
from comfy_extras.sampling.schedule_nodes import (
    BasicScheduler,
    BetaSamplingScheduler,
    ExponentialScheduler,
    KarrasScheduler,
    LaplaceScheduler,
    PolyexponentialScheduler,
    SDTurboScheduler,
    VPScheduler,
)
from comfy_extras.sampling.sigma_nodes import (
    ExtendIntermediateSigmas,
    FlipSigmas,
    ManualSigmas,
    SamplingPercentToSigma,
    SetFirstSigma,
    SplitSigmas,
    SplitSigmasDenoise,
)

# fmt: off
__all__ = [
    "AddNoise", "BasicGuider", "BasicScheduler", "BetaSamplingScheduler", "CFGGuider",
    "DisableNoise", "DualCFGGuider", "ExponentialScheduler", "ExtendIntermediateSigmas",
    "FlipSigmas", "Guider_Basic", "Guider_DualCFG", "KSamplerSelect", "KarrasScheduler",
    "LaplaceScheduler", "ManualSigmas", "Noise_EmptyNoise", "Noise_RandomNoise",
    "PolyexponentialScheduler", "RandomNoise", "SDTurboScheduler", "SamplerCustom",
    "SamplerCustomAdvanced", "SamplerDPMAdaptative", "SamplerDPMPP_2M_SDE",
    "SamplerDPMPP_2S_Ancestral", "SamplerDPMPP_3M_SDE", "SamplerDPMPP_SDE", "SamplerER_SDE",
    "SamplerEulerAncestral", "SamplerEulerAncestralCFGPP", "SamplerLMS", "SamplerSASolver",
    "SamplerSEEDS2", "SamplingPercentToSigma", "SetFirstSigma", "SplitSigmas",
    "SplitSigmasDenoise", "VPScheduler",
]
# fmt: on


async def comfy_entrypoint() -> Extension:
    """The nodes of all rooms, those that run first."""
    rooms = (run_nodes, schedule_nodes, sampler_nodes, sigma_nodes, guider_nodes, noise_nodes)
    return Extension(*(node for room in rooms for node in room.NODES))
