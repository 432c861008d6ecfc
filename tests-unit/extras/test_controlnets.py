"""Control nets are added to copies of conditionings."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from comfy_extras.classic.controlnets import ControlNetApply, ControlNetApplyAdvanced

IMAGE = torch.rand((1, 8, 6, 3), generator=torch.Generator().manual_seed(0))


class Net:
    """Keeps what it was told."""

    hint: tuple[Any, ...] = ()
    previous: Net | None = None

    def copy(self) -> Net:
        return copy.copy(self)

    def set_cond_hint(self, *hint: Any) -> Net:
        self.hint = hint
        return self

    def set_previous_controlnet(self, previous: Net | None) -> Net:
        self.previous = previous
        return self


def _part(**entries: Any) -> list[Any]:
    return [torch.zeros(1, 2, 4), {"unknown": "kept", **entries}]


def test_old_node_controls_the_negative_prompt_too() -> None:
    net, given = Net(), [_part()]
    (controlled,) = ControlNetApply().apply_controlnet(given, net, IMAGE, 0.5)
    options = controlled[0][1]
    assert torch.equal(options["control"].hint[0], IMAGE.movedim(-1, 1))
    assert options["control"].hint[1] == 0.5
    assert (options["control_apply_to_uncond"], options["unknown"]) == (True, "kept")
    assert (net.hint, given[0][1]) == ((), {"unknown": "kept"})


def test_both_prompts_get_the_same_copy_with_its_settings() -> None:
    net, vae, extra = Net(), object(), [IMAGE]
    both = ControlNetApplyAdvanced().apply_controlnet(
        [_part(), _part()], [_part()], net, IMAGE, 0.5, 0.1, 0.9, vae, extra
    )
    (used,) = {part[1]["control"] for part in both[0] + both[1]}
    assert used is not net
    assert used.hint[1:] == (0.5, (0.1, 0.9), vae, extra)
    assert not any(part[1]["control_apply_to_uncond"] for part in both[0] + both[1])


def test_nets_are_chained_and_shared_where_the_chain_is_the_same() -> None:
    first, second = Net(), Net()
    positive, negative = [_part(control=first), _part(control=second)], [_part(control=first)]
    both = ControlNetApplyAdvanced().apply_controlnet(positive, negative, Net(), IMAGE, 1, 0, 1)
    one, other = (part[1]["control"] for part in both[0])
    assert (one.previous, other.previous) == (first, second)
    assert both[1][0][1]["control"] is one


@pytest.mark.parametrize("is_old", [False, True])
def test_strength_zero_changes_nothing(is_old: bool) -> None:
    given = [_part()]
    if is_old:
        assert ControlNetApply().apply_controlnet(given, Net(), IMAGE, 0)[0] is given
    else:
        both = ControlNetApplyAdvanced().apply_controlnet(given, given, Net(), IMAGE, 0, 0, 1)
        assert both == (given, given)
        assert both[0] is given
