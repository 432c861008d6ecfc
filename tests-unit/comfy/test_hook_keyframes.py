"""Which keyframe is in force at which step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy.hook_keyframes import HookKeyframe, HookKeyframeGroup

# Sigma falls from 10 to 0 in proportion.
MODEL = SimpleNamespace(
    model_sampling=SimpleNamespace(percent_to_sigma=lambda percent: 10 * (1 - percent))
)


def group(*frames: tuple[float, float, int]) -> HookKeyframeGroup:
    """Keyframes of (strength, start, guaranteed steps)."""
    made = HookKeyframeGroup()
    for strength, start, steps in frames:
        made.add(HookKeyframe(strength, start, steps))
    made.initialize_timesteps(MODEL)
    return made


def strengths(frames: HookKeyframeGroup, steps: int = 10) -> list[float]:
    """At each step of a sampling from sigma 10 down."""
    found = []
    for step in range(steps):
        frames.prepare_current_keyframe(10 * (1 - step / steps), {})
        found.append(frames.strength)
    return found


def test_each_keyframe_begins_at_its_time() -> None:
    frames = group((1.0, 0.0, 1), (0.5, 0.5, 1), (0.0, 0.8, 1))
    assert strengths(frames) == [1.0] * 5 + [0.5] * 3 + [0.0] * 2


def test_order_of_adding_does_not_matter_for_different_times() -> None:
    assert strengths(group((0.5, 0.5, 1), (1.0, 0.0, 1))) == [1.0] * 5 + [0.5] * 5


def test_guaranteed_steps_delay_the_next_keyframe() -> None:
    assert strengths(group((1.0, 0.0, 7), (0.5, 0.5, 1))) == [1.0] * 7 + [0.5] * 3


def test_keyframe_without_guarantee_is_passed_over_if_its_successor_is_due() -> None:
    frames = group((1.0, 0.0, 1), (0.7, 0.11, 0), (0.5, 0.15, 1))
    assert strengths(frames) == [1.0, 1.0] + [0.5] * 8
    guaranteed = group((1.0, 0.0, 1), (0.7, 0.11, 1), (0.5, 0.15, 1))
    assert strengths(guaranteed) == [1.0, 1.0, 0.7] + [0.5] * 7


def test_change_is_told_once_and_calls_for_one_sigma_are_one_step() -> None:
    frames = group((1.0, 0.0, 2), (0.5, 0.0, 1))
    told = [frames.prepare_current_keyframe(sigma, {}) for sigma in (10, 10, 9, 9, 8, 8, 7)]
    assert told == [False, False, False, False, True, False, False]


def test_new_sampling_begins_with_the_first_keyframe() -> None:
    frames = group((1.0, 0.0, 1), (0.5, 0.5, 1))
    first = strengths(frames)
    frames.initialize_timesteps(MODEL)
    assert strengths(frames) == first


def test_without_keyframes_the_strength_is_one() -> None:
    frames = group()
    assert frames.is_empty()
    assert not frames.has_index(0)
    assert strengths(frames) == [1.0] * 10


def test_clone_does_not_follow_its_original() -> None:
    frames = group((1.0, 0.0, 1), (0.5, 0.5, 1))
    copy = frames.clone()
    strengths(frames)
    frames.keyframes[0].strength = 7.0
    assert copy.strength == 1.0


@settings(max_examples=100)
@given(
    starts=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    guarantees=st.lists(st.integers(0, 4), min_size=5, max_size=5),
)
def test_keyframes_only_advance_and_are_used_as_long_as_guaranteed(
    starts: list[float], guarantees: list[int]
) -> None:
    ordered = sorted(starts)
    frames = group(*((float(n), start, guarantees[n]) for n, start in enumerate(ordered)))
    used = strengths(frames, 20)
    assert used == sorted(used)
    for number in {int(one) for one in used[:-1]} - {int(used[-1])}:
        assert used.count(float(number)) >= guarantees[number]
    for step, number in enumerate(used):
        assert number == 0 or ordered[int(number)] <= step / 20 + 1e-9


@pytest.mark.parametrize("count", [1, 3])
def test_index_is_within_the_keyframes(count: int) -> None:
    frames = group(*((1.0, 0.1 * n, 1) for n in range(count)))
    assert [frames.has_index(n) for n in (-1, 0, count - 1, count)] == [False, True, True, False]


@pytest.mark.parametrize(("percent", "strength"), [(0.0, 0.2), (0.3, 0.2), (0.5, 0.4), (1.0, 0.6)])
def test_keyframe_of_a_time_can_be_put_in_force(percent: float, strength: float) -> None:
    frames = group((0.2, 0.1, 5), (0.4, 0.5, 5), (0.6, 0.8, 5))
    frames.begin_at(1.0 - percent)
    frames.begin_at(percent)
    assert frames.strength == strength
    HookKeyframeGroup().begin_at(percent)
