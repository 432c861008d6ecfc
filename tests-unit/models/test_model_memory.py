"""What a checkpoint of full size costs from file to picture, with and without LoRAs.

The simulated device's tensors live in the process's memory, as on unified hardware: two copies of
a weight are two in these figures, wherever they are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import comfy.model_management
import comfy.sd
import comfy.utils
from support.cold import evict
from support.layouts import write_weights
from support.memory_cap import Measured
from support.raw_files import dtype_of
from support.simulated_memory import host_alias
from support.whole_checkpoint import (
    MIB,
    PROMPTS,
    SIDE,
    STAGING_BYTES,
    Models,
    checkpoint_specs,
    differing,
    extents,
    keep,
    linear_layers,
    lora_specs,
    picture,
    run_on,
)

SLACK_BYTES = 64 * MIB
LORAS = 6

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    folder = tmp_path_factory.mktemp("loras")
    paths = [folder / f"{seed}.safetensors" for seed in range(LORAS)]
    for seed, path in enumerate(paths):
        write_weights(path, lora_specs(), seed=seed + 1)
    yield paths
    for path in paths:
        path.unlink()


# -- what is measured; each runs in a process of its own -------------------------------------------


def forward_passes_only(path: str) -> int:
    """Compute with weights that were put on the device by hand; gives their bytes."""
    device = run_on()
    weights = {
        spec.name: torch.empty(spec.shape, dtype=dtype_of(spec.encoding), device=device.device)
        for spec in checkpoint_specs()
    }
    with open(path, "rb", buffering=0) as file:
        for name, (begin, end) in extents(path).items():
            memory = memoryview(host_alias(weights[name]).reshape(-1).view(torch.uint8).numpy())
            while begin < end:
                begin += os.preadv(file.fileno(), [memory[begin - end :]], begin)
    nbytes = device.allocated_bytes
    loaded = comfy.sd.load_state_dict_guess_config(weights)
    assert loaded is not None
    model, clip, vae, _ = loaded
    with torch.inference_mode():
        clip.cond_stage_model.set_clip_options({"execution_device": device.device})
        context, _ = clip.cond_stage_model.encode_token_weights(clip.tokenize(PROMPTS[0]))
        latent = torch.randn(2, 4, SIDE, SIDE).to(device.device)
        both = context.to(device.device).repeat(2, 1, 1)
        sigma = torch.full((2,), 5.0).to(device.device)
        denoised = model.model.apply_model(latent, sigma, c_crossattn=both)
        vae.first_stage_model.decode(denoised[:1].to(vae.vae_dtype))
    keep(model, clip, vae)
    return nbytes


def draw_with_loras_and_take_them_off(path: str, loras: Sequence[str]) -> dict[str, Any]:
    """Make a picture with LoRAs, then load the models without them."""
    run_on()
    models = Models.of(path)
    model, clip = models.model, models.clip
    for lora in loras:
        state = comfy.utils.load_torch_file(lora)
        model, clip = comfy.sd.load_lora_for_models(model, clip, state, 1.0, 1.0)
    with_loras = Models(model, clip, models.vae)
    picture(with_loras)
    patched = differing(models, path)
    comfy.model_management.load_models_gpu(models.patchers())
    keep(models, with_loras)
    return {"patched": patched, "left": differing(models, path)}


def move_whole_and_keep_backups(path: str, patched: Sequence[str]) -> int:
    """What is common: a mapped state dict, the whole module moved, copies of patched weights."""
    device = run_on()
    state = load_file(path)
    module = torch.nn.Module()
    for name, tensor in state.items():
        module.register_buffer(name.replace(".", "/"), tensor)
    module.to(device.device)
    keep(state, module, {name: state[name].clone() for name in patched})
    return device.allocated_bytes


# -- measured ----------------------------------------------------------------------------------------


def check_bound(found: Measured, bound: int) -> None:
    """Compare the process's memory, and where there is one, that of its control group.

    The group's figure is the kernel's own peak of all that is charged to it: the process's private
    memory, the weight file's pages in the page cache, page tables. Both baselines are taken after a
    first picture from a small checkpoint, so that library pages which this group is the first to
    touch, and which are then charged to it alone, are not taken for weights.
    """
    assert found.peak_over_baseline_bytes <= bound
    if found.group_peak_over_baseline_bytes is not None:
        assert found.group_peak_over_baseline_bytes <= bound


@pytest.fixture(scope="module")
def activations(checkpoint: Path, measure: Any) -> int:
    """What the forward passes take beside weights that are at home, casts of layers included."""
    found = measure(forward_passes_only, checkpoint)
    size = found.peak_over_baseline_bytes - int(found.result)
    assert 0 < size < 1024 * MIB
    return size


def weight_bytes() -> int:
    return sum(spec.nbytes for spec in checkpoint_specs())


def test_from_file_to_picture_each_weight_is_held_once(whole: Measured, activations: int) -> None:
    assert all(math.isfinite(value) for value in whole.result["picture"])
    assert whole.result["peak"] >= weight_bytes()
    check_bound(whole, weight_bytes() + STAGING_BYTES + activations + SLACK_BYTES)


def test_unloading_leaves_nothing_and_loading_again_brings_the_same_bytes(whole: Measured) -> None:
    assert whole.result["left_on_device"] == 0
    assert whole.result["left"] <= SLACK_BYTES
    assert whole.result["at_home"] >= 0.999 * weight_bytes()
    assert whole.result["cached"] < 0.01 * weight_bytes()
    assert whole.result["wrong"] == []


def test_loras_cost_their_files_at_most_and_leave_no_trace(
    checkpoint: Path, activations: int, loras: list[Path], measure: Any
) -> None:
    for lora in loras:
        evict(lora)
    found = measure(
        draw_with_loras_and_take_them_off, checkpoint, loras=[str(lora) for lora in loras]
    )
    assert {layer.name for layer in linear_layers()} <= set(found.result["patched"])
    assert found.result["left"] == []
    # Patches are added up in four bytes, and rounded from there.
    cast = max(6 * layer.nbytes // 2 for layer in linear_layers())
    files = sum(lora.stat().st_size for lora in loras)
    check_bound(found, weight_bytes() + STAGING_BYTES + cast + activations + files + SLACK_BYTES)


def test_measuring_sees_what_a_moved_module_and_backups_cost(
    checkpoint: Path, measure: Any
) -> None:
    patched = linear_layers()
    found = measure(
        move_whole_and_keep_backups, checkpoint, patched=[layer.name for layer in patched]
    )
    backups = sum(layer.nbytes for layer in patched)
    least = 1.95 * weight_bytes() + backups
    assert found.peak_over_baseline_bytes >= least
    if found.group_peak_over_baseline_bytes is not None:
        assert found.group_peak_over_baseline_bytes >= least
