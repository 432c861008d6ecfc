"""Nodes of hooks: what they make, and that a hook of another model makes the model the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.model_management
import comfy.sd
import folder_paths
from comfy.hooks import EnumWeightTarget, HookGroup, HookKeyframeGroup, create_target_dict
from comfy_extras.hook_nodes import conds, create, keyframes
from support import narrow

LORA_LAYER = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
KEY = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
TEXT_KEY = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        narrow.write_checkpoint(folder / f"{seed}.safetensors", seed=seed)
    lora = {
        f"{LORA_LAYER}.lora_up.weight": torch.ones(32, 4),
        f"{LORA_LAYER}.lora_down.weight": torch.full((4, 32), 0.25),
    }
    save_file(lora, folder / "lora.safetensors")
    return folder


@pytest.fixture
def places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for key in ("checkpoints", "loras"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, key, ([str(folder)], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    yield
    comfy.model_management.unload_all_models()


def loaded(folder: Path, seed: int) -> tuple[Any, Any]:
    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(folder / f"{seed}.safetensors"))
    return model, clip


def in_force(patcher: Any, hooks: HookGroup, target: EnumWeightTarget) -> dict[str, torch.Tensor]:
    """The weights while hooks are in force."""
    patcher = patcher.clone()
    patcher.register_all_hook_patches(hooks, create_target_dict(target))
    comfy.model_management.load_models_gpu([patcher])
    patcher.patch_hooks(hooks)
    state = {key: value.clone() for key, value in patcher.model.state_dict().items()}
    patcher.unpatch_hooks()
    return state


@pytest.mark.usefixtures("places")
def test_lora_hook_changes_the_weights_while_it_is_in_force(folder: Path) -> None:
    (hooks,) = create.CreateHookLora().create_hook("lora.safetensors", 0.5, 1.0)
    model, _ = loaded(folder, 1)
    before = load_file(folder / "1.safetensors")[f"model.{KEY}"].float()
    after = in_force(model, hooks, EnumWeightTarget.Model)[KEY].float()
    assert torch.allclose(after - before, torch.full((32, 32), 0.5), atol=2e-3)


@pytest.mark.usefixtures("places")
def test_hook_of_a_model_at_full_strength_makes_the_model_the_other(folder: Path) -> None:
    (hooks,) = create.CreateHookModelAsLora().create_hook("2.safetensors", 1.0, 1.0)
    model, clip = loaded(folder, 1)
    wanted = load_file(folder / "2.safetensors")
    got = in_force(model, hooks, EnumWeightTarget.Model)[KEY]
    assert torch.allclose(got, wanted[f"model.{KEY}"], atol=1e-3)
    got = in_force(clip.patcher, hooks, EnumWeightTarget.Clip)[TEXT_KEY]
    wanted_key = f"cond_stage_model.{TEXT_KEY.removeprefix('clip_l.')}"
    assert torch.allclose(got, wanted[wanted_key], atol=1e-3)


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize(
    ("node", "name"),
    [
        (create.CreateHookLoraModelOnly, "lora.safetensors"),
        (create.CreateHookModelAsLoraModelOnly, "2.safetensors"),
    ],
)
def test_hook_for_the_model_only_leaves_text_encoders(node: Any, name: str) -> None:
    (hooks,) = node().create_hook_model_only(name, 0.5)
    (hook,) = hooks.hooks
    assert (hook.strength_model, hook.strength_clip) == (0.5, 0.0)


@pytest.mark.usefixtures("places")
def test_hooks_follow_those_before_them() -> None:
    node = create.CreateHookLora()
    (first,) = node.create_hook("lora.safetensors", 0.5, 0.5)
    (both,) = node.create_hook("lora.safetensors", 0.25, 0.25, prev_hooks=first)
    assert [one.strength_model for one in both.hooks] == [0.5, 0.25]
    (same,) = node.create_hook("lora.safetensors", 0.0, 0.0, prev_hooks=both)
    assert same.hooks == both.hooks
    (nothing,) = node.create_hook("lora.safetensors", 0.0, 0.0)
    assert len(nothing) == 0
    (joined,) = create.CombineHooks4().combine_hooks(hooks_B=both, hooks_D=first)
    assert joined is not None
    assert joined.hooks == both.hooks
    assert create.CombineHooks8().combine_hooks() == (None,)


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("scheduled", [True, False])
def test_text_encoder_is_encoded_with_its_hooks(folder: Path, scheduled: bool) -> None:
    (hooks,) = create.CreateHookModelAsLora().create_hook("2.safetensors", 1.0, 1.0)
    group = HookKeyframeGroup()
    (half,) = keyframes.CreateHookKeyframe().create_hook_keyframe(0.5, 0.0, group)
    (hooks,) = keyframes.SetHookKeyframes().set_hook_keyframes(hooks, half)
    _, clip = loaded(folder, 1)
    (hooked,) = create.SetClipHooks().apply_hooks(clip, True, scheduled, hooks)
    cond = hooked.encode_from_tokens_scheduled(hooked.tokenize("a cat"))
    assert cond[0][1]["hooks"] is hooks
    _, other = loaded(folder, 2)
    plain = clip.encode_from_tokens(clip.tokenize("a cat"))
    full = other.encode_from_tokens(other.tokenize("a cat"))
    is_full = torch.allclose(cond[0][0], full, atol=1e-2)
    assert is_full is not scheduled
    assert not torch.allclose(cond[0][0], plain, atol=1e-2)
    assert create.SetClipHooks().apply_hooks(clip, True, scheduled) == (clip,)


@pytest.mark.usefixtures("places")
def test_scheduled_text_is_encoded_once_for_each_strength(folder: Path) -> None:
    (hooks,) = create.CreateHookModelAsLora().create_hook("2.safetensors", 1.0, 1.0)
    node = keyframes.CreateHookKeyframe()
    (frames,) = node.create_hook_keyframe(0.0, 0.0)
    (frames,) = node.create_hook_keyframe(1.0, 0.4, frames)
    (hooks,) = keyframes.SetHookKeyframes().set_hook_keyframes(hooks, frames)
    _, clip = loaded(folder, 1)
    (hooked,) = create.SetClipHooks().apply_hooks(clip, True, True, hooks)
    tokens = hooked.tokenize("a cat")
    entries = hooked.encode_from_tokens_scheduled(tokens, add_dict={"width": 64})
    spans = [(more["clip_start_percent"], more["clip_end_percent"]) for _, more in entries]
    assert spans == [(0.0, 0.4), (0.4, 1.0)]
    assert all(more["hooks"] is hooks and more["width"] == 64 for _, more in entries)
    _, other = loaded(folder, 2)
    for (cond, more), alone in zip(entries, (clip, other), strict=True):
        wanted, pooled = alone.encode_from_tokens(tokens, return_pooled=True)
        assert torch.allclose(cond, wanted, atol=1e-2)
        assert torch.allclose(more["pooled_output"], pooled, atol=1e-2)
    assert not torch.allclose(entries[0][0], entries[1][0], atol=1e-2)
    again = hooked.encode_from_tokens_scheduled(tokens)
    assert [torch.equal(a[0], b[0]) for a, b in zip(again, entries, strict=True)] == [True, True]
    # Encoded without a schedule, the first keyframe holds.
    assert torch.equal(hooked.encode_from_tokens(tokens), entries[0][0])


@pytest.mark.parametrize(
    ("curve", "wanted"),
    [
        ("linear", [0.0, 0.5, 1.0, 1.5, 2.0]),
        ("ease_in", [0.0, 0.125, 0.5, 1.125, 2.0]),
        ("ease_out", [0.0, 0.875, 1.5, 1.875, 2.0]),
        ("ease_in_out", [0.0, 1 - 0.5**0.5, 1.0, 1 + 0.5**0.5, 2.0]),
    ],
)
def test_keyframes_lie_on_the_curve(curve: str, wanted: list[float]) -> None:
    node = keyframes.CreateHookKeyframesInterpolated()
    (made,) = node.create_hook_keyframes(0.0, 2.0, curve, 0.2, 0.6, 5)
    assert [one.strength for one in made.keyframes] == pytest.approx(wanted)
    times = [one.start_percent for one in made.keyframes]
    assert times == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6])


@pytest.mark.parametrize(
    ("given", "wanted"), [(0.5, [0.5]), ([1, 0.0], [1.0, 0.0]), (iter([0.1, 0.2, 0.3]), None)]
)
def test_keyframes_are_made_of_numbers(given: Any, wanted: list[float] | None) -> None:
    node = keyframes.CreateHookKeyframesFromFloats()
    (before,) = keyframes.CreateHookKeyframe().create_hook_keyframe(9.0, 0.0)
    (made,) = node.create_hook_keyframes(given, 0.5, 1.0, True, prev_hook_kf=before)
    assert [one.strength for one in made.keyframes] == [9.0, *(wanted or [0.1, 0.2, 0.3])]
    assert len(before.keyframes) == 1


def test_keyframes_of_no_numbers_are_refused() -> None:
    node = keyframes.CreateHookKeyframesFromFloats()
    with pytest.raises(TypeError, match="list of numbers, not str"):
        node.create_hook_keyframes("0.5", 0.0, 1.0)  # type: ignore[arg-type]


def cond(value: float) -> list[Any]:
    return [[torch.full((1, 77, 8), value), {"kept": value}]]


def test_properties_are_put_on_both_and_added_to_the_others() -> None:
    hooks, mask = HookGroup(), torch.ones(4, 4)
    node = conds.PairConditioningSetPropertiesAndCombine()
    pairs = (cond(1.0), cond(2.0), cond(3.0), cond(4.0))
    positive, negative = node.set_properties(*pairs, 0.5, "mask bounds", mask, hooks, (0.2, 0.8))
    assert [one[1]["kept"] for one in positive + negative] == [1.0, 3.0, 2.0, 4.0]
    for old, new in (positive, negative):
        assert old[1].keys() == {"kept"}
        assert new[1]["hooks"] is hooks
        assert new[1]["mask"].shape == (1, 4, 4)
        assert (new[1]["mask_strength"], new[1]["set_area_to_bounds"]) == (0.5, True)
        assert (new[1]["start_percent"], new[1]["end_percent"]) == (0.2, 0.8)
    assert pairs[2][0][1].keys() == {"kept"}


@pytest.mark.parametrize(
    ("node", "count", "wanted"),
    [
        (conds.ConditioningSetProperties, 1, [[1.0]]),
        (conds.ConditioningSetPropertiesAndCombine, 2, [[1.0, 2.0]]),
        (conds.PairConditioningSetProperties, 2, [[1.0], [2.0]]),
    ],
)
def test_properties_are_put_on_what_is_new(node: Any, count: int, wanted: list[Any]) -> None:
    hooks, mask = HookGroup(), torch.ones(4, 4)
    given = [cond(float(number + 1)) for number in range(count)]
    made = node().set_properties(*given, 0.5, "default", mask, hooks, (0.2, 0.8))
    assert [[one[1]["kept"] for one in part] for part in made] == wanted
    for *old, (_, new) in made:
        assert all(one[1].keys() == {"kept"} for one in old)
        assert new["hooks"] is hooks
        assert (new["mask_strength"], new["set_area_to_bounds"]) == (0.5, False)
        assert (new["start_percent"], new["end_percent"]) == (0.2, 0.8)


def test_default_holds_where_no_other_does() -> None:
    (both,) = conds.ConditioningSetDefaultCombine().set_default_and_combine(cond(1.0), cond(2.0))
    assert [one[1].get("default", False) for one in both] == [False, True]


def test_pairs_are_added_positive_to_positive() -> None:
    pairs = [cond(float(number)) for number in range(4)]
    made = conds.PairConditioningCombine().combine(*pairs)
    assert [[one[1]["kept"] for one in part] for part in made] == [[0.0, 2.0], [1.0, 3.0]]
    made = conds.PairConditioningSetDefaultCombine().set_default_and_combine(*pairs)
    found = [[(one[1]["kept"], one[1].get("default", False)) for one in part] for part in made]
    assert found == [[(0.0, False), (2.0, True)], [(1.0, False), (3.0, True)]]


def test_range_of_time_knows_what_lies_around_it() -> None:
    ranges = keyframes.ConditioningTimestepsRange().create_range(0.25, 0.75)
    assert ranges == ((0.25, 0.75), (0.0, 0.25), (0.75, 1.0))
