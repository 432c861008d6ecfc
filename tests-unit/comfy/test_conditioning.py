"""Prompts before the first step."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import torch

from comfy.conditioning import (
    apply_empty_x_to_equal_area,
    calculate_start_end_timesteps,
    encode_model_conds,
    pre_run_control,
    process_conds,
)
from comfy.conds import CONDRegular
from comfy.model_sampling import EPS, ModelSamplingDiscrete


class Sampling(ModelSamplingDiscrete, EPS):
    pass


class Model:
    """Has a schedule, and notes what it is asked for."""

    def __init__(self) -> None:
        self.model_sampling = Sampling()
        self.asked: list[dict[str, Any]] = []

    def extra_conds(self, **kwargs: Any) -> dict[str, CONDRegular]:
        self.asked.append(kwargs)
        return {"c_crossattn": CONDRegular(kwargs["cross_attn"])}


class Net:
    """A ControlNet's place."""

    def __init__(self) -> None:
        self.told: Any = None

    def pre_run(self, model: Any, percent_to_timestep: Any) -> None:
        self.told = (model, percent_to_timestep(0.5))


def cond(**keys: Any) -> dict[str, Any]:
    return {
        "cross_attn": torch.ones(1, 2, 3),
        "model_conds": {},
        "uuid": uuid.uuid4(),
        **keys,
    }


NOISE = torch.zeros(1, 4, 8, 16)


@pytest.mark.parametrize(
    ("keys", "start", "end"),
    [
        ({}, None, None),
        ({"start_percent": 0.0, "end_percent": 1.0}, 0.0, 1.0),
        ({"start_percent": 0.25}, 0.25, None),
        ({"end_percent": 0.25}, None, 0.25),
        ({"start_percent": 0.2, "clip_start_percent": 0.4, "clip_end_percent": 0.9}, 0.4, 0.9),
        ({"start_percent": 0.5, "end_percent": 0.6, "clip_end_percent": 0.9}, 0.5, 0.6),
    ],
)
def test_percentages_become_sigmas(
    keys: dict[str, float], start: float | None, end: float | None
) -> None:
    model = Model()
    conds = [cond(**keys)]
    calculate_start_end_timesteps(model, conds)
    sigma = model.model_sampling.percent_to_sigma
    assert conds[0].get("timestep_start") == (None if start is None else sigma(start))
    assert conds[0].get("timestep_end") == (None if end is None else sigma(end))


def test_model_is_asked_with_all_keys_of_the_condition() -> None:
    model, given = Model(), cond(guidance=3.5, width=999)
    before = dict(given)
    conds = encode_model_conds(
        model.extra_conds, [given], NOISE, "cpu", "negative", seed=7, latent_image=NOISE
    )
    asked = model.asked[0]
    assert (asked["width"], asked["height"]) == (999, 64)
    assert (asked["guidance"], asked["prompt_type"], asked["seed"]) == (3.5, "negative", 7)
    assert asked["noise"] is NOISE
    assert asked["device"] == "cpu"
    assert given == before
    assert torch.equal(conds[0]["model_conds"]["c_crossattn"].cond, torch.ones(1, 2, 3))


@pytest.mark.parametrize(
    ("shape", "width", "height"),
    [((1, 4, 8, 16), 128, 64), ((1, 4, 3, 8, 16), 128, 64), ((1, 64, 50), None, 400)],
)
def test_sizes_are_told_in_pixels(shape: tuple[int, ...], width: int | None, height: int) -> None:
    model = Model()
    encode_model_conds(model.extra_conds, [cond()], torch.zeros(shape), "cpu", "positive")
    assert (model.asked[0]["width"], model.asked[0]["height"]) == (width, height)


def test_what_the_condition_brings_for_the_network_is_kept() -> None:
    brought = {"extra": CONDRegular(torch.zeros(1))}
    given = cond(model_conds=brought)
    conds = encode_model_conds(Model().extra_conds, [given], NOISE, "cpu", "positive")
    assert set(conds[0]["model_conds"]) == {"extra", "c_crossattn"}
    assert set(brought) == {"extra"}


def test_control_nets_are_told_the_schedule() -> None:
    model, net = Model(), Net()
    pre_run_control(model, [cond(), cond(control=net)])
    assert net.told == (model, model.model_sampling.percent_to_sigma(0.5))


def fill(given: list[Any], number: int) -> Any:
    return given[number]


@pytest.mark.parametrize(
    ("given", "takes", "expected"),
    [
        (["a"], [{}], ["a"]),
        (["a"], [{}, {}], ["a", None]),
        (["a", "b"], [{}], ["a", "b"]),
        (["a"], [{"control": "mine"}], ["mine"]),
        (["a"], [{"area": (1, 1, 0, 0)}], [None]),
        (["a"], [], []),
        ([], [{}], [None]),
    ],
)
def test_control_is_shared_with_those_who_have_none(
    given: list[str], takes: list[dict[str, Any]], expected: list[str | None]
) -> None:
    uncond = [cond(**keys) for keys in takes]
    apply_empty_x_to_equal_area([cond(control=c) for c in given], uncond, "control", fill)
    assert [c.get("control") for c in uncond] == expected


@pytest.mark.parametrize("for_all", [True, False])
def test_negative_prompt_gets_the_control_that_is_for_all(for_all: bool) -> None:
    net = Net()
    conds = {
        "positive": [cond(control=net, control_apply_to_uncond=for_all)],
        "negative": [cond()],
    }
    processed = process_conds(Model(), NOISE, conds, "cpu")
    assert (processed["negative"][0].get("control") is net) is for_all
    assert processed["positive"][0]["control"] is net


def test_prompts_are_prepared_under_their_names_and_the_callers_stay() -> None:
    model = Model()
    positive = [cond(area=("percentage", 0.5, 0.5, 0.0, 0.0), start_percent=0.5)]
    conds = {"positive": positive, "negative": [cond()]}
    before = dict(positive[0])
    processed = process_conds(model, NOISE, conds, "cpu", seed=3)
    assert [asked["prompt_type"] for asked in model.asked] == ["positive", "negative"]
    assert {asked["seed"] for asked in model.asked} == {3}
    assert processed["positive"][0]["area"] == (4, 8, 0, 0)
    assert [c.get("area") for c in processed["negative"]] == [None, (4, 8, 0, 0)]
    assert positive[0] == before


def test_hooks_learn_the_schedule() -> None:
    class Hook:
        model: Any = None

        def initialize_timesteps(self, model: Any) -> None:
            self.model = model

    class Group:
        def __init__(self) -> None:
            self.hooks = [Hook(), Hook()]

    model, group = Model(), Group()
    process_conds(model, NOISE, {"positive": [cond(hooks=group)]}, "cpu")
    assert [hook.model for hook in group.hooks] == [model, model]
