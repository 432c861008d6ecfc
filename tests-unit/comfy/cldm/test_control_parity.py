"""The ControlNet computes what diffusers' computes with the same weights; published keys fit."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from comfy import control_files
from comfy.cldm.cldm import ControlNet
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from support import layouts
from support.networks import called_in_order, relative_difference, with_random_weights

WORDS, CONTEXT, POOLED, TIME_IDS, TIME_WIDTH = 7, 48, 16, 6, 8
VECTOR = POOLED + TIME_IDS * TIME_WIDTH
HINT_WIDTHS = (8, 12, 16, 24)
HEADS: dict[str, dict[str, Any]] = {
    "sd15": {"num_heads": 8},
    "sd2": {"num_head_channels": 64},
    "sdxl": {"num_head_channels": 64},
}
THEIRS: dict[str, dict[str, Any]] = {
    "sd15": {"block_out_channels": (32, 64, 128, 128), "attention_head_dim": 8},
    "sd2": {
        "block_out_channels": (64, 128, 256, 256),
        "attention_head_dim": (1, 2, 4, 4),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (64, 128, 256),
        "attention_head_dim": (1, 2, 4),
        "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "transformer_layers_per_block": (1, 2, 3),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": VECTOR,
    },
}


def pair(family: str) -> tuple[ControlNet, Any]:
    """Ours and theirs, with the same tensors as weights."""
    theirs = with_random_weights(
        diffusers.ControlNetModel(
            cross_attention_dim=CONTEXT,
            conditioning_embedding_out_channels=HINT_WIDTHS,
            **THEIRS[family],
        )
    )
    found = control_files.recognise(theirs.state_dict())
    assert found is not None
    ours = ControlNet(**found.config, **HEADS[family], device="meta").eval()
    ours.load_state_dict(found.state, assign=True)
    return ours, theirs


def inputs(height: int, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "x": torch.randn(2, 4, height, width, generator=generator),
        "hint": torch.rand(2, 3, 8 * height, 8 * width, generator=generator),
        "t": torch.tensor([3.0, 911.0]),
        "context": torch.randn(2, WORDS, CONTEXT, generator=generator),
        "pooled": torch.randn(2, POOLED, generator=generator),
        "time_ids": torch.randint(0, 1024, (2, TIME_IDS), generator=generator).float(),
    }


def run(ours: ControlNet, given: dict[str, torch.Tensor], **more: Any) -> list[torch.Tensor]:
    y = None
    if ours.label_emb is not None:
        times = timestep_embedding(given["time_ids"].flatten(), TIME_WIDTH)
        y = torch.cat([given["pooled"], times.unflatten(0, (2, TIME_IDS)).flatten(1)], dim=1)
    found = ours(given["x"], given["hint"], given["t"], given["context"], y, **more)
    return [*found["output"], *found["middle"]]


def run_reference(theirs: Any, given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    added = {"text_embeds": given["pooled"], "time_ids": given["time_ids"]}
    found = theirs(
        given["x"],
        given["t"],
        given["context"],
        given["hint"],
        added_cond_kwargs=added,
    )
    return [*found.down_block_res_samples, found.mid_block_res_sample]


@pytest.mark.parametrize("family", THEIRS)
@torch.inference_mode()
def test_its_residuals_are_those_of_diffusers(family: str) -> None:
    ours, theirs = pair(family)
    given = inputs(8, 16)
    for got, wanted in zip(run(ours, given), run_reference(theirs, given), strict=True):
        assert relative_difference(got, wanted) <= 1e-4


@torch.inference_mode()
def test_hint_and_time_count() -> None:
    ours, _ = pair("sd15")
    given = inputs(8, 8)
    before = run(ours, given)
    # The first block, which the hint is added to, is not told the time.
    for changed, first in ({"hint": 1 - given["hint"]}, 0), ({"t": given["t"].flip(0)}, 1):
        after = run(ours, {**given, **changed})
        for one, two in zip(after[first:], before[first:], strict=True):
            assert relative_difference(one, two) > 1e-3


@torch.inference_mode()
def test_layers_are_called_in_the_order_in_which_they_are_listed() -> None:
    ours, _ = pair("sd15")
    given = inputs(8, 8)
    called = called_in_order(ours, given["x"], given["hint"], given["t"], given["context"])
    listed = [name for name, layer in ours.named_modules() if [*layer.parameters(recurse=False)]]
    # A resnet's embedding stands between its convolutions and is listed so.
    assert sorted(called) == sorted(listed)
    blocks = [name.split(".")[0] for name in called]
    assert list(dict.fromkeys(blocks)) == list(dict.fromkeys(n.split(".")[0] for n in listed))


def test_published_file_has_all_keys_and_no_others() -> None:
    specs = layouts.layout("controlnet_sd15_canny_fp16").tensors
    state = {name: torch.empty(spec.shape, device="meta") for name, spec in specs.items()}
    found = control_files.recognise(state)
    assert found is not None
    ours = ControlNet(**found.config, num_heads=8, device="meta")
    shapes = {key: tuple(tensor.shape) for key, tensor in ours.state_dict().items()}
    assert shapes == {key: tuple(tensor.shape) for key, tensor in found.state.items()}
    assert (found.config["hint_channels"], found.is_difference) == (3, False)


# -- unions ----------------------------------------------------------------------------------------

TYPES = 6


def union_pair() -> tuple[ControlNet, Any]:
    """Ours and theirs of a net for several types of hints."""
    width = THEIRS["sdxl"]["block_out_channels"][0]
    theirs = with_random_weights(
        diffusers.ControlNetUnionModel(
            cross_attention_dim=CONTEXT,
            conditioning_embedding_out_channels=HINT_WIDTHS,
            num_control_type=TYPES,
            num_trans_channel=width,
            num_trans_layer=2,
            num_proj_channel=width,
            **THEIRS["sdxl"],
        )
    )
    # As it is, theirs attends along the batch, and pictures of one batch change each other.
    for layer in theirs.transformer_layes:
        layer.attn.batch_first = True
    found = control_files.recognise(theirs.state_dict())
    assert found is not None
    assert found.config["union"] == {"types": TYPES, "type_width": TIME_WIDTH, "depth": 2}
    ours = ControlNet(**found.config, **HEADS["sdxl"], device="meta").eval()
    ours.load_state_dict(found.state, assign=True)
    return ours, theirs


@pytest.mark.parametrize("kind", [0, 4])
@torch.inference_mode()
def test_residuals_of_a_union_are_those_of_diffusers(kind: int) -> None:
    ours, theirs = union_pair()
    given = inputs(8, 8)
    shown = torch.zeros(2, TYPES)
    shown[:, kind] = 1.0
    found = theirs(
        given["x"],
        given["t"],
        given["context"],
        [given["hint"]],
        control_type=shown,
        control_type_idx=[kind],
        added_cond_kwargs={"text_embeds": given["pooled"], "time_ids": given["time_ids"]},
    )
    wanted = [*found.down_block_res_samples, found.mid_block_res_sample]
    for got, each in zip(run(ours, given, control_type=[kind]), wanted, strict=True):
        assert relative_difference(got, each) <= 1e-4


@torch.inference_mode()
def test_type_counts_and_a_union_may_be_told_none_but_not_two() -> None:
    ours, _ = union_pair()
    given = inputs(8, 8)
    made = [run(ours, given, control_type=kind) for kind in ([], [1], [2])]
    for one, other in (0, 1), (1, 2):
        assert relative_difference(made[one][-1], made[other][-1]) > 1e-3
    with pytest.raises(ValueError, match="shown one picture and told 2 types"):
        run(ours, given, control_type=[1, 2])
