"""LoRA extraction: what is saved, loaded as a LoRA, is the difference it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.sd
import comfy.utils
from comfy_extras.nodes_lora_extract import LoraSave, low_rank
from comfy_extras.nodes_model_merging import CLIPMergeSubtract, ModelMergeSubtract
from support import narrow

RANK = 4
NETWORK, TEXT = "model.diffusion_model.", "cond_stage_model.transformer."


def change_of(key: str, weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Of low rank for a matrix, anything else for a vector; nothing for a table of tokens."""
    if key.startswith("first_stage_model.") or "embedding" in key:
        return torch.zeros_like(weight)
    if weight.dim() < 2:
        return 0.1 * torch.randn(weight.shape, generator=generator)
    rows, columns = weight.shape[0], weight.shape[1:].numel()
    up = torch.randn(rows, RANK, generator=generator)
    down = torch.randn(RANK, columns, generator=generator)
    return (0.02 * up @ down).reshape(weight.shape)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and one that differs by low ranks."""
    folder = tmp_path_factory.mktemp("pair")
    first = narrow.write_checkpoint(folder / "first.safetensors", "SD15", "F32")
    generator = torch.Generator().manual_seed(7)
    tuned = {
        key: weight + change_of(key, weight, generator) for key, weight in load_file(first).items()
    }
    save_file(tuned, folder / "tuned.safetensors")
    return first, folder / "tuned.safetensors"


def extracted(pair: tuple[Path, Path], output: Path, **arguments: Any) -> Path:
    """Save the difference of the second from the first."""
    (model, clip, _), (tuned, tuned_clip, _) = (
        comfy.sd.load_checkpoint_guess_config(str(path))[:3] for path in pair
    )
    (model_diff,) = ModelMergeSubtract().merge(tuned, model, 1.0)
    (clip_diff,) = CLIPMergeSubtract().merge(tuned_clip, clip, 1.0)
    LoraSave.execute("loras/l", model_diff=model_diff, text_encoder_diff=clip_diff, **arguments)
    return output / "loras" / "l_00001_.safetensors"


def applied(first: Path, lora: Path, output: Path) -> dict[str, torch.Tensor]:
    """The first checkpoint with a LoRA, saved."""
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(first))
    patched, patched_clip = comfy.sd.load_lora_for_models(
        model, clip, comfy.utils.load_torch_file(str(lora)), 1.0, 1.0
    )
    assert patched is not None
    comfy.sd.save_checkpoint(output / "again.safetensors", patched, patched_clip, vae)
    return load_file(output / "again.safetensors")


@pytest.mark.parametrize("lora_type", ["standard", "full_diff"])
def test_difference_of_low_rank_is_recovered(
    pair: tuple[Path, Path], output: Path, lora_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    lora = extracted(pair, output, rank=RANK, lora_type=lora_type, bias_diff=True)
    got, wanted = applied(pair[0], lora, output), load_file(pair[1])
    assert "not used" not in caplog.text
    first = load_file(pair[0])
    for key in wanted:
        change = (wanted[key] - first[key]).abs().max().item()
        # The file has half precision.
        assert torch.allclose(got[key], wanted[key], atol=2e-3 * change + 1e-7, rtol=1e-6), key


def test_weights_of_one_axis_are_left_out_on_demand(pair: tuple[Path, Path], output: Path) -> None:
    lora = extracted(pair, output, rank=RANK, lora_type="standard", bias_diff=False)
    assert {key.rpartition(".lora_")[2] for key in load_file(lora)} == {"up.weight", "down.weight"}


def test_file_has_no_metadata_and_half_precision(pair: tuple[Path, Path], output: Path) -> None:
    lora = extracted(pair, output, rank=2, lora_type="standard", bias_diff=True)
    tensors = load_file(lora)
    assert {one.dtype for one in tensors.values()} == {torch.float16}
    name = "diffusion_model.input_blocks.0.0"
    assert tensors[f"{name}.lora_up.weight"].shape == (32, 2, 1, 1)
    assert tensors[f"{name}.lora_down.weight"].shape == (2, 4, 3, 3)
    assert f"{name}.diff_b" in tensors
    assert any(key.startswith("text_encoders.clip_l.transformer.") for key in tensors)
    assert comfy.utils.load_torch_file(str(lora), return_metadata=True)[1] is None


def test_without_a_model_nothing_is_saved_and_that_is_told(
    output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert LoraSave.execute("l", 8, "standard", True).args == ()
    assert "connect model_diff" in caplog.text
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (30, 30), (3, 5000)])
def test_approximation_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    rank = min(shape) // 2
    up, down = low_rank(matrix, rank)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    nearest = left[:, :rank] * values[:rank] @ right[:rank]
    assert torch.allclose((up @ down).double(), nearest, atol=1e-4)
    sizes = torch.linalg.vector_norm(up, dim=0), torch.linalg.vector_norm(down, dim=1)
    assert torch.allclose(*sizes, rtol=1e-4)


def test_no_difference_has_factors_of_nothing() -> None:
    up, down = low_rank(torch.zeros(6, 9), 2)
    assert not up.any()
    assert not down.any()
