"""Hints for each latent, strengths, chains; control nets of every kind out of state dicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

import comfy.controlnet
from comfy.controls import ControlBase, StrengthType, broadcast_image_to
from comfy.file_kinds import UndetectedModel
from comfy.loading import FileTensor, Loader, LoadOptions
from comfy.loading.plan import LoadRequest
from support import layouts, narrow_control
from support.networks import with_random_weights

SIGMA = torch.tensor([1.0, 1.0])


@pytest.mark.parametrize(
    ("hints", "latents", "prompts", "wanted"),
    [
        (1, 6, 2, [0]),
        (2, 4, 2, [0, 1, 0, 1]),
        (3, 4, 2, [0, 1, 0, 1]),
        (2, 3, 1, [0, 1, 0]),
        (2, 6, 2, [0, 1, 0, 0, 1, 0]),
    ],
)
def test_hints_follow_the_latents_of_each_prompt(
    hints: int, latents: int, prompts: int, wanted: list[int]
) -> None:
    numbered = torch.arange(hints).float().view(-1, 1, 1, 1)
    assert broadcast_image_to(numbered, latents, prompts).flatten().tolist() == wanted


class Constant(ControlBase):
    """Residuals of one value."""

    def __init__(self, value: float, count: int = 3) -> None:
        super().__init__()
        self.value = value
        self.count = count

    def residuals(self, x_noisy: torch.Tensor, *args: Any) -> Any:
        each = torch.full_like(x_noisy, self.value)
        return {"middle": [each], "output": [each, None, each][: self.count]}


def merged(net: ControlBase) -> Any:
    found = net.get_control(torch.zeros(2, 1, 2, 2), SIGMA, {}, 1, {})
    if found is None:
        return None
    return {
        name: [None if one is None else float(one[0, 0, 0, 0]) for one in each]
        for name, each in found.items()
    }


def test_strength_multiplies_all_residuals_or_rises_to_the_last() -> None:
    net = Constant(8.0)
    net.strength = 0.5
    assert merged(net) == {"input": [], "middle": [4.0], "output": [4.0, None, 4.0]}
    net.strength_type = StrengthType.LINEAR_UP
    assert merged(net) == {"input": [], "middle": [4.0], "output": [1.0, None, 4.0]}


def test_chain_adds_up_what_is_awake() -> None:
    first, second = Constant(1.0), Constant(10.0, count=1)
    chain = second.set_previous_controlnet(first)
    assert merged(chain) == {"input": [], "middle": [11.0], "output": [11.0, None, 1.0]}
    second.timestep_range = (0.5, 0.0)
    assert merged(chain) == {"input": [], "middle": [1.0], "output": [1.0, None, 1.0]}
    first.timestep_range = (9.0, 2.0)
    assert merged(chain) is None


def test_merging_leaves_the_residuals_as_they_are() -> None:
    net = Constant(0.0)
    net.strength = 0.5
    given = torch.ones(1, 1, 2, 2)
    result = net.control_merge({"output": [given]}, {"output": [given]}, torch.float64)
    assert result["output"][0].unique().tolist() == [1.5]
    assert given.unique().tolist() == [1.0]


def test_residuals_keep_their_dtype_unless_another_is_wanted() -> None:
    given = torch.ones(1, 1, 2, 2, dtype=torch.float16)
    kept = ControlBase().control_merge({"output": [given]}, None, None)["output"][0]
    assert (kept.dtype, kept is given) == (torch.float16, True)
    other = ControlBase().control_merge({"output": [given]}, None, torch.float32)["output"][0]
    assert other.dtype == torch.float32


def test_copy_has_the_network_and_settings_of_its_own(tmp_path: Path) -> None:
    net = comfy.controlnet.load_controlnet_state_dict(_published(tmp_path))
    assert isinstance(net, comfy.controlnet.ControlNet)
    net.set_cond_hint(torch.rand(1, 3, 8, 8), 0.3, (0.1, 0.6))
    net.set_extra_arg("anything", 1)
    net.copy().set_extra_arg("other", 2)
    other = net.copy()
    assert other.control_model_wrapped is net.control_model_wrapped
    assert other.get_models() == net.get_models() == [net.control_model_wrapped]
    assert (other.strength, other.timestep_percent_range) == (0.3, (0.1, 0.6))
    assert net.extra_args == other.extra_args == {"anything": 1}


def _published(folder: Path) -> dict[str, torch.Tensor]:
    """The published file with weights of zero bytes on disk, as slices of it."""
    specs = layouts.layout("controlnet_sd15_canny_fp16").tensors.values()
    path = layouts.write_sparse(folder / "canny.safetensors", specs)
    loader = Loader(LoadOptions(strategy="file-slice"))
    return dict(loader.open(LoadRequest(path=str(path), device=None)).state_dict)


def test_published_file_loads_whole_and_unread(tmp_path: Path) -> None:
    net = comfy.controlnet.load_controlnet_state_dict(_published(tmp_path))
    assert isinstance(net, comfy.controlnet.ControlNet)
    weights = list(net.control_model.parameters())
    assert len(weights) == 340
    assert all(isinstance(one, FileTensor) and one.is_in_file for one in weights)


def _adapter(kind: str, fold: int) -> Any:
    theirs = with_random_weights(
        diffusers.T2IAdapter(
            channels=[8, 16, 24, 24], num_res_blocks=2, adapter_type=kind, downscale_factor=fold
        )
    )
    net = comfy.controlnet.load_controlnet_state_dict(theirs.state_dict())
    assert isinstance(net, comfy.controlnet.T2IAdapter)
    return net, theirs


@torch.inference_mode()
def test_adapter_sees_the_resized_hint_once_and_serves_every_step() -> None:
    net, theirs = _adapter("full_adapter", 8)
    hint = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    net.set_cond_hint(hint, 0.5)
    calls: list[int] = []
    net.t2i_model.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        found = net.get_control(torch.zeros(4, 4, 8, 8), SIGMA, {}, 2, {})
    assert len(calls) == 1
    present = [one for one in found["input"][::-1] if one is not None]
    for got, wanted in zip(present, theirs(hint), strict=True):
        torch.testing.assert_close(got, torch.cat([wanted, wanted]) * 0.5, rtol=1e-4, atol=1e-5)
    net.cleanup()
    assert net.control_input is None


@pytest.mark.parametrize(
    ("kind", "fold", "wanted"),
    [
        ("full_adapter", 8, {(9, 11), (5, 6), (3, 3), (2, 2)}),
        ("full_adapter_xl", 16, {(5, 6), (3, 3)}),
    ],
)
@torch.inference_mode()
def test_features_of_odd_sizes_are_those_of_a_unet_that_rounds_up(
    kind: str, fold: int, wanted: set[tuple[int, int]]
) -> None:
    net, _ = _adapter(kind, fold)
    net.set_cond_hint(torch.rand(1, 3, 72, 72))
    found = net.get_control(torch.zeros(1, 4, 9, 11), SIGMA[:1], {}, 1, {})
    sizes = {tuple(one.shape[2:]) for one in found["input"] if one is not None}
    assert sizes == wanted


def test_hint_is_resized_once_for_each_size_and_cut_around_its_centre() -> None:
    net = ControlBase()
    picture = torch.zeros(1, 3, 32, 64)
    picture[..., 16:48] = 1.0
    net.set_cond_hint(picture)
    first = net.resized_hint(torch.zeros(2, 4, 4, 4))
    assert (first.shape, float(first.min())) == ((1, 3, 32, 32), 1.0)
    assert net.resized_hint(torch.zeros(2, 4, 4, 4)) is first
    assert net.resized_hint(torch.zeros(2, 4, 2, 6)).shape == (1, 3, 16, 48)
    net.hint_multiple = 64
    assert net.resized_hint(torch.zeros(2, 4, 9, 4)).shape == (1, 3, 128, 64)


def test_missing_picture_is_told() -> None:
    with pytest.raises(ValueError, match="was given no picture"):
        ControlBase().resized_hint(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("key", ["input_hint_block.0.weight", "input_blocks.0.0.weight"])
def test_file_with_a_tensor_of_an_impossible_shape_is_damaged(key: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({**narrow_control.control_state(), key: torch.zeros(())}, path)
    with pytest.raises(UndetectedModel, match=r"odd\.safetensors: a ControlNet is damaged"):
        comfy.controlnet.load_controlnet(str(path))
