"""Steps are left out while their output would hardly change, and the rest is as without."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_easycache
from comfy_extras.guidance.patching import Window
from comfy_extras.guidance.step_cache import StepCache

STEPS = 8
ALWAYS = Window(100.0, 0.0)
NODES = [nodes_easycache.EasyCache, nodes_easycache.LazyCache]


def _counted(model: Any) -> tuple[Any, list[int]]:
    """A clone, and how many latents its network gets at each call."""
    calls: list[int] = []

    def count(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(args[0].shape[0])
        result: torch.Tensor = executor(*args, **kwargs)
        return result

    counted = model.clone()
    counted.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", count)
    return counted, calls


def _run(cache: StepCache, inputs: list[float], factor: float, offset: float) -> list[bool]:
    """Which steps were computed, for the output factor x + offset."""
    computed = []
    for number, value in enumerate(inputs):
        x, was = torch.full((1, 4), value), len(computed)

        def compute(x: torch.Tensor = x) -> torch.Tensor:
            computed.append(True)
            return factor * x + offset

        out = cache.run("one", x, torch.tensor([10.0 - number]), compute)
        if len(computed) == was:
            computed.append(False)
        if factor == 1.0:
            torch.testing.assert_close(out, x + offset)
    return computed


def test_output_that_follows_its_input_is_made_up_without_loss() -> None:
    computed = _run(StepCache(1.0, ALWAYS), [1.0, 1.1, 1.2, 1.3, 1.4], 1.0, 2.0)
    assert computed == [True, True, False, False, False]


def test_estimated_errors_add_up_to_the_threshold() -> None:
    # Output 3 x - 1 at 1.1 is 2.3, and its rate 3: each step of 0.1 adds 0.3 / 2.3 = 0.13.
    inputs = [1.0 + 0.1 * number for number in range(6)]
    computed = _run(StepCache(0.3, ALWAYS), inputs, 3.0, -1.0)
    assert computed == [True, True, False, False, True, False]


def test_steps_outside_of_the_window_are_computed() -> None:
    computed = _run(StepCache(1.0, Window(7.5, 6.5)), [1.0] * 6, 1.0, 2.0)
    assert computed == [True] * 6
    computed = _run(StepCache(1.0, Window(7.5, 5.5)), [1.0 + i for i in range(6)], 1.0, 2.0)
    assert computed == [True, True, True, False, False, True]


def test_first_pass_decides_for_the_others_of_its_step() -> None:
    cache = StepCache(1.0, ALWAYS)
    computed: list[tuple[int, str]] = []
    for number in range(4):
        for name in ("a", "a", "b"):
            x = torch.full((1, 4), 1.0 + number / 10)

            def compute(x: torch.Tensor = x, told: Any = (number, name)) -> torch.Tensor:
                computed.append(told)
                return x + 1.0

            cache.run(name, x, torch.tensor([10.0 - number]), compute)
    assert computed == [(n, name) for n in (0, 1) for name in ("a", "a", "b")]
    assert (cache.steps, cache.reused) == (4, 2)


@pytest.mark.parametrize("node", NODES)
def test_threshold_of_zero_leaves_nothing_out(sd15: Any, node: Any) -> None:
    counted, calls = _counted(sd15.model)
    made = sd15.sample(node.execute(counted, 0.0, 0.0, 1.0, False)[0], STEPS)
    assert sum(calls) == 2 * STEPS
    wanted = sd15.sample(sd15.model, STEPS)
    torch.testing.assert_close(made, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("node", NODES)
def test_large_threshold_leaves_out_all_but_the_first_steps(
    sd15: Any, node: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Wrappers run in the order in which they were added, so the cache comes first.
    patched = node.execute(sd15.model, 1e9, 0.0, 1.0, True)[0]
    counted, calls = _counted(patched)
    with caplog.at_level(logging.INFO):
        made = sd15.sample(counted, STEPS)
    assert sum(calls) == 2 * 2
    assert made.isfinite().all()
    assert f"{node.__name__}: {STEPS - 2} of {STEPS} steps were left out." in caplog.text
    calls.clear()
    assert torch.equal(sd15.sample(counted, STEPS), made)
    assert sum(calls) == 2 * 2


@pytest.mark.parametrize("node", NODES)
def test_networks_that_see_mask_and_picture_are_left_out_too(sd15_inpaint: Any, node: Any) -> None:
    patched = node.execute(sd15_inpaint.model, 1e9, 0.0, 1.0, False)[0]
    counted, calls = _counted(patched)
    assert sd15_inpaint.sample(counted, STEPS).isfinite().all()
    assert sum(calls) == 2 * 2


@pytest.mark.parametrize("node", NODES)
def test_window_limits_what_is_left_out(sd15: Any, node: Any) -> None:
    patched = node.execute(sd15.model, 1e9, 0.5, 1.0, False)[0]
    counted, calls = _counted(patched)
    sd15.sample(counted, STEPS)
    assert sum(calls) == 2 * STEPS // 2
