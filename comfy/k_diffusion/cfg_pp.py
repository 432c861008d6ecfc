"""CFG++: the guided estimate says where to go, the unconditional one what the noise is.

Source: Chung et al. 2024, "CFG++: Manifold-constrained Classifier Free Guidance", algorithm 2.
"""

from __future__ import annotations

from typing import Any

import torch

from comfy.k_diffusion.run import Run
from comfy.model_options import set_model_options_post_cfg_function


class UncondRun(Run):
    """A run that asks the guider, through a post-CFG function, for its unconditional estimate.

    Attributes:
        uncond: the unconditional D of the latest evaluation; D itself where a guider has none.
    """

    uncond: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        caught: list[torch.Tensor] = []
        self._caught = caught

        # A bound method would let the run hold itself, and the model, until garbage is collected.
        def catch(told: dict[str, Any]) -> torch.Tensor:
            uncond, denoised = told["uncond_denoised"], told["denoised"]
            caught[:] = [denoised if uncond is None else uncond]
            return denoised

        options = set_model_options_post_cfg_function(
            dict(self.extra_args.get("model_options", {})), catch, disable_cfg1_optimization=True
        )
        self.extra_args = {**self.extra_args, "model_options": options}

    def denoise(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """D of the state x at this level; keeps the unconditional estimate.

        Raises:
            RuntimeError: the model did not call the post-CFG functions of its model_options.
        """
        self._caught.clear()
        denoised = super().denoise(x, sigma)
        if not self._caught:
            raise RuntimeError(
                "A CFG++ sampler needs the unconditional estimate, but the model called no"
                " function of model_options['sampler_post_cfg_function']. Use a guider that does."
            )
        self.uncond = self._caught[0]
        return denoised

    def with_uncond_noise(
        self, x: torch.Tensor, sigma: float, denoised: torch.Tensor
    ) -> torch.Tensor:
        """The state whose data are D and whose noise is that of the unconditional estimate.

        From here an ordinary step to s' gives alpha' D + s' (x - alpha D_uncond) / s.
        """
        return x + (denoised - self.uncond) * self.path.alpha(sigma)
