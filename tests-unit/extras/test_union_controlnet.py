"""A union ControlNet is told what its hint is, in a graph."""

from __future__ import annotations

import asyncio
from typing import Any

import diffusers
import pytest
import torch

import comfy.controlnet
import comfy.model_management
from comfy_extras import nodes_controlnet
from support.networks import relative_difference, with_random_weights


@pytest.fixture(scope="module")
def net() -> Any:
    width = 64
    theirs = with_random_weights(
        diffusers.ControlNetUnionModel(
            block_out_channels=(width, 2 * width, 2 * width),
            attention_head_dim=(1, 2, 2),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            transformer_layers_per_block=(1, 1, 1),
            cross_attention_dim=48,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64,
            conditioning_embedding_out_channels=(8, 8, 8, 8),
            num_control_type=8,
            num_trans_channel=width,
            num_proj_channel=width,
        )
    )
    return comfy.controlnet.load_controlnet_state_dict(theirs.state_dict())


def told(net: Any, kind: str) -> Any:
    return nodes_controlnet.SetUnionControlNetType.execute(net, kind).result[0]


def residual(net: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 8, 8, generator=generator)
    cond = {
        "c_crossattn": torch.randn(1, 7, 48, generator=generator),
        "y": torch.randn(1, 64, generator=generator),
    }
    net.set_cond_hint(torch.rand(1, 3, 64, 64, generator=generator))
    comfy.model_management.load_models_gpu(net.get_models())
    net.model_sampling_current = _Levels()
    with torch.inference_mode():
        found = net.get_control(x, torch.tensor([1.0]), cond, 1, {})
    return found["middle"][0]


class _Levels:
    """Sigmas are what the network is told, latents are as they are."""

    def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return noise

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        return sigma


def test_each_type_has_its_number_and_auto_has_none(net: Any) -> None:
    numbers = [told(net, kind).extra_args["control_type"] for kind in nodes_controlnet.UNION_TYPES]
    assert numbers == [[number] for number in range(8)]
    assert told(net, "auto").extra_args == {"control_type": []}
    assert net.extra_args == {}


def test_type_changes_what_the_net_adds(net: Any) -> None:
    made = [residual(told(net, kind)) for kind in ("auto", "depth", "tile")]
    assert relative_difference(made[0], made[1]) > 1e-3
    assert relative_difference(made[1], made[2]) > 1e-3
    assert torch.equal(residual(net), made[0])


def test_node_has_the_inputs_of_comfyui() -> None:
    (node,) = asyncio.run(asyncio.run(nodes_controlnet.comfy_entrypoint()).get_node_list())
    schema = node.define_schema()
    assert (schema.node_id, schema.category) == (
        "SetUnionControlNetType",
        "conditioning/controlnet",
    )
    assert [one.id for one in schema.inputs] == ["control_net", "type"]
    assert schema.inputs[1].options == [
        "auto",
        "openpose",
        "depth",
        "hed/pidi/scribble/ted",
        "canny/lineart/anime_lineart/mlsd",
        "normal",
        "segment",
        "tile",
        "repaint",
    ]
