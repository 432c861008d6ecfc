"""Hooks: groups, patches for a patcher, and what the patcher makes of them."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import comfy.lora
from comfy import hooks
from comfy.hooks import EnumHookType, EnumWeightTarget, Hook, HookGroup, HookKeyframeGroup
from comfy.patcher_hooks import HookPatching
from support.lora_files import lora, module

UNET_KEY = "diffusion_model.block.weight"
CLIP_KEY = "clip_l.transformer.text_model.x.weight"


class Patcher(HookPatching):
    """The hooks' half of a patcher, over a model that is a dict of weights."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        weights = {key: torch.zeros(8, 4) for key in keys}
        self.model = SimpleNamespace(
            state_dict=lambda: weights, model_config=SimpleNamespace(unet_config={})
        )
        self.patches_uuid = uuid.uuid4()
        self.get_all_callbacks = lambda kind: []
        self.placed = 0

    def _place_again(self) -> None:
        self.placed += 1


def register(group: HookGroup, patcher: Patcher, target: EnumWeightTarget) -> HookGroup:
    registered = HookGroup()
    patcher.register_all_hook_patches(
        group, hooks.create_target_dict(target), registered=registered
    )
    return registered


def lora_file() -> dict[str, torch.Tensor]:
    return {
        **module("lora_unet_block", lora((8, 4))),
        **module("lora_te_text_model_x", lora((8, 4), seed=5)),
    }


@pytest.mark.parametrize(
    ("target", "key", "strength"),
    [(EnumWeightTarget.Model, UNET_KEY, 0.5), (EnumWeightTarget.Clip, CLIP_KEY, 0.25)],
)
def test_lora_hook_patches_each_model_at_its_strength(
    target: EnumWeightTarget, key: str, strength: float
) -> None:
    group, patcher = hooks.create_hook_lora(lora_file(), 0.5, 0.25), Patcher(key)
    assert register(group, patcher, target).hooks == group.hooks
    (patch,) = patcher.get_combined_hook_patches(group)[key]
    got = comfy.lora.calculate_weight([patch], torch.zeros(8, 4), key)
    up, down = lora((8, 4), seed=0 if key == UNET_KEY else 5).values()
    torch.testing.assert_close(got, strength * (up @ down))


def test_keyframe_s_strength_multiplies_the_patches() -> None:
    group, patcher = hooks.create_hook_lora(lora_file(), 0.5, 1.0), Patcher(UNET_KEY)
    register(group, patcher, EnumWeightTarget.Model)
    frames = HookKeyframeGroup()
    frames.add(hooks.HookKeyframe(strength=0.2))
    group.set_keyframes_on_hooks(frames)
    (patch,) = patcher.get_combined_hook_patches(group)[UNET_KEY]
    assert patch[0] == pytest.approx(0.1)
    assert group.hooks[0].strength_model == pytest.approx(0.1)
    assert group.hooks[0].strength_clip == pytest.approx(0.2)


def test_clone_uses_the_patches_that_its_original_registered() -> None:
    group, patcher = hooks.create_hook_lora(lora_file(), 1.0, 1.0), Patcher(UNET_KEY)
    register(group, patcher, EnumWeightTarget.Model)
    assert UNET_KEY in patcher.get_combined_hook_patches(group.clone())


def test_other_model_as_lora_makes_the_weight_the_other_s() -> None:
    other = torch.arange(32.0).reshape(8, 4)
    group = hooks.create_hook_model_as_lora({UNET_KEY: other}, None, 1.0, 1.0)
    patcher, clip = Patcher(UNET_KEY), Patcher(CLIP_KEY)
    register(group, patcher, EnumWeightTarget.Model)
    register(group, clip, EnumWeightTarget.Clip)
    assert clip.get_combined_hook_patches(group) == {}
    base = torch.ones(8, 4)
    got = comfy.lora.calculate_weight(
        patcher.get_combined_hook_patches(group)[UNET_KEY],
        base.clone(),
        UNET_KEY,
        original_weights={UNET_KEY: [(base, None)]},
    )
    torch.testing.assert_close(got, other)


def test_transformer_options_hold_while_the_hook_is_in_force() -> None:
    group, patcher = HookGroup([hooks.TransformerOptionsHook({"a": 1})]), Patcher(UNET_KEY)
    register(group, patcher, EnumWeightTarget.Model)
    assert patcher.apply_hooks(group) == {"a": 1}
    assert patcher.apply_hooks(None) == {}


