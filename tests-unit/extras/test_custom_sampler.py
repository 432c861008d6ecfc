"""Sampling from parts is the same as sampling in one node, and parts of a run make up the run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.samplers
import nodes
from comfy_extras import nodes_custom_sampler as custom

SEED, STEPS, CFG = 11, 4, 3.0


def _sigmas(loaded: Any, scheduler: str = "normal", denoise: float = 1.0) -> torch.Tensor:
    sigmas: torch.Tensor = custom.BasicScheduler.execute(loaded.model, scheduler, STEPS, denoise)[0]
    return sigmas


def _sampler(name: str = "euler") -> Any:
    return custom.KSamplerSelect.execute(name)[0]


def _guider(loaded: Any, cfg: float = CFG) -> Any:
    return custom.CFGGuider.execute(loaded.model, loaded.positive, loaded.negative, cfg)[0]


def _run(guider: Any, sigmas: torch.Tensor, latent: Any, **changed: Any) -> Any:
    noise = custom.Noise_RandomNoise(SEED)
    parts = {"noise": noise, "guider": guider, "sampler": _sampler(), "sigmas": sigmas}
    return custom.SamplerCustomAdvanced.execute(**{**parts, "latent_image": latent, **changed})


def _ksampler(loaded: Any, latent: Any, name: str = "euler", **changed: Any) -> torch.Tensor:
    run = {"steps": STEPS, "cfg": CFG, "scheduler": "normal", "denoise": 1.0, **changed}
    prompts = {"positive": loaded.positive, "negative": loaded.negative}
    made = nodes.KSampler().sample(
        loaded.model, SEED, sampler_name=name, latent_image=latent, **{**prompts, **run}
    )
    samples: torch.Tensor = made[0]["samples"]
    return samples


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "euler_ancestral", "dpmpp_sde", "uni_pc"])
def test_parts_are_the_ksampler_bit_for_bit(sd15: Any, latent: Any, name: str) -> None:
    sigmas = _sigmas(sd15)
    if name == "uni_pc":
        longer = custom.BasicScheduler.execute(sd15.model, "normal", STEPS + 1, 1.0)[0]
        sigmas = torch.cat([longer[:-2], longer[-1:]])
    made = _run(_guider(sd15), sigmas, latent, sampler=_sampler(name))[0]["samples"]
    assert torch.equal(made, _ksampler(sd15, latent, name))


def test_part_of_a_schedule_is_the_ksampler_with_less_denoising(sd15: Any) -> None:
    given = {"samples": torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(2))}
    made = _run(_guider(sd15), _sigmas(sd15, denoise=0.5), given)[0]["samples"]
    assert torch.equal(made, _ksampler(sd15, given, denoise=0.5))


def test_one_node_with_a_scale_is_the_guider_with_it(sd15: Any, latent: Any) -> None:
    sigmas, prompts = _sigmas(sd15), (sd15.positive, sd15.negative)
    sample = custom.SamplerCustom.execute
    made = sample(sd15.model, True, SEED, CFG, *prompts, _sampler(), sigmas, latent)
    assert torch.equal(made[0]["samples"], _ksampler(sd15, latent))
    noisy = {"samples": custom.Noise_RandomNoise(5).generate_noise(latent)}
    without = sample(sd15.model, False, SEED, CFG, *prompts, _sampler(), sigmas, noisy)
    quiet = custom.DisableNoise.execute()[0]
    parts = _run(_guider(sd15), sigmas, noisy, noise=quiet)
    assert torch.equal(without[0]["samples"], parts[0]["samples"])


def test_basic_guider_has_one_prompt_and_no_scale(sd15: Any, latent: Any) -> None:
    guider = custom.BasicGuider.execute(sd15.model, sd15.positive)[0]
    made = _run(guider, _sigmas(sd15), latent)[0]["samples"]
    assert torch.equal(made, _ksampler(sd15, latent, cfg=1.0))
    assert not torch.equal(made, _ksampler(sd15, latent, cfg=2.0))


@pytest.mark.parametrize("step", [0, 1, 3, 4])
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_two_runs_of_a_cut_schedule_are_one_run(
    sd15: Any, latent: Any, name: str, step: int
) -> None:
    sigmas, guider = _sigmas(sd15), _guider(sd15)
    high, low = custom.SplitSigmas.execute(sigmas, step).result
    half = _run(guider, high, latent, sampler=_sampler(name))[0] if step else latent
    noise = {} if step == 0 else {"noise": custom.Noise_EmptyNoise()}
    made = _run(guider, low, half, sampler=_sampler(name), **noise)[0]["samples"]
    whole = _ksampler(sd15, latent, name)
    torch.testing.assert_close(made, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))


def test_second_output_is_the_last_estimate_of_the_clean_latent(sd15: Any, latent: Any) -> None:
    sigmas = _sigmas(sd15)
    early, clean = _run(_guider(sd15), sigmas[:3], latent).result
    assert not torch.equal(early["samples"], clean["samples"])
    # One Euler step: x' = D + (x - D) s'/s, so x and x' give D.
    x0, x1 = (_run(_guider(sd15), sigmas[: 1 + n], latent)[0]["samples"] for n in (1, 2))
    ratio = sigmas[2] / sigmas[1]
    wanted = (x1 - x0 * ratio) / (1 - ratio)
    torch.testing.assert_close(clean["samples"], wanted, rtol=1e-3, atol=1e-2)
    last, estimate = _run(_guider(sd15), sigmas, latent).result
    torch.testing.assert_close(last["samples"], estimate["samples"])


def test_run_without_steps_returns_the_latent_twice(sd15: Any) -> None:
    given = {"samples": torch.ones(1, 4, 8, 8), "unknown": "kept"}
    nothing = _sigmas(sd15, denoise=0.0)
    assert nothing.numel() == 0
    made, clean = _run(_guider(sd15), nothing, given).result
    assert torch.equal(made["samples"], given["samples"])
    assert clean["samples"] is made["samples"]
    assert made["unknown"] == "kept"


def test_masked_part_is_kept(sd15: Any) -> None:
    given = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    made = _run(_guider(sd15), _sigmas(sd15), {"samples": given, "noise_mask": mask})[0]
    torch.testing.assert_close(made["samples"][..., 4:], given[..., 4:], rtol=1e-4, atol=1e-4)
    assert (made["samples"][..., :4] - given[..., :4]).abs().mean() > 0.1
    assert made["noise_mask"] is mask


def test_noise_is_that_of_the_seed_and_of_the_rows_of_a_batch() -> None:
    latent = {"samples": torch.zeros(3, 4, 8, 8)}
    noise = custom.RandomNoise.execute(SEED)[0]
    assert noise.seed == SEED
    drawn = noise.generate_noise(latent)
    generator = torch.Generator().manual_seed(SEED)
    assert torch.equal(drawn, torch.randn((3, 4, 8, 8), generator=generator))
    row = noise.generate_noise({"samples": torch.zeros(1, 4, 8, 8), "batch_index": [2]})
    assert torch.equal(row, drawn[2:])
    none = custom.DisableNoise.execute()[0]
    assert not none.generate_noise(latent).any()
    assert none.seed == 0


def test_dual_guider_weighs_three_prompts(sd15: Any, latent: Any) -> None:
    third = sd15.encode("a blue square")
    sigmas = _sigmas(sd15)[:2]

    def estimate(prompt: Any) -> torch.Tensor:
        guider = custom.BasicGuider.execute(sd15.model, prompt)[0]
        clean: torch.Tensor = _run(guider, sigmas, latent)[1]["samples"]
        return clean

    d1, d2, dn = (estimate(prompt) for prompt in (sd15.positive, third, sd15.negative))

    def dual(cfg1: float, cfg2: float, style: str) -> torch.Tensor:
        prompts = (sd15.positive, third, sd15.negative)
        guider = custom.DualCFGGuider.execute(sd15.model, *prompts, cfg1, cfg2, style)[0]
        clean: torch.Tensor = _run(guider, sigmas, latent)[1]["samples"]
        return clean

    close = {"rtol": 1e-3, "atol": 1e-3 * float(d1.abs().max())}
    wanted = dn + 2.0 * (d2 - dn) + 5.0 * (d1 - d2)
    torch.testing.assert_close(dual(5.0, 2.0, "regular"), wanted, **close)
    wanted = dn + 2.0 * (d2 + 5.0 * (d1 - d2) - dn)
    torch.testing.assert_close(dual(5.0, 2.0, "nested"), wanted, **close)
    for style in ("regular", "nested"):
        torch.testing.assert_close(dual(5.0, 1.0, style), d2 + 5.0 * (d1 - d2), **close)
        torch.testing.assert_close(dual(1.0, 1.0, style), d1, **close)


def test_added_noise_has_the_level_of_the_schedule(sd15: Any) -> None:
    given = {"samples": torch.full((1, 4, 8, 8), 0.5), "unknown": "kept"}
    noise, sigmas = custom.Noise_RandomNoise(SEED), torch.tensor([3.0, 1.0])
    made = custom.AddNoise.execute(sd15.model, noise, sigmas, given)[0]
    scale = sd15.model.model.latent_format.scale_factor
    wanted = 0.5 + 2.0 * noise.generate_noise(given) / scale
    torch.testing.assert_close(made["samples"], wanted)
    assert made["unknown"] == "kept"
    one = custom.AddNoise.execute(sd15.model, noise, torch.tensor([3.0]), given)[0]["samples"]
    torch.testing.assert_close(one, 0.5 + 3.0 * noise.generate_noise(given) / scale)
    assert custom.AddNoise.execute(sd15.model, noise, torch.empty(0), given)[0] is given


def test_a_guider_that_a_pack_made_is_asked_for_its_estimates(sd15: Any, latent: Any) -> None:
    class Halved(comfy.samplers.CFGGuider):
        def predict_noise(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().predict_noise(*args, **kwargs) * 0.5

    guider = Halved(sd15.model)
    guider.set_conds(sd15.positive, sd15.negative)
    guider.set_cfg(CFG)
    sigmas = _sigmas(sd15)[:2]
    half, whole = (_run(one, sigmas, latent)[1]["samples"] for one in (guider, _guider(sd15)))
    torch.testing.assert_close(half, whole * 0.5)


def test_old_names_of_methods_do_the_same(sd15: Any) -> None:
    assert torch.equal(
        custom.BasicScheduler().get_sigmas(sd15.model, "normal", STEPS, 1.0)[0], _sigmas(sd15)
    )
    assert custom.KSamplerSelect().get_sampler("euler")[0].sampler_function
    assert custom.RandomNoise().get_noise(3)[0].seed == 3
    assert custom.BasicGuider().get_guider(sd15.model, sd15.positive)[0].cfg == 1.0
