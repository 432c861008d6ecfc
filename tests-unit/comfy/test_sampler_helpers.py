"""Prompts as dicts, masks for latents, and the other models of a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfy import sampler_helpers
from support.closed_form import paint_model, prompt


def test_entries_become_dicts_of_their_own() -> None:
    tokens, extra = torch.ones(1, 3, 2), {"strength": 2.0, "model_conds": {"a": 1}}
    (cond,) = sampler_helpers.convert_cond([[tokens, extra]])
    assert cond["cross_attn"] is tokens
    assert cond["strength"] == 2.0
    cond["model_conds"]["b"] = 2
    assert extra == {"strength": 2.0, "model_conds": {"a": 1}}


def test_every_entry_gets_an_identity() -> None:
    conds = sampler_helpers.convert_cond([*prompt(1.0), *prompt(1.0)])
    assert conds[0]["uuid"] != conds[1]["uuid"]
    assert "cross_attn" not in sampler_helpers.convert_cond([[None, {}]])[0]


@pytest.mark.parametrize("shape", [(8, 16), (1, 8, 16), (1, 1, 8, 16), (2, 8, 16)])
def test_mask_of_any_size_gets_the_latents_shape(shape: tuple[int, ...]) -> None:
    mask = torch.zeros(8, 16)
    mask[:, 8:] = 1.0
    ready = sampler_helpers.prepare_mask(mask.expand(shape), (2, 4, 4, 8), "cpu")
    assert ready.shape == (2, 4, 4, 8)
    assert ready[1, 3, 0].tolist() == [0.0] * 4 + [1.0] * 4


class Net:
    """A ControlNet's place."""

    def __init__(self, models: list[Any], activation_bytes: int) -> None:
        self.models, self.activation_bytes = models, activation_bytes
        self.cleaned = 0

    def get_models(self) -> list[Any]:
        return self.models

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        return self.activation_bytes * dtype.itemsize

    def cleanup(self) -> None:
        self.cleaned += 1


def test_models_of_prompts_are_found_once_each() -> None:
    shared, other, boxes = object(), object(), object()
    net = Net([shared], 100)
    conds = {
        "positive": [{"control": net}, {"control": net, "additional_models": [shared, other]}],
        "negative": [{"control": Net([other], 10), "gligen": ("position", boxes, [])}],
    }
    models, activation_bytes = sampler_helpers.get_additional_models(conds, torch.float16)
    assert set(map(id, models)) == {id(shared), id(other), id(boxes)}
    assert len(models) == 3
    assert activation_bytes == 220


def test_control_nets_and_models_are_cleaned_once() -> None:
    net, model = Net([], 0), Net([], 0)
    sampler_helpers.cleanup_models({"positive": [{"control": net}, {"control": net}]}, [model, 1])
    assert (net.cleaned, model.cleaned) == (1, 1)


def test_memory_is_estimated_for_both_prompts_and_for_one() -> None:
    patcher = paint_model()
    wanted, least = sampler_helpers.estimate_memory(
        patcher, (3, 4, 8, 8), {"positive": [{}], "negative": [{}]}
    )
    assert wanted == patcher.model.memory_required([6, 4, 8, 8])
    assert least == patcher.model.memory_required([3, 4, 8, 8])


def test_options_are_cast_at_every_depth() -> None:
    options = {"a": [torch.zeros(1), {"b": torch.zeros(1, dtype=torch.int8)}], "c": "kept"}
    inner = options["a"]
    sampler_helpers.cast_options(options, torch.float64)
    assert options["a"] is inner
    assert options["a"][0].dtype == options["a"][1]["b"].dtype == torch.float64
    assert options["c"] == "kept"
