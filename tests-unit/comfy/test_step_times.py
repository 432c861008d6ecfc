"""How long steps take, by sampler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import comfy.sample
from comfy import step_times
from comfy.step_times import MOST_SAMPLERS, OTHERS, StepTimes, StepTotal
from support.closed_form import paint_model, prompt

LATENT = torch.zeros(1, 4, 8, 8)


class Clock:
    """Gives one number after the other."""

    def __init__(self, *times: float) -> None:
        self._times = iter(times)

    def __call__(self) -> float:
        return next(self._times)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Iterator[StepTimes]:
    fresh = StepTimes()
    monkeypatch.setattr(step_times, "STEP_TIMES", fresh)
    yield fresh


def test_each_call_is_a_step_from_the_one_before() -> None:
    times = StepTimes(Clock(10.0, 13.0, 14.0))
    callback = times.timed("euler", None)
    callback(0)
    callback(1)
    assert times.totals() == {"euler": StepTotal(2, 4.0)}


def test_samplers_are_counted_apart_and_runs_together() -> None:
    times = StepTimes(Clock(0.0, 1.0, 0.0, 2.0, 0.0, 5.0))
    for sampler in ("euler", "heun", "euler"):
        times.timed(sampler, None)()
    assert times.totals() == {"euler": StepTotal(2, 6.0), "heun": StepTotal(1, 2.0)}


def test_the_callback_behind_it_gets_what_was_given_and_may_end_the_run() -> None:
    class Stop(Exception):
        """The user's wish."""

    def callback(*args: Any, **kwargs: Any) -> None:
        assert (args, kwargs) == ((1, 2), {"preview": 3})
        raise Stop

    times = StepTimes()
    with pytest.raises(Stop):
        times.timed("euler", callback)(1, 2, preview=3)
    assert times.totals()["euler"].count == 1


def test_names_without_end_share_one_total() -> None:
    times = StepTimes()
    for number in range(MOST_SAMPLERS + 7):
        times.timed(f"made-up-{number}", None)()
    totals = times.totals()
    assert len(totals) == MOST_SAMPLERS + 1
    assert totals[OTHERS].count == 7


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "uni_pc", "lms"])
@pytest.mark.parametrize("has_callback", [False, True])
def test_a_run_counts_its_steps_whether_or_not_anyone_waits_for_them(
    times: StepTimes, sampler: str, has_callback: bool
) -> None:
    seen: list[int] = []
    comfy.sample.sample(
        *(paint_model(), torch.zeros_like(LATENT), 4, 1.0, sampler, "normal"),
        positive=prompt(1.0),
        negative=prompt(0.5),
        latent_image=LATENT,
        callback=(lambda step, denoised, x, steps: seen.append(step)) if has_callback else None,
        disable_pbar=True,
        seed=1,
    )
    (total,) = times.totals().values()
    assert total.count == 4
    assert total.seconds > 0
    assert len(seen) == (4 if has_callback else 0)
