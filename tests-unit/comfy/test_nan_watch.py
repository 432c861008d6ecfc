"""A network that answers with NaN is told by name."""

from __future__ import annotations

import logging

import pytest
import torch

from comfy.nan_watch import NanWatch

SIGMAS = torch.tensor([10.0, 5.0, 2.0, 0.0])


def report(answers: list[tuple[float, float]]) -> None:
    watch = NanWatch()
    for sigma, value in answers:
        watch.note(torch.full((2,), sigma), torch.tensor([1.0, value]))
    watch.report("euler", SIGMAS)


def test_first_step_and_number_of_calls_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    nan = float("nan")
    with caplog.at_level(logging.WARNING):
        report([(10.0, 1.0), (5.0, nan), (2.0, nan)])
    assert len(caplog.records) == 1
    assert "step 2 of 3 (sigma 5) of sampler 'euler', in 2 of 3 calls" in caplog.text


@pytest.mark.parametrize("answers", [[], [(10.0, 1.0)], [(10.0, float("inf"))]])
def test_sound_answers_are_not_told(
    answers: list[tuple[float, float]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        report(answers)
    assert caplog.records == []


def test_step_of_a_level_between_two_is_the_one_that_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        report([(7.0, float("nan"))])
    assert "step 1 of 3" in caplog.text
