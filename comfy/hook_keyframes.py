"""Keyframes: how strong a hook is at each time of a sampling."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass
class HookKeyframe:
    """A strength from some time on.

    Attributes:
        strength: Factor of the hook's own strength.
        start_percent: When it begins, 0 (all noise) to 1.
        guarantee_steps: Used for at least so many steps, even if the next one is due already.
        start_t: The sigma of `start_percent`, once the model is known.
    """

    strength: float
    start_percent: float = 0.0
    guarantee_steps: int = 1
    start_t: float = 999999999.9

    def clone(self) -> HookKeyframe:
        """A copy."""
        return replace(self)


class HookKeyframeGroup:
    """Keyframes in the order of their times, and which of them is in force.

    Attributes:
        keyframes: Sorted by `start_percent`.
    """

    def __init__(self) -> None:
        self.keyframes: list[HookKeyframe] = []
        self.reset()

    def reset(self) -> None:
        """Begin again with the first keyframe."""
        self._index = 0
        self._steps = 0
        self._last_t: float | None = None

    @property
    def strength(self) -> float:
        """Of the keyframe in force; 1 without keyframes."""
        return self.keyframes[self._index].strength if self.keyframes else 1.0

    def add(self, keyframe: HookKeyframe) -> None:
        """Add a keyframe; of equal times the one added first comes first."""
        self.keyframes = sorted([*self.keyframes, keyframe], key=lambda one: one.start_percent)
        self.reset()

    def is_empty(self) -> bool:
        """Whether there are no keyframes."""
        return not self.keyframes

    def has_index(self, index: int) -> bool:
        """Whether there is a keyframe of this number."""
        return 0 <= index < len(self.keyframes)

    def clone(self) -> HookKeyframeGroup:
        """Copies of all keyframes, the first in force."""
        copy = HookKeyframeGroup()
        copy.keyframes = [keyframe.clone() for keyframe in self.keyframes]
        return copy

    def initialize_timesteps(self, model: Any) -> None:
        """Compute each keyframe's sigma by ``model.model_sampling``, and begin again."""
        for keyframe in self.keyframes:
            keyframe.start_t = float(model.model_sampling.percent_to_sigma(keyframe.start_percent))
        self.reset()

    def begin_at(self, percent: float) -> None:
        """Put the keyframe of a time in force, 0 to 1; guaranteed steps are not known and not kept.

        Before the first keyframe's time, it is the first.
        """
        self.reset()
        starts = [keyframe.start_percent for keyframe in self.keyframes]
        self._index = max(0, bisect_right(starts, percent) - 1)

    def prepare_current_keyframe(
        self, curr_t: float, transformer_options: Mapping[str, Any] | None = None
    ) -> bool:
        """Put the keyframe for a step in force; several calls for one sigma are one step.

        Args:
            curr_t: The step's sigma, smaller from step to step.
            transformer_options: Of the call; not needed here.

        Returns:
            Whether the keyframe has changed.
        """
        if not self.keyframes or curr_t == self._last_t:
            return False
        self._last_t = curr_t
        before = self._index
        while self._steps >= self.keyframes[self._index].guarantee_steps and self._is_due(curr_t):
            self._index += 1
            self._steps = 0
        self._steps += 1
        return self._index != before

    def _is_due(self, curr_t: float) -> bool:
        following = self._index + 1
        return self.has_index(following) and self.keyframes[following].start_t >= curr_t