def test_changed_keyframe_of_a_hook_in_force_patches_its_weights_anew_once() -> None:
    group, patcher = hooks.create_hook_lora(lora_file(), 1.0, 1.0), Patcher(UNET_KEY)
    frames = HookKeyframeGroup()
    frames.add(hooks.HookKeyframe(1.0))
    frames.add(hooks.HookKeyframe(0.5, start_percent=0.5))
    group.set_keyframes_on_hooks(frames)
    register(group, patcher, EnumWeightTarget.Model)
    sampling = SimpleNamespace(percent_to_sigma=lambda percent: 10 * (1 - percent))
    group.hooks[0].initialize_timesteps(SimpleNamespace(model_sampling=sampling))
    strengths = []
    for sigma in (10.0, 5.0, 5.0):
        patcher.prepare_hook_patches_current_keyframe(
            torch.tensor([sigma]), group, {"transformer_options": {}}
        )
        patcher.apply_hooks(group)
        strengths.append(patcher._hooked[UNET_KEY][0][0])
    assert strengths == [1.0, 0.5, 0.5]
    assert patcher.placed == 2


def scheduled(strength_clip: float, *frames: tuple[float, float]) -> HookGroup:
    """A LoRA's hook with keyframes of (start, strength)."""
    group, keyframes = hooks.create_hook_lora(lora_file(), 1.0, strength_clip), HookKeyframeGroup()
    for start, strength in frames:
        keyframes.add(hooks.HookKeyframe(strength, start_percent=start))
    group.set_keyframes_on_hooks(keyframes)
    return group


@pytest.mark.parametrize(
    ("groups", "ranges"),
    [
        ([scheduled(1.0)], [(0.0, 1.0)]),
        ([scheduled(1.0, (0.0, 0.2), (0.4, 0.8))], [(0.0, 0.4), (0.4, 1.0)]),
        ([scheduled(1.0, (0.3, 0.2), (0.4, 0.8))], [(0.0, 0.4), (0.4, 1.0)]),
        ([scheduled(1.0, (0.0, 0.2), (0.4, 0.2), (1.0, 0.8))], [(0.0, 1.0)]),
        ([scheduled(0.0, (0.0, 0.2), (0.4, 0.8))], [(0.0, 1.0)]),
        ([HookGroup([hooks.TransformerOptionsHook({"a": 1})])], [(0.0, 1.0)]),
        (
            [scheduled(1.0, (0.0, 0.2), (0.4, 0.8)), scheduled(0.5, (0.0, 0.1), (0.7, 0.3))],
            [(0.0, 0.4), (0.4, 0.7), (0.7, 1.0)],
        ),
    ],
    ids=["none", "two", "late first", "no change", "not for text", "no weights", "two hooks"],
)
def test_schedule_of_text_encoders_has_a_range_for_each_strength(
    groups: list[HookGroup], ranges: list[tuple[float, float]]
) -> None:
    group = HookGroup.combine_all_hooks(groups)
    assert group is not None
    assert group.text_encoder_ranges() == ranges


# -- groups --------------------------------------------------------------------------------------


def test_hooks_are_equal_to_their_clones_and_to_no_other() -> None:
    hook = Hook()
    assert hook == hook.clone()
    assert hash(hook) == hash(hook.clone())
    assert hook != Hook()
    assert hook != "hook"


def test_group_holds_each_hook_once() -> None:
    one, two = Hook(EnumHookType.Weight), Hook()
    group = HookGroup([one, two, one.clone()])
    group.add(two)
    assert (group.hooks, len(group)) == ([one, two], 2)
    assert group.get_type(EnumHookType.Weight) == [one]
    assert HookGroup([one]).is_subset_of(group)
    assert not group.is_subset_of(HookGroup([one]))
    group.remove(one)
    assert not group.contains(one)
    assert group.contains(two)


def test_combining_copies_both_groups() -> None:
    first, second = HookGroup([Hook()]), HookGroup([Hook()])
    both = first.clone_and_combine(second)
    assert both.hooks == [*first.hooks, *second.hooks]
    assert both.hooks[0] is not first.hooks[0]
    assert first.clone_and_combine(None).hooks == first.hooks


@pytest.mark.parametrize("count", [0, 1, 2])
def test_all_groups_combine(count: int) -> None:
    groups: list[Any] = [HookGroup([Hook()]) for _ in range(count)]
    combined = HookGroup.combine_all_hooks([None, *groups])
    if count == 0:
        assert combined is None
    elif count == 1:
        assert combined is groups[0]
    else:
        assert combined is not None
        assert combined.hooks == [hook for group in groups for hook in group.hooks]


def test_keyframes_are_copied_for_each_hook() -> None:
    group, frames = HookGroup([Hook(), Hook()]), HookKeyframeGroup()
    frames.add(hooks.HookKeyframe(0.5))
    group.set_keyframes_on_hooks(frames)
    mine = [hook.hook_keyframe for hook in group.hooks]
    assert mine[0] is not mine[1]
    assert [hook.strength for hook in group.hooks] == [0.5, 0.5]
    group.set_keyframes_on_hooks(None)
    assert [hook.strength for hook in group.hooks] == [1.0, 1.0]
