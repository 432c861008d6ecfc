"""What hangs on a ModelPatcher: objects, hooks, callbacks, injections, other models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from comfy.loading.errors import DeviceCopyFailed
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, PatcherInjection
from support.simulated_device import SimulatedDevice
from support.small_network import CPU, DEVICE, WIDTH, Checkpoint, run

KEY = "blocks.1.weight"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "model.safetensors")


def _diff(seed: int = 1) -> torch.Tensor:
    return torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed)) / 30


def _weights(patcher: ModelPatcher) -> dict[str, torch.Tensor]:
    return {key: value.cpu().clone() for key, value in patcher.model.state_dict().items()}


def _assert_unchanged(patcher: ModelPatcher, checkpoint: Checkpoint) -> None:
    for key, value in _weights(patcher).items():
        assert torch.equal(value, checkpoint.values[key]), key


def test_object_patches_are_in_the_model_only_while_it_is_patched(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    clone = patcher.clone()
    clone.add_object_patch("norm.eps", 0.25)
    assert clone.get_model_object("norm.eps") == 0.25
    assert patcher.get_model_object("norm.eps") == 1e-5
    clone.patch_model(DEVICE)
    assert clone.model.norm.eps == 0.25
    assert patcher.get_model_object("norm.eps") == 1e-5
    clone.detach()
    assert clone.model.norm.eps == 1e-5


def test_a_module_that_is_patched_in_is_moved_along(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.patch_model(DEVICE)
    other = torch.nn.LayerNorm(WIDTH)
    clone = patcher.clone()
    clone.add_object_patch("norm", other)
    patcher.detach(unpatch_all=False)
    clone.partially_load(DEVICE, 1 << 40)
    assert other.weight.device == DEVICE
    run(clone.model)
    clone.detach()
    assert other.weight.device == CPU
    assert simgpu.allocated_bytes == 0


def test_a_compute_dtype_lets_every_layer_cast(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.set_model_compute_dtype(torch.float64)
    patcher.patch_model(DEVICE)
    with torch.inference_mode():
        out = patcher.model(torch.ones(1, WIDTH, dtype=torch.float64).to(DEVICE))
    assert out.dtype == torch.float64
    patcher.detach()
    assert not patcher.model.embed.comfy_cast_weights


def test_hooked_patches_come_and_go_with_their_group(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    hook = SimpleNamespace(hook_ref="one", strength=0.5)
    assert patcher.add_hook_patches(hook, {KEY: (_diff(),)}) == [KEY]
    group = SimpleNamespace(hooks=[hook])
    patcher.patch_model(DEVICE)
    _assert_unchanged(patcher, checkpoint)
    patcher.apply_hooks(group)
    assert torch.allclose(_weights(patcher)[KEY], checkpoint.values[KEY] + 0.5 * _diff(), atol=1e-7)
    patcher.cleanup()
    _assert_unchanged(patcher, checkpoint)
    assert patcher.current_hooks is None


def test_a_run_whose_weights_cannot_be_read_again_ends_all_the_same(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    hook = SimpleNamespace(hook_ref="one", strength=0.5)
    patcher.add_hook_patches(hook, {KEY: (_diff(),)})
    patcher.patch_model(DEVICE)
    patcher.pre_run()
    patcher.apply_hooks(SimpleNamespace(hooks=[hook]))
    simgpu.fail_upload(1)
    with pytest.raises(DeviceCopyFailed):
        patcher.cleanup()
    assert patcher.model.current_patcher is None
    assert simgpu.allocated_bytes == 0


def test_callbacks_are_called_with_the_patcher(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher, called = checkpoint.patcher(), []
    kinds = [
        value
        for name, value in vars(CallbacksMP).items()
        if name.startswith("ON_") and "HOOK" not in name
    ]
    for kind in kinds:
        patcher.add_callback(kind, lambda *args, kind=kind: called.append((kind, args[0])))
    patcher.set_injections("pack", [PatcherInjection(lambda p: None, lambda p: None)])
    patcher.clone()
    patcher.patch_model(DEVICE)
    patcher.pre_run()
    assert patcher.model.current_patcher is patcher
    patcher.prepare_state(torch.ones(1))
    patcher.cleanup()
    assert patcher.model.current_patcher is None
    patcher.detach()
    assert {kind for kind, _ in called} == set(kinds)
    assert all(one is patcher for _, one in called)


def test_injections_are_made_once_and_taken_back_in_reverse(checkpoint: Checkpoint) -> None:
    patcher, done = checkpoint.patcher(), []
    for name in ("a", "b"):
        inject = PatcherInjection(
            lambda p, name=name: done.append(name), lambda p, name=name: done.append(f"-{name}")
        )
        patcher.set_injections(name, [inject])
    patcher.inject_model()
    patcher.inject_model()
    with patcher.use_ejected():
        assert not patcher.is_injected
    with patcher.use_ejected(skip_and_inject_on_exit_only=True):
        patcher.inject_model()
        assert not patcher.is_injected
    patcher.eject_model()
    once, back = ["a", "b"], ["-b", "-a"]
    assert done == [*once, *back, *once, *back, *once, *back]


def test_additional_models_are_cloned_along_and_found_at_every_depth(
    checkpoint: Checkpoint,
) -> None:
    outer, middle, inner = (checkpoint.patcher() for _ in range(3))
    middle.set_additional_models("m", [inner])
    outer.set_additional_models("o", [middle])
    assert outer.get_nested_additional_models() == [middle, inner]
    copied = outer.clone().get_additional_models()[0]
    assert copied is not middle
    assert copied.model is middle.model
