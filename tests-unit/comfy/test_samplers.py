"""From noise and prompts to a latent, with models whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.sample
import comfy.samplers
from comfy.model_management import InterruptProcessingException
from comfy.samplers import KSampler
from support.closed_form import CPU, STD, gaussian_model, paint_model, prompt

LATENT = torch.zeros(2, 4, 8, 8)
DETERMINISTIC = ["euler", "heun", "dpm_2", "ddim", "euler_cfg_pp"]


def sample(model: Any, sampler: str = "euler", latent: torch.Tensor = LATENT, **keys: Any) -> Any:
    """Sample with noise of seed 1 and unlike prompts, where the test does not say otherwise."""
    seed = keys.pop("seed", 1)
    noise = keys.pop("noise", None)
    arguments = {
        "steps": 6,
        "cfg": 2.0,
        "scheduler": "normal",
        "positive": prompt(1.0),
        "negative": prompt(0.5),
        "disable_pbar": True,
        **keys,
    }
    if noise is None:
        noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(
        model, noise, sampler_name=sampler, latent_image=latent, seed=seed, **arguments
    )


def scaled(model: Any, latent: torch.Tensor) -> torch.Tensor:
    return model.model.process_latent_in(latent)


@pytest.mark.parametrize("name", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler_arrives_at_what_the_prompts_ask_for(name: str) -> None:
    model = paint_model()
    out = sample(model, name, cfg=1.0)
    torch.testing.assert_close(scaled(model, out), torch.ones_like(out), atol=1e-4, rtol=0)


def test_result_is_scaled_as_nodes_hand_it_on() -> None:
    out = sample(paint_model())
    torch.testing.assert_close(out, torch.full_like(out, 1.5 / 0.18215))
    assert (out.dtype, out.device) == (torch.float32, CPU)


def test_ideal_denoiser_gives_the_closed_form() -> None:
    model = gaussian_model()
    out = scaled(model, sample(model, "heun", steps=60, scheduler="karras", cfg=1.0))
    highest = model.model.model_sampling.sigma_max
    start = comfy.sample.prepare_noise(LATENT, 1) * (1 + highest**2) ** 0.5
    wanted = 1.0 + (start - 1.0) * STD / (STD**2 + highest**2) ** 0.5
    torch.testing.assert_close(out, wanted, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "dpmpp_2m_sde", "ddpm", "lcm"])
def test_same_seed_same_latent_and_another_seed_another(name: str) -> None:
    model = gaussian_model()
    first = sample(model, name)
    assert torch.equal(first, sample(model, name))
    assert torch.equal(first, sample(gaussian_model(), name))
    assert not torch.equal(first, sample(model, name, seed=2))


def test_seeds_have_64_bits() -> None:
    model = gaussian_model()
    high = sample(model, "euler_ancestral", seed=2**64 - 1)
    assert torch.equal(high, sample(model, "euler_ancestral", seed=2**64 - 1))
    assert not torch.equal(high, sample(model, "euler_ancestral", seed=2**64 - 2))


def test_picture_does_not_depend_on_its_batch() -> None:
    model = gaussian_model()
    noise = comfy.sample.prepare_noise(LATENT, 1)
    both = sample(model, noise=noise)
    single = sample(model, latent=LATENT[1:], noise=noise[1:])
    assert torch.equal(both[1:], single)


def test_rows_taken_out_of_a_batch_are_the_same_again() -> None:
    model = gaussian_model()
    batch = torch.zeros(5, 4, 8, 8)
    whole = sample(model, latent=batch, noise=comfy.sample.prepare_noise(batch, 1, [*range(5)]))
    one = sample(model, latent=batch[:1], noise=comfy.sample.prepare_noise(batch[:1], 1, [3]))
    assert torch.equal(whole[3:4], one)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("split", [1, 3, 5])
def test_run_in_two_parts_is_the_run(name: str, split: int) -> None:
    model = gaussian_model()
    whole = sample(model, name)
    first = sample(model, name, start_step=0, last_step=split)
    rest = sample(
        model, name, first, noise=torch.zeros_like(first), start_step=split, last_step=10000
    )
    torch.testing.assert_close(whole, rest, atol=1e-4, rtol=1e-5)
    assert not torch.allclose(first, whole, atol=1e-4)


def test_forced_end_leaves_no_noise() -> None:
    model = paint_model()
    kept = sample(model, start_step=0, last_step=3)
    done = sample(model, start_step=0, last_step=3, force_full_denoise=True)
    assert kept.std() > 1.0
    torch.testing.assert_close(done, torch.full_like(done, 1.5 / 0.18215))


def test_start_beyond_the_end_returns_the_latent() -> None:
    latent = torch.rand(LATENT.shape)
    assert sample(paint_model(), latent=latent, start_step=6) is latent
    assert sample(paint_model(), latent=latent, start_step=3, last_step=3) is latent


def test_nothing_to_denoise_returns_the_latent() -> None:
    latent = torch.rand(LATENT.shape)
    assert sample(paint_model(), latent=latent, denoise=0.0) is latent


@pytest.mark.parametrize(("denoise", "longer"), [(0.5, 12), (0.3, 20), (0.99995, 6)])
def test_denoise_runs_the_end_of_a_longer_schedule(denoise: float, longer: int) -> None:
    model = gaussian_model()
    part = KSampler(model, 6, CPU, "euler", "karras", denoise).sigmas
    whole = KSampler(model, longer, CPU, "euler", "karras").sigmas
    assert torch.equal(part, whole[-7:])


def test_denoise_so_tiny_that_its_schedule_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="20,000,000,000 steps is asked for"):
        KSampler(paint_model(), 20, CPU, "euler", "simple", 1e-9)


def test_little_denoise_stays_near_the_latent() -> None:
    model = gaussian_model()
    latent = torch.full(LATENT.shape, 5.0)
    noise = comfy.sample.prepare_noise(latent, 1)
    first = KSampler(model, 6, CPU, "euler", "normal", 0.2).sigmas[0]
    out = sample(
        model, latent=latent, denoise=0.2, cfg=1.0, positive=prompt(scaled(model, latent).mean())
    )
    start = scaled(model, latent) + first * noise
    assert (scaled(model, out) - scaled(model, latent)).abs().max() < (
        start - scaled(model, latent)
    ).abs().max()


@pytest.mark.parametrize("name", KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS)
def test_last_but_one_level_is_left_out(name: str) -> None:
    model = gaussian_model()
    sigmas = KSampler(model, 6, CPU, name, "karras").sigmas
    longer = KSampler(model, 7, CPU, "euler", "karras").sigmas
    assert torch.equal(sigmas, torch.cat([longer[:6], longer[7:]]))


def test_unknown_names_fall_back_to_the_first() -> None:
    sampler = KSampler(gaussian_model(), 4, CPU, "no such", None)
    assert (sampler.sampler, sampler.scheduler) == ("euler", "simple")


@pytest.mark.parametrize("name", ["euler", "ddim", "uni_pc", "euler_ancestral"])
@pytest.mark.parametrize("mask_size", [(8, 8), (64, 64), (5, 7)])
def test_what_the_mask_leaves_alone_is_kept(name: str, mask_size: tuple[int, int]) -> None:
    latent = torch.rand(LATENT.shape, generator=torch.Generator().manual_seed(0)) + 3.0
    mask = torch.zeros(1, 1, *mask_size)
    mask[..., mask_size[1] // 2 :] = 1.0
    out = sample(paint_model(), name, latent, noise_mask=mask)
    columns = slice(0, 2)
    torch.testing.assert_close(out[..., columns], latent[..., columns], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(out[..., -2:], torch.full((2, 4, 8, 2), 1.5 / 0.18215))


def test_callback_is_told_each_step() -> None:
    told: list[tuple[int, torch.Tensor, torch.Tensor, int]] = []
    sample(paint_model(), callback=lambda *state: told.append(state))
    assert [(step, total) for step, _, _, total in told] == [(step, 6) for step in range(6)]
    assert told[0][1].unique().tolist() == [1.5]


def test_interruption_ends_the_run_between_steps_and_the_next_run_is_right() -> None:
    model = paint_model()

    def stop(step: int, *_: Any) -> None:
        if step == 2:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(InterruptProcessingException):
        sample(model, callback=stop)
    assert len(model.model.diffusion_model.calls) == 3
    torch.testing.assert_close(sample(model), torch.full_like(LATENT, 1.5 / 0.18215))


def test_nan_of_the_network_is_told_once_and_the_next_run_is_right(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = paint_model()
    broken = model.clone()
    broken.set_model_unet_function_wrapper(
        lambda apply_model, args: (
            apply_model(args["input"], args["timestep"], **args["c"])
            * (float("nan") if args["timestep"][0] < 3.0 else 1.0)
        )
    )
    assert sample(broken, "dpmpp_2m").isnan().all()
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "sampler 'dpmpp_2m'" in warnings[0]
    assert not sample(model, "dpmpp_2m").isnan().any()


def test_names_are_the_live_lists() -> None:
    assert KSampler.SAMPLERS is comfy.samplers.SAMPLER_NAMES
    assert KSampler.SCHEDULERS is comfy.samplers.SCHEDULER_NAMES
    assert list(comfy.samplers.SCHEDULER_HANDLERS) == comfy.samplers.SCHEDULER_NAMES
    assert comfy.samplers.SAMPLER_NAMES[:41] == comfy.samplers.KSAMPLER_NAMES
    assert comfy.samplers.SAMPLER_NAMES[41:] == ["ddim", "uni_pc", "uni_pc_bh2"]


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_grad_mode_does_not_matter(mode: Any) -> None:
    with mode():
        out = sample(gaussian_model(), "dpmpp_2m")
    assert not out.requires_grad
    assert torch.equal(out.clone(), sample(gaussian_model(), "dpmpp_2m"))


def test_custom_sampling_takes_sampler_and_sigmas() -> None:
    model = gaussian_model()
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 6)
    noise = comfy.sample.prepare_noise(LATENT, 1)
    out = comfy.sample.sample_custom(
        *(model, noise, 2.0, comfy.samplers.sampler_object("euler"), sigmas),
        *(prompt(1.0), prompt(0.5), LATENT),
        disable_pbar=True,
        seed=1,
    )
    assert torch.equal(out, sample(model))


@pytest.mark.parametrize("make", [comfy.samplers.sampler_object, comfy.samplers.ksampler])
def test_unknown_sampler_is_refused_by_name(make: Any) -> None:
    with pytest.raises(ValueError, match="no sampler 'nope'; known are euler, "):
        make("nope")


def test_unknown_scheduler_is_refused_by_name() -> None:
    sampling = gaussian_model().get_model_object("model_sampling")
    with pytest.raises(ValueError, match="no scheduler 'nope'"):
        comfy.samplers.calculate_sigmas(sampling, "nope", 5)
