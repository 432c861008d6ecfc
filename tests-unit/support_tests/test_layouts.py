"""Layouts of published files: complete, and writable without taking disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import safetensors
import torch

from support import layouts


@pytest.mark.parametrize(
    ("name", "tensors", "nbytes"),
    [
        ("sd15_checkpoint_fp16", 1131, 2_132_471_230),
        ("sdxl_base_checkpoint_fp16", 2515, 6_937_676_352),
        ("flux1_dev_fp8_checkpoint", 1440, 17_246_298_316),
        ("taesd_decoder", 67, 4_890_124),
    ],
)
def test_layout_has_the_published_size(name: str, tensors: int, nbytes: int) -> None:
    specs = layouts.layout(name).tensors.values()
    assert (len(specs), sum(spec.nbytes for spec in specs)) == (tensors, nbytes)


def test_meta_state_dict_has_shapes_and_dtypes() -> None:
    weight = layouts.layout("taesd_decoder").state_dict()["1.weight"]
    assert (weight.shape, weight.dtype, weight.device.type) == (
        (64, 4, 3, 3),
        torch.float32,
        "meta",
    )


def test_sparse_file_has_the_true_size_and_takes_no_disk(tmp_path: Path) -> None:
    specs = layouts.layout("sdxl_base_checkpoint_fp16").tensors.values()
    key = "model.diffusion_model.input_blocks.0.0.bias"
    path = layouts.write_sparse(tmp_path / "x.safetensors", specs, values={key: torch.ones(320)})
    status = os.stat(path)
    assert status.st_size > 6_937_676_352
    assert status.st_blocks * 512 < 4 * 1024**2
    with safetensors.safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor(key), torch.ones(320, dtype=torch.float16))


def test_weights_are_scaled_so_that_networks_stay_finite(tmp_path: Path) -> None:
    specs = list(layouts.layout("taesd_decoder").tensors.values())
    path = layouts.write_weights(tmp_path / "x.safetensors", specs)
    with safetensors.safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("1.bias"), torch.zeros(64))
        weight = file.get_tensor("3.conv.0.weight")
    assert weight.std().item() == pytest.approx((64 * 9) ** -0.5, rel=0.05)
