"""A sampler function with a model in its hands: noise, masks and callbacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.samplers
from comfy.sampler_objects import KSAMPLER, KSamplerX0Inpaint, Sampler, sampler_name
from support.closed_form import echo_model, paint_model

SIGMAS = torch.tensor([4.0, 2.0, 0.0])
SHAPE = (1, 4, 6, 6)
LEFT = torch.zeros(SHAPE)
LEFT[..., :3] = 1.0


class Guider:
    """D = x / 2, of a real model."""

    def __init__(self) -> None:
        self.inner_model = echo_model().model
        self.seen: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self.seen.append(x)
        return x / 2


def denoiser(noise: torch.Tensor, latent: torch.Tensor) -> KSamplerX0Inpaint:
    model = KSamplerX0Inpaint(Guider(), SIGMAS)
    model.noise, model.latent_image = noise, latent
    return model


def test_without_a_mask_the_guider_is_all() -> None:
    model = denoiser(torch.ones(SHAPE), torch.ones(SHAPE))
    x = torch.full(SHAPE, 6.0)
    assert torch.equal(model(x, SIGMAS[:1], None), x / 2)
    assert model.inner_model.seen[0] is x


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_kept_part_is_noised_before_and_put_back_after(strength: float) -> None:
    noise, latent = torch.full(SHAPE, 2.0), torch.full(SHAPE, 10.0)
    mask = LEFT * strength
    model, x = denoiser(noise, latent), torch.full(SHAPE, 6.0)
    out = model(x, SIGMAS[:1], mask)
    entered = x * mask + (latent + 4.0 * noise) * (1 - mask)
    torch.testing.assert_close(model.inner_model.seen[0], entered)
    torch.testing.assert_close(out, entered / 2 * mask + latent * (1 - mask))
    assert (out[..., 3:] == 10.0).all()


def test_mask_function_may_change_the_mask_with_the_noise() -> None:
    seen = {}

    def function(sigma: Any, mask: torch.Tensor, extra_options: Any) -> torch.Tensor:
        seen.update(sigma=sigma, mask=mask, extra=extra_options)
        return torch.ones_like(mask)

    model, x = denoiser(torch.ones(SHAPE), torch.full(SHAPE, 10.0)), torch.full(SHAPE, 6.0)
    out = model(x, SIGMAS[:1], LEFT, model_options={"denoise_mask_function": function})
    assert torch.equal(out, x / 2)
    assert seen["mask"] is LEFT
    assert set(seen["extra"]) == {"model", "sigmas"}
    assert seen["extra"]["model"] is model.inner_model
    assert seen["extra"]["sigmas"] is SIGMAS


def spy() -> tuple[Any, dict[str, Any]]:
    """A sampler function that notes what it gets and makes two steps known."""
    seen: dict[str, Any] = {}

    def sample_spy(model: Any, x: Any, sigmas: Any, **kwargs: Any) -> torch.Tensor:
        seen.update(model=model, x=x, sigmas=sigmas, **kwargs)
        if kwargs["callback"] is not None:
            for i in range(len(sigmas) - 1):
                kwargs["callback"]({"i": i, "denoised": x + 1, "x": x, "sigma": sigmas[i]})
        return x

    return sample_spy, seen


def run(sampler: KSAMPLER, noise: torch.Tensor, latent: torch.Tensor, **kwargs: Any) -> Any:
    guider = Guider()
    arguments = {"sigmas": SIGMAS, "extra_args": {"seed": 5}, "callback": None, **kwargs}
    return sampler.sample(guider, noise=noise, latent_image=latent, **arguments)


def test_run_starts_from_noised_latent_and_hands_on_options() -> None:
    function, seen = spy()
    noise, latent = torch.full(SHAPE, 2.0), torch.full(SHAPE, 10.0)
    out = run(KSAMPLER(function, {"eta": 0.3}), noise, latent, denoise_mask=LEFT)
    torch.testing.assert_close(out, latent + 4.0 * noise)
    assert seen["eta"] == 0.3
    assert seen["extra_args"] == {"seed": 5, "denoise_mask": LEFT}
    assert seen["callback"] is None
    assert seen["model"].noise is noise
    assert seen["model"].latent_image is latent


def test_highest_noise_level_leaves_nothing_of_the_scale() -> None:
    function, _ = spy()
    top = Guider().inner_model.model_sampling.sigma_max
    sigmas = torch.stack([top, torch.tensor(0.0)])
    out = run(KSAMPLER(function), torch.ones(SHAPE), torch.zeros(SHAPE), sigmas=sigmas)
    torch.testing.assert_close(out, torch.ones(SHAPE) * (1 + top**2) ** 0.5)


@pytest.mark.parametrize(
    ("factor", "is_max"), [(1.0, True), (1.0 - 1e-6, True), (1.1, True), (1.0 - 1e-4, False)]
)
def test_full_denoise_begins_at_sigma_max(factor: float, is_max: bool) -> None:
    guider = Guider()
    first = float(guider.inner_model.model_sampling.sigma_max) * factor
    assert Sampler().max_denoise(guider, torch.tensor([first, 0.0])) is is_max


def test_callback_is_told_step_denoised_state_and_number() -> None:
    function, _ = spy()
    told: list[Any] = []
    run(
        KSAMPLER(function),
        torch.ones(SHAPE),
        torch.zeros(SHAPE),
        callback=lambda *state: told.append(state),
    )
    assert [(step, total) for step, _, _, total in told] == [(0, 2), (1, 2)]
    assert torch.equal(told[0][1], told[0][2] + 1)


@pytest.mark.parametrize("seed", [5, 2**64 - 1, None])
def test_random_inpainting_noise_is_that_of_the_next_seed(seed: int | None) -> None:
    function, seen = spy()
    sampler = KSAMPLER(function, inpaint_options={"random": True})
    extra_args = {} if seed is None else {"seed": seed}
    run(sampler, torch.ones(SHAPE), torch.zeros(SHAPE), extra_args=extra_args)
    following = ((41 if seed is None else seed) + 1) % 2**64
    generator = torch.Generator().manual_seed(following)
    assert torch.equal(seen["model"].noise, torch.randn(SHAPE, generator=generator))


def test_samplers_are_told_by_name() -> None:
    assert sampler_name(comfy.samplers.ksampler("dpmpp_2m")) == "dpmpp_2m"
    assert sampler_name(Sampler()) == "Sampler"


def test_sampler_without_a_method_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Sampler has no method sample"):
        Sampler().sample(None, SIGMAS, {}, None, torch.zeros(SHAPE))


def test_paint_model_answers_its_prompt() -> None:
    patcher = paint_model()
    out = patcher.model.apply_model(
        torch.zeros(1, 4, 2, 2), SIGMAS[:1], c_crossattn=torch.full((1, 3, 2), 7.0)
    )
    assert out.unique().tolist() == [7.0]
