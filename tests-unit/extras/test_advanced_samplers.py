"""Consistency steps that enlarge the latent, and a network that torch compiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfy.k_diffusion.sampling import sample_lcm
from comfy_extras import nodes_advanced_samplers, nodes_torch_compile
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_advanced_samplers import sample_lcm_upscale
from support.gaussian_models import GaussianModel

SIGMAS = torch.tensor([10.0, 5.0, 2.0, 1.0, 0.0])


class Model(GaussianModel):
    """Notes the sizes that it sees."""

    def __init__(self) -> None:
        super().__init__(flow=False)
        self.inner_model = self
        self.sides: list[tuple[int, int]] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **extra: Any) -> torch.Tensor:
        self.sides.append((x.shape[-2], x.shape[-1]))
        return super().__call__(x, sigma, **extra)


def _no_noise(x: torch.Tensor) -> Any:
    return lambda sigma, sigma_next: torch.zeros_like(x)


def _start() -> torch.Tensor:
    return torch.randn((2, 4, 8, 12), generator=torch.Generator().manual_seed(0)) * 10


@pytest.mark.parametrize(
    ("ratio", "steps", "sides"),
    [
        (2.0, -1, [(8, 12), (12, 18), (16, 24), (16, 24), (16, 24)]),
        (2.0, 1, [(8, 12), (16, 24), (16, 24), (16, 24), (16, 24)]),
        (1.5, 9, [(8, 12), (9, 14), (10, 15), (11, 16), (12, 18)]),
        (2.0, 0, [(8, 12)] * 5),
        (0.5, 1, [(8, 12), (4, 6), (4, 6), (4, 6), (4, 6)]),
    ],
)
def test_latent_grows_evenly_in_the_first_steps(
    ratio: float, steps: int, sides: list[tuple[int, int]]
) -> None:
    model = Model()
    sampler = nodes_advanced_samplers.SamplerLCMUpscale.execute(ratio, steps, "bicubic")[0]
    made = sampler.sampler_function(
        model, _start(), SIGMAS, extra_args={"seed": 1}, disable=True, **sampler.extra_options
    )
    assert [*model.sides, tuple(made.shape[-2:])] == sides
    assert made.isfinite().all()


def test_without_growth_it_is_the_consistency_sampler() -> None:
    made = sample_lcm_upscale(Model(), _start(), SIGMAS, disable=True, noise_sampler=_no_noise)
    start = _start()
    wanted = sample_lcm(Model(), start, SIGMAS, disable=True, noise_sampler=_no_noise(start))
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)


def test_noise_comes_from_the_seed_and_differs_between_steps() -> None:
    def run(seed: int) -> torch.Tensor:
        return sample_lcm_upscale(
            Model(), _start(), SIGMAS, extra_args={"seed": seed}, disable=True, scale_ratio=1.5
        )

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    seen: list[torch.Tensor] = []
    sample_lcm_upscale(
        Model(),
        torch.zeros(1, 4, 8, 8),
        torch.tensor([1.2, 1.1, 1.0, 0.0]),
        extra_args={"seed": 1},
        callback=lambda told: seen.append(told["x"] - told["x"].mean()),
        disable=True,
    )
    cosine = torch.nn.functional.cosine_similarity(seen[1].flatten(), seen[2].flatten(), dim=0)
    assert abs(float(cosine)) < 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_network_gives_the_same_latent_and_stays_in_its_place(
    sd15: Any, latent: Any
) -> None:
    patched = nodes_torch_compile.TorchCompileModel.execute(sd15.model, "eager")[0]
    sigmas = custom.BasicScheduler.execute(sd15.model, "normal", 2, 1.0)[0]
    sampler, noise = custom.KSamplerSelect.execute("euler")[0], custom.Noise_RandomNoise(1)
    network = sd15.model.model.diffusion_model
    made = []
    for model in (sd15.model, patched):
        guider = custom.BasicGuider.execute(model, sd15.positive)[0]
        run = custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent)
        made.append(run[0]["samples"])
    torch.testing.assert_close(made[0], made[1], rtol=1e-3, atol=1e-2)
    assert sd15.model.model.diffusion_model is network
    assert sd15.model.wrappers == {}
