"""What all samplers share: their names, their end, their callback, their seeds, their seams."""

from __future__ import annotations

import gc
import inspect
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comfy.extra_samplers import uni_pc
from comfy.k_diffusion import sampling
from comfy.k_diffusion.noise_path import find_model_sampling
from support.gaussian_models import FlowSampling, GaussianModel

DATA = Path(__file__).parent.parent.parent / "data" / "reference_schedules.json"
NAMES: list[str] = json.loads(DATA.read_text(encoding="utf-8"))["samplers_ui_order"]
ELSEWHERE = {
    "ddim": sampling.sample_euler,
    "uni_pc": uni_pc.sample_unipc,
    "uni_pc_bh2": uni_pc.sample_unipc_bh2,
}
NOISY = [
    name
    for name in NAMES
    if any(part in name for part in ("ancestral", "sde", "seeds", "sa_solver", "ddpm", "lcm"))
]
LEVELS = {False: [14.6, 5.0, 2.0, 1.0, 0.4, 0.0], True: [1.0, 0.9, 0.7, 0.4, 0.2, 0.0]}


def sampler(name: str) -> Callable[..., torch.Tensor]:
    return ELSEWHERE.get(name) or getattr(sampling, f"sample_{name}")


def start(flow: bool, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    noise = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    return (noise * LEVELS[flow][0]).to(dtype)


def run(name: str, flow: bool, model: Any = None, **options: Any) -> torch.Tensor:
    sigmas = torch.tensor(LEVELS[flow])
    model = model or GaussianModel(flow)
    return sampler(name)(model, start(flow), sigmas, **{"disable": True, **options})


def test_every_name_is_there() -> None:
    assert len(NAMES) == 44
    for name in NAMES:
        names = list(inspect.signature(sampler(name)).parameters)
        assert names[:6] == ["model", "x", "sigmas", "extra_args", "callback", "disable"], name


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize("name", NAMES)
def test_the_end_is_the_last_denoised_estimate(name: str, flow: bool) -> None:
    model = GaussianModel(flow)
    result = run(name, flow, model, extra_args={"seed": 3})
    assert torch.equal(result, model.last)
    assert result.dtype == torch.float32
    assert min(model.seen) > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_callback_sees_each_step(name: str) -> None:
    told: list[dict[str, Any]] = []
    run(name, False, callback=told.append, extra_args={"seed": 3})
    steps = [entry["i"] for entry in told]
    assert steps == sorted(steps)
    assert 0 <= steps[0] <= steps[-1] < len(LEVELS[False]) - 1
    if name not in ("dpm_fast", "dpm_adaptive"):
        assert steps == list(range(5))
        assert [entry["sigma"].item() for entry in told] == pytest.approx(LEVELS[False][:-1])
    for entry in told:
        assert set(entry) == {"x", "i", "sigma", "sigma_hat", "denoised"}
        assert entry["denoised"].shape == entry["x"].shape == (2, 4, 3, 3)


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize("name", NOISY)
def test_the_seed_decides_the_noise(name: str, flow: bool) -> None:
    first, again, other = (run(name, flow, extra_args={"seed": seed}) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    if "cfg_pp" not in name or "ancestral" in name:
        assert not torch.equal(first, other)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_gpu")])
def test_gpu_variants_differ_only_in_where_noise_is_drawn(name: str) -> None:
    plain = run(name.removesuffix("_gpu"), False, extra_args={"seed": 3})
    assert torch.equal(run(name, False, extra_args={"seed": 3}), plain)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("levels", [[], [2.0], [2.0, 0.0]])
def test_short_runs(name: str, levels: list[float]) -> None:
    model = GaussianModel(False)
    result = sampler(name)(model, start(False), torch.tensor(levels), disable=True)
    assert torch.equal(result, model.last if len(levels) == 2 else start(False))


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("lcm", "dpm_fast")])
def test_levels_that_are_repeated_change_nothing(name: str, flow: bool) -> None:
    first, second, *rest = LEVELS[flow]
    levels = torch.tensor([first, first, second, second, *rest, 0.0])
    told: list[int] = []
    found = sampler(name)(
        *(
            GaussianModel(flow),
            start(flow),
            levels,
            {"seed": 3},
            lambda entry: told.append(entry["i"]),
        ),
        disable=True,
    )
    assert torch.equal(found, run(name, flow, extra_args={"seed": 3}))
    assert 0 <= told[0] <= told[-1] == len(levels) - 2 or name == "dpm_adaptive"


