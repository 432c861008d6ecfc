"""Nodes that make NOISE, and one that adds it to a latent."""

from __future__ import annotations

from typing import Any

import torch

import comfy.sample
from comfy_api.latest import io

_CATEGORY = "sampling/custom_sampling/noise"


def seed_input() -> Any:
    """The input for a seed."""
    return io.Int.Input("noise_seed", default=0, min=0, max=2**64 - 1, control_after_generate=True)


class Noise_EmptyNoise:
    """No noise at all.

    Attributes:
        seed: Of the samplers' own noise.
    """

    def __init__(self) -> None:
        self.seed = 0

    def generate_noise(self, input_latent: dict[str, Any]) -> torch.Tensor:
        """Zeros of the latent's shape and dtype, on the CPU."""
        return torch.zeros_like(input_latent["samples"], device="cpu")


class Noise_RandomNoise:
    """Normal noise from a seed.

    Attributes:
        seed: 0 to 2^64 - 1.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, input_latent: dict[str, Any]) -> torch.Tensor:
        """Unit normal noise for a LATENT; see `comfy.sample.prepare_noise`."""
        numbers = input_latent.get("batch_index")
        return comfy.sample.prepare_noise(input_latent["samples"], self.seed, numbers)


class RandomNoise(io.ComfyNode):
    """Noise from a seed."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="RandomNoise",
            category=_CATEGORY,
            inputs=[seed_input()],
            outputs=[io.Noise.Output()],
        )

    @classmethod
    def execute(cls, noise_seed: int) -> Any:
        """See `Noise_RandomNoise`."""
        return io.NodeOutput(Noise_RandomNoise(noise_seed))

    get_noise = execute


class DisableNoise(io.ComfyNode):
    """No noise, for a latent that has its own."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="DisableNoise", category=_CATEGORY, inputs=[], outputs=[io.Noise.Output()]
        )

    @classmethod
    def execute(cls) -> Any:
        """See `Noise_EmptyNoise`."""
        return io.NodeOutput(Noise_EmptyNoise())

    get_noise = execute


class AddNoise(io.ComfyNode):
    """Adds the noise of a schedule's first level to a latent."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="AddNoise",
            category="_for_testing/custom_sampling/noise",
            is_experimental=True,
            inputs=[
                io.Model.Input("model"),
                io.Noise.Input("noise"),
                io.Sigmas.Input("sigmas"),
                io.Latent.Input("latent_image"),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls, model: Any, noise: Any, sigmas: torch.Tensor, latent_image: dict[str, Any]
    ) -> Any:
        """Add noise of the level |first - last|, or of the only one; without any, add none.

        Values that are not finite become 0.
        """
        if len(sigmas) == 0:
            return io.NodeOutput(latent_image)
        level = sigmas[0] if len(sigmas) == 1 else (sigmas[0] - sigmas[-1]).abs()
        samples = latent_image["samples"]
        drawn = noise.generate_noise(latent_image).to(samples.device)
        if torch.count_nonzero(samples) > 0:
            samples = model.get_model_object("process_latent_in")(samples)
        sampling = model.get_model_object("model_sampling")
        noisy = sampling.noise_scaling(level.to(samples.device), drawn, samples)
        noisy = model.get_model_object("process_latent_out")(noisy)
        finite = torch.nan_to_num(noisy, nan=0.0, posinf=0.0, neginf=0.0)
        return io.NodeOutput({**latent_image, "samples": finite})

    add_noise = execute


NODES = [RandomNoise, DisableNoise, AddNoise]
