"""Nodes that run: parts put together on one side, a latent on the other."""

from __future__ import annotations

from typing import Any

import torch

import comfy.model_management
import comfy.sample
import comfy.utils
import latent_preview
from comfy_api.latest import io
from comfy_extras.sampling.guider_nodes import cfg_input
from comfy_extras.sampling.noise_nodes import Noise_EmptyNoise, Noise_RandomNoise, seed_input

_CATEGORY = "sampling/custom_sampling"


def _run_inputs() -> list[Any]:
    return [
        io.Sampler.Input("sampler"),
        io.Sigmas.Input("sigmas"),
        io.Latent.Input("latent_image"),
    ]


def _outputs() -> list[Any]:
    return [
        io.Latent.Output(display_name="output"),
        io.Latent.Output(display_name="denoised_output"),
    ]


class _Run:
    """A latent made ready for a model, and what its run leaves behind.

    Attributes:
        latent: A copy with the channels that the model wants.
        callback: What the sampler calls at each step.
        is_quiet: Draw no bar on the terminal.
    """

    def __init__(self, model: Any, latent: dict[str, Any], sigmas: torch.Tensor) -> None:
        samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        self.latent = {**latent, "samples": samples}
        self.is_quiet = not comfy.utils.PROGRESS_BAR_ENABLED
        self._model = model
        self._last: dict[str, torch.Tensor] = {}
        steps = sigmas.shape[-1] - 1
        self.callback = latent_preview.prepare_callback(model, steps, self._last)

    def outputs(self, samples: torch.Tensor) -> Any:
        """The latent that came out, and the last estimate of the clean one: the same, if none."""
        samples = samples.to(comfy.model_management.intermediate_device())
        made = {**self.latent, "samples": samples}
        if "x0" not in self._last:
            return io.NodeOutput(made, made)
        clean = self._model.model.process_latent_out(self._last["x0"].cpu())
        return io.NodeOutput(made, {**made, "samples": clean})


class SamplerCustom(io.ComfyNode):
    """Samples under classifier-free guidance."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="SamplerCustom",
            category=_CATEGORY,
            inputs=[
                io.Model.Input("model"),
                io.Boolean.Input("add_noise", default=True),
                seed_input(),
                cfg_input(),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                *_run_inputs(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        add_noise: bool,
        noise_seed: int,
        cfg: float,
        positive: Any,
        negative: Any,
        sampler: Any,
        sigmas: torch.Tensor,
        latent_image: dict[str, Any],
    ) -> Any:
        """Sample; without `add_noise` the latent has its noise already."""
        run = _Run(model, latent_image, sigmas)
        noise = Noise_RandomNoise(noise_seed) if add_noise else Noise_EmptyNoise()
        samples = comfy.sample.sample_custom(
            model,
            noise.generate_noise(run.latent),
            cfg,
            sampler,
            sigmas,
            positive,
            negative,
            run.latent["samples"],
            noise_mask=run.latent.get("noise_mask"),
            callback=run.callback,
            disable_pbar=run.is_quiet,
            seed=noise_seed,
        )
        return run.outputs(samples)

    sample = execute


class SamplerCustomAdvanced(io.ComfyNode):
    """Samples with a guider."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="SamplerCustomAdvanced",
            category=_CATEGORY,
            inputs=[io.Noise.Input("noise"), io.Guider.Input("guider"), *_run_inputs()],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        noise: Any,
        guider: Any,
        sampler: Any,
        sigmas: torch.Tensor,
        latent_image: dict[str, Any],
    ) -> Any:
        """Sample; see `comfy.sampling_run.SamplingRun.sample`."""
        run = _Run(guider.model_patcher, latent_image, sigmas)
        samples = guider.sample(
            noise.generate_noise(run.latent),
            run.latent["samples"],
            sampler,
            sigmas,
            denoise_mask=run.latent.get("noise_mask"),
            callback=run.callback,
            disable_pbar=run.is_quiet,
            seed=noise.seed,
        )
        return run.outputs(samples)

    sample = execute


NODES = [SamplerCustom, SamplerCustomAdvanced]