def test_lcm_draws_anew_where_a_level_is_repeated() -> None:
    model = GaussianModel(False)
    sampling.sample_lcm(model, start(False), torch.tensor([5.0, 2.0, 2.0, 0.0, 0.0]), disable=True)
    assert model.seen == [5.0, 2.0, 2.0]


@pytest.mark.parametrize("name", ["euler_ancestral", "dpm_2_ancestral", "res_multistep_ancestral"])
def test_samplers_that_add_noise_say_that_they_only_go_down(name: str) -> None:
    with pytest.raises(ValueError, match=r"rise from 0.5 to 2: take one without noise"):
        sampler(name)(GaussianModel(False), start(False), torch.tensor([0.5, 2.0]), disable=True)


@pytest.mark.parametrize("name", NAMES)
def test_no_sampler_keeps_its_model(name: str) -> None:
    model = GaussianModel(False)
    reference = weakref.ref(model)
    gc.disable()
    try:
        run(name, False, model, extra_args={"seed": 3})
        del model
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["euler", "dpm_adaptive"])
def test_the_progress_bar_can_be_turned_off(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(name, False, disable=True)
    assert capsys.readouterr().err == ""
    run(name, False, disable=False)
    assert capsys.readouterr().err != ""


def test_a_replaced_default_noise_sampler_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    def silent(x: torch.Tensor, seed: int | None = None) -> Any:
        asked.append(seed)
        return lambda sigma, sigma_next: torch.zeros_like(x)

    monkeypatch.setattr(sampling, "default_noise_sampler", silent)
    first, second = (run("euler_ancestral", False, extra_args={"seed": s}) for s in (8, 9))
    assert asked == [8, 9]
    assert torch.equal(first, second)


def test_default_noise_on_the_cpu_is_not_the_start_noise() -> None:
    x = torch.zeros(2, 3)
    drawn = sampling.default_noise_sampler(x, seed=5)(1.0, 0.5)
    at = [torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)]
    assert torch.equal(drawn, at[1])
    assert not torch.equal(drawn, at[0])
    assert sampling.default_noise_sampler(x, seed=2**64 - 1)(1.0, 0.5).shape == (2, 3)


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_cfg_pp")])
def test_cfg_pp_without_guidance_is_the_plain_sampler(name: str, flow: bool) -> None:
    plain = run(name.removesuffix("_cfg_pp"), flow, extra_args={"seed": 3})
    assert torch.allclose(run(name, flow, extra_args={"seed": 3}), plain, atol=1e-5)
    guided = run(name, flow, GaussianModel(flow, uncond_shift=0.5), extra_args={"seed": 3})
    assert not torch.allclose(guided, plain, atol=1e-2)


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_cfg_pp")])
def test_cfg_pp_goes_to_the_guided_data_with_unconditional_noise(name: str, flow: bool) -> None:
    sigma, end = 0.8, 0.4
    model = GaussianModel(flow, uncond_shift=0.5)
    options = {"eta": 0.0} if "ancestral" in name else {}
    x = start(False, torch.float64)
    levels = torch.tensor([sigma, end], dtype=torch.float64)
    found = sampler(name)(model, x, levels, disable=True, **options)
    if "2s" not in name:
        denoised, alpha = model.last, model.alpha(sigma)
        noise = (x - alpha * (denoised + 0.5)) / sigma
        assert torch.allclose(found, model.alpha(end) * denoised + end * noise)
    else:
        assert torch.isfinite(found).all()


