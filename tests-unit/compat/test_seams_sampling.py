"""Names of sampling that packs replace, inject or subclass: our own path goes through theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.k_diffusion.sampling
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSampler, SchedulerHandler
from support.closed_form import paint_model, prompt

LATENT = torch.zeros(1, 4, 8, 8)
DONE = 1.5 / 0.18215


def sample(model: Any, sampler: str = "euler", scheduler: str = "normal") -> torch.Tensor:
    return comfy.sample.sample(
        *(model, torch.zeros_like(LATENT), 2, 2.0, sampler, scheduler),
        *(prompt(1.0), prompt(0.5), LATENT),
        disable_pbar=True,
        seed=1,
    )


@pytest.mark.parametrize(
    "name",
    ["sampling_function", "calc_cond_batch", "cfg_function", "calculate_sigmas", "sample",
     "sampler_object", "KSampler"],
)  # fmt: skip
def test_replaced_name_is_what_a_run_uses(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    original, calls = getattr(comfy.samplers, name), []

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(comfy.samplers, name, spy)
    assert sample(paint_model()).unique().tolist() == pytest.approx([DONE])
    assert calls


@pytest.mark.parametrize(
    ("owner", "name"), [(KSampler, "sample"), (comfy.samplers.Sampler, "max_denoise")]
)
def test_replaced_method_is_what_a_run_uses(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    original, calls = getattr(owner, name), []

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, spy)
    sample(paint_model())
    assert calls


@pytest.mark.parametrize("name", ["calculate_sigmas", "calc_cond_batch", "sampling_function"])
def test_seam_is_defined_in_its_public_module(name: str) -> None:
    assert getattr(comfy.samplers, name).__module__ == "comfy.samplers"


def test_injected_sampler_works_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample_xyz(model: Any, x: Any, sigmas: Any, extra_args: Any, **_: Any) -> torch.Tensor:
        return model(x, sigmas[:1], **extra_args) + 1.0

    monkeypatch.setattr(comfy.k_diffusion.sampling, "sample_xyz", sample_xyz, raising=False)
    monkeypatch.setattr(comfy.samplers, "SAMPLER_NAMES", comfy.samplers.SAMPLER_NAMES)
    comfy.samplers.SAMPLER_NAMES.append("xyz")
    try:
        assert "xyz" in KSampler.SAMPLERS
        out = sample(paint_model(), "xyz")
    finally:
        comfy.samplers.SAMPLER_NAMES.remove("xyz")
    assert out.unique().tolist() == pytest.approx([2.5 / 0.18215])


@pytest.mark.parametrize("use_ms", [True, False])
def test_added_scheduler_works_by_name(monkeypatch: pytest.MonkeyPatch, use_ms: bool) -> None:
    asked = []

    def schedule(*args: Any, **kwargs: Any) -> torch.Tensor:
        asked.append((len(args), set(kwargs)))
        return torch.tensor([5.0, 2.0, 0.0])

    monkeypatch.setitem(
        comfy.samplers.SCHEDULER_HANDLERS, "mine", SchedulerHandler(schedule, use_ms)
    )
    comfy.samplers.SCHEDULER_NAMES.append("mine")
    try:
        sigmas = KSampler(paint_model(), 2, "cpu", "euler", "mine").sigmas
    finally:
        comfy.samplers.SCHEDULER_NAMES.remove("mine")
    assert sigmas.tolist() == [5.0, 2.0, 0.0]
    assert asked == [(2, set()) if use_ms else (0, {"n", "sigma_min", "sigma_max"})]


@pytest.mark.parametrize(
    ("kind", "calls"),
    [
        (WrappersMP.OUTER_SAMPLE, 1),
        (WrappersMP.PREPARE_SAMPLING, 1),
        (WrappersMP.SAMPLER_SAMPLE, 1),
        (WrappersMP.PREDICT_NOISE, 2),
        (WrappersMP.CALC_COND_BATCH, 2),
        (WrappersMP.APPLY_MODEL, 2),
    ],
)
def test_wrappers_are_called_around_their_part(kind: str, calls: int) -> None:
    seen = []

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(executor.original.__name__)
        return executor(*args, **kwargs)

    model = paint_model().clone()
    model.add_wrapper_with_key(kind, "pack", wrapper)
    assert sample(model).unique().tolist() == pytest.approx([DONE])
    assert len(seen) == calls


def test_guider_with_its_own_prediction_is_used() -> None:
    class Guider(comfy.samplers.CFGGuider):
        def predict_noise(
            self,
            x: torch.Tensor,
            timestep: torch.Tensor,
            model_options: Any = None,
            seed: Any = None,
        ) -> torch.Tensor:
            both = comfy.samplers.calc_cond_batch(
                self.inner_model,
                [self.conds.get("positive"), self.conds.get("middle")],
                x,
                timestep,
                model_options,
            )
            return both[0] + both[1]

    model = paint_model()
    guider = Guider(model)
    guider.inner_set_conds({"positive": prompt(1.0), "middle": prompt(4.0)})
    sigmas = torch.tensor([5.0, 0.0])
    out = guider.sample(
        *(torch.zeros_like(LATENT), LATENT, comfy.samplers.sampler_object("euler"), sigmas),
        disable_pbar=True,
        seed=1,
    )
    assert out.unique().tolist() == pytest.approx([5.0 / 0.18215])


def test_options_of_the_model_are_left_as_they_were() -> None:
    model = paint_model().clone()
    before = comfy.patcher_extension.copy_nested_dicts(model.model_options)
    sample(model, "euler_cfg_pp")
    assert model.model_options == before


def test_network_knows_the_whole_schedule() -> None:
    model = paint_model()
    sample(model)
    sigmas = KSampler(model, 2, "cpu", "euler", "normal").sigmas
    for call in model.model.diffusion_model.calls:
        assert torch.equal(call["transformer_options"]["sample_sigmas"], sigmas)
