"""Notices a network that answers with NaN, without making the device wait at each step."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)


class NanWatch:
    """Collects on the device which answers held NaN; the host asks once, at the end."""

    def __init__(self) -> None:
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(self, sigma: torch.Tensor, denoised: torch.Tensor) -> None:
        """Remember whether an answer held NaN, and for which noise level."""
        self._seen.append((sigma.detach().reshape(-1)[:1], denoised.detach().isnan().any()))

    def report(self, sampler_name: str, sigmas: torch.Tensor) -> None:
        """Warn if any answer held NaN.

        Args:
            sampler_name: Named in the warning.
            sigmas: [steps + 1], the schedule, from which the step is found.
        """
        if not self._seen:
            return
        bad = torch.stack([is_bad for _, is_bad in self._seen]).tolist()
        if True not in bad:
            return
        first = bad.index(True)
        sigma = float(self._seen[first][0])
        steps = max(len(sigmas) - 1, 1)
        reached = int((sigmas.float().cpu() >= sigma * (1 - 1e-5)).sum())
        logger.warning(
            "The network returned NaN first at step %d of %d (sigma %.4g) of sampler %r, in %d of "
            "%d calls; the picture will be black or broken. Try --force-fp32 or --bf16-unet, a "
            "lower cfg, or fewer LoRAs.",
            min(max(reached, 1), steps),
            steps,
            sigma,
            sampler_name,
            sum(bad),
            len(bad),
        )