def test_cfg_pp_leaves_the_callers_options_alone() -> None:
    options: dict[str, Any] = {"sampler_post_cfg_function": [lambda args: args["denoised"]]}
    extra = {"model_options": options, "seed": 1}
    run("euler_cfg_pp", False, extra_args=extra)
    assert extra["model_options"] is options
    assert len(options["sampler_post_cfg_function"]) == len(options) == 1


def test_cfg_pp_says_what_it_misses() -> None:
    with pytest.raises(RuntimeError, match="sampler_post_cfg_function"):
        run("euler_cfg_pp", False, lambda x, sigma, **extra: x)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deis", {"deis_mode": "x"}),
        ("dpmpp_2m_sde", {"solver_type": "x"}),
        ("seeds_2", {"solver_type": "x"}),
        ("dpm_adaptive", {"order": 4}),
        ("uni_pc", {"variant": "x"}),
    ],
)
def test_unknown_choices_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not ('x'|4)"):
        run(name, False, **options)


def test_unipc_evaluates_once_a_step() -> None:
    model = GaussianModel(False)
    run("uni_pc", False, model)
    assert model.seen == pytest.approx(LEVELS[False][:-1])


def test_sa_solver_is_noisy_only_inside_its_interval() -> None:
    asked: list[float] = []

    def noise(sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
        asked.append(float(sigma_next))
        return torch.zeros(2, 4, 3, 3)

    run("sa_solver", True, noise_sampler=noise)
    assert asked == pytest.approx([0.7, 0.4, 0.2])


def test_the_sampling_object_is_found_through_guider_and_patcher() -> None:
    inner, patched = FlowSampling(), FlowSampling()
    base = SimpleNamespace(model_sampling=inner)
    guider = SimpleNamespace(inner_model=base)
    assert find_model_sampling(SimpleNamespace(inner_model=guider)) is inner
    guider.model_patcher = SimpleNamespace(get_model_object={"model_sampling": patched}.get)
    assert find_model_sampling(SimpleNamespace(inner_model=guider)) is patched
    assert find_model_sampling(lambda x, sigma: x) is None


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 5.0])
def test_ancestral_steps_keep_the_level(eta: float) -> None:
    sigma, sigma_next = torch.tensor(4.0), torch.tensor(1.5)
    down, up = sampling.get_ancestral_step(sigma, sigma_next, eta)
    assert float(down**2 + up**2) == pytest.approx(1.5**2, rel=1e-6)
    assert float(up) == pytest.approx(min(1.5, eta * 1.5 * (1 - 1.5**2 / 16) ** 0.5), rel=1e-6)


def test_half_log_snr_and_sigma_are_inverse() -> None:
    sigmas = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64)
    for kind, alpha in ((None, 1.0), (FlowSampling(), 1 - sigmas)):
        found = sampling.sigma_to_half_log_snr(sigmas, kind)
        assert torch.allclose(found, (alpha / sigmas).log())
        assert torch.allclose(sampling.half_log_snr_to_sigma(found, kind), sigmas)


def test_only_a_flow_that_starts_at_pure_noise_is_offset() -> None:
    levels, model = torch.tensor([1.0, 0.5, 0.0]), FlowSampling()
    assert sampling.offset_first_sigma_for_snr(levels, model).tolist() == pytest.approx(
        [0.9999, 0.5, 0.0]
    )
    assert levels[0] == 1
    assert sampling.offset_first_sigma_for_snr(levels, None) is levels
    assert sampling.offset_first_sigma_for_snr(levels[1:], model)[0] == 0.5


def test_slopes_take_a_level_for_each_sample() -> None:
    x, denoised = torch.full((2, 1, 1), 3.0), torch.ones(2, 1, 1)
    assert sampling.to_d(x, torch.tensor([1.0, 4.0]), denoised).flatten().tolist() == [2.0, 0.5]
    assert sampling.to_d(x, 4.0, denoised).flatten().tolist() == [0.5, 0.5]


def test_levels_reach_the_model_exactly() -> None:
    model, sigmas = GaussianModel(False), torch.tensor([14.614642, 3.1686046, 0.0291675, 0.0])
    sampling.sample_euler(model, start(False), sigmas, disable=True)
    assert model.seen == sigmas[:-1].tolist()
