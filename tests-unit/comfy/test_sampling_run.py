"""Hooks that prompts carry: weights and options for these prompts alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.sample
from comfy.controls import ControlBase
from comfy.hooks import HookGroup, TransformerOptionsHook, WeightHook
from support.closed_form import paint_model, prompt

LATENT = torch.zeros(1, 4, 8, 8)


def sample(model: Any, **keys: Any) -> torch.Tensor:
    arguments = {
        "steps": 3,
        "cfg": 2.0,
        "positive": prompt(1.0),
        "negative": prompt(0.5),
        **keys,
    }
    return comfy.sample.sample(
        *(model, torch.zeros_like(LATENT)),
        sampler_name="euler",
        scheduler="normal",
        latent_image=LATENT,
        disable_pbar=True,
        seed=1,
        **arguments,
    )


def hooked(change: float, strength: float = 1.0) -> HookGroup:
    """A hook that adds to the network's one weight, which is 1."""
    hook = WeightHook(strength)
    hook.need_weight_init = False
    hook.weights = {"diffusion_model.out.weight": ("diff", (torch.tensor([[change]]),))}
    return HookGroup([hook])


def test_weights_of_a_hook_hold_for_the_prompts_that_carry_it() -> None:
    model = paint_model()
    positive = prompt(1.0, hooks=hooked(2.0))
    out = sample(model, positive=positive, negative=prompt(0.5), cfg=2.0)
    # Under the hook the network's answer is tripled: 3 instead of 1.
    wanted = 0.5 + 2.0 * (3.0 - 0.5)
    torch.testing.assert_close(out, torch.full_like(out, wanted / 0.18215))
    torch.testing.assert_close(sample(model), torch.full_like(out, 1.5 / 0.18215))


def test_a_run_that_cannot_clean_up_its_weights_still_lets_go_of_everything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = paint_model()
    net = ControlBase()
    net.timestep_percent_range = (1.0, 1.0)  # it takes part in no step

    def full() -> None:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(model, "clean_hooks", full)
    with pytest.raises(torch.OutOfMemoryError):
        sample(model, positive=prompt(1.0, hooks=hooked(2.0), control=net))
    assert net.timestep_range is None
    assert model.hook_patches == {}
    assert model.model.current_patcher is None


def test_options_of_a_hook_reach_the_network_for_its_prompts_alone() -> None:
    model = paint_model()
    group = HookGroup([TransformerOptionsHook({"mine": 1})])
    sample(model, positive=prompt(1.0, hooks=group), steps=1)
    calls = model.model.diffusion_model.calls
    assert [call["transformer_options"].get("mine") for call in calls] == [1, None]
