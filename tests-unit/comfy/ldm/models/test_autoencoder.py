"""The autoencoder computes what diffusers' computes, knows all published keys, holds little."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

import comfy.ops
from comfy.ldm.models.autoencoder import (
    AutoencoderKL,
    ddconfig_from_state_dict,
    embed_dim_from_state_dict,
)
from comfy.ldm.models.diffusers_names import ENTRY, autoencoder_from_diffusers
from comfy.ldm.modules.diffusionmodules.model import Encoder
from support import layouts
from support.live_bytes import LiveBytes
from support.networks import (
    called_in_order,
    gradient_difference,
    relative_difference,
    with_random_weights,
)

SMALL: dict[str, Any] = {
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "in_channels": 3,
    "out_ch": 3,
    "z_channels": 4,
    "double_z": True,
    "attn_resolutions": [],
    "resolution": 256,
    "dropout": 0.0,
}


def reference(**kwargs: Any) -> diffusers.AutoencoderKL:
    widths = kwargs.pop("block_out_channels", (32, 64, 128))
    network = diffusers.AutoencoderKL(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        layers_per_block=kwargs.pop("layers_per_block", 2),
        **kwargs,
    )
    return with_random_weights(network)


def from_weights(sd: dict[str, torch.Tensor], **kwargs: Any) -> AutoencoderKL:
    """Built from the shapes alone, then filled; a key too few or too many is an error."""
    embed_dim, ddconfig = embed_dim_from_state_dict(sd), ddconfig_from_state_dict(sd)
    network = AutoencoderKL(embed_dim, ddconfig, device="meta", **kwargs).eval()
    network.load_state_dict(sd, assign=True)
    return network


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


KINDS: dict[str, dict[str, Any]] = {
    "stable-diffusion": {},
    "narrow": {"block_out_channels": (32, 32), "layers_per_block": 1},
    "flux": {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(16, 24), (8, 32)])
def test_it_encodes_and_decodes_as_diffusers_does(kind: str, size: tuple[int, int]) -> None:
    theirs = reference(**KINDS[kind])
    ours = from_weights(autoencoder_from_diffusers(theirs.state_dict()))
    x = picture(*size)
    before = x.clone()
    with torch.no_grad():
        wanted = theirs.encode(x).latent_dist
        z = ours.encode(x)
        assert relative_difference(z, wanted.mean) <= 1e-4
        assert relative_difference(ours.posterior(x).std, wanted.std) <= 1e-4
        assert relative_difference(ours.decode(z), theirs.decode(z).sample) <= 1e-4
        assert torch.equal(ours(x), ours.decode(z))
    assert torch.equal(x, before)


def test_it_learns_what_diffusers_learns() -> None:
    theirs = reference(block_out_channels=(64, 64), layers_per_block=1)
    sd = autoencoder_from_diffusers({key: p.detach().clone() for key, p in theirs.named_parameters()})
    ours = from_weights(sd).requires_grad_()
    x = picture(16, 16)
    (ours(x).square().mean() + 1e-3 * ours.posterior(x).kl().sum()).backward()
    posterior = theirs.encode(x).latent_dist
    loss = theirs.decode(posterior.mean).sample.square().mean() + 1e-3 * posterior.kl().sum()
    loss.backward()
    gradients = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    assert gradient_difference(ours, autoencoder_from_diffusers(gradients)) <= 1e-3


FILES = {
    "vae_ft_mse_840000_fp32": "",
    "sd15_checkpoint_fp16": "first_stage_model.",
    "sd21_v_checkpoint_fp16": "first_stage_model.",
    "sdxl_base_checkpoint_fp16": "first_stage_model.",
    "sdxl_refiner_checkpoint_fp16": "first_stage_model.",
}


@pytest.mark.parametrize("name", FILES)
def test_all_keys_and_shapes_of_published_files_are_known(name: str) -> None:
    prefix = FILES[name]
    tensors = layouts.layout(name).state_dict()
    sd = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    assert len(sd) == 248
    network = from_weights(sd)
    assert network.state_dict().keys() == sd.keys()
    assert network.embed_dim == 4
    found = {**SMALL, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    assert ddconfig_from_state_dict(sd) == found


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ch_mult": [1, 2, 3, 4], "num_res_blocks": 3},
        {"z_channels": 16, "in_channels": 4, "out_ch": 1},
        {"double_z": False},
    ],
)
@pytest.mark.parametrize("embed_dim", [None, 8])
def test_the_configuration_is_read_off_the_shapes(
    change: dict[str, Any], embed_dim: int | None
) -> None:
    config = {**SMALL, **change}
    sd = AutoencoderKL(embed_dim, config, device="meta").state_dict()
    assert ddconfig_from_state_dict(sd) == config
    assert embed_dim_from_state_dict(sd) == embed_dim


def test_attention_outside_of_the_middle_is_refused() -> None:
    with pytest.raises(ValueError, match=r"resolutions \[16\]"):
        AutoencoderKL(4, {**SMALL, "attn_resolutions": [16]}, device="meta")


def test_the_encoder_calls_its_layers_in_the_order_in_which_they_are_listed() -> None:
    encoder = with_random_weights(Encoder(**SMALL))
    listed = [name for name, layer in encoder.named_modules() if hasattr(layer, "weight")]
    assert called_in_order(encoder, picture(8, 8)) == listed


def test_it_computes_in_the_dtype_of_its_input() -> None:
    network = AutoencoderKL(4, SMALL, dtype=torch.float16, operations=comfy.ops.manual_cast)
    with_random_weights(network)
    with torch.no_grad():
        wanted = network(picture(8, 8))
        got = network(picture(8, 8).bfloat16())
    assert wanted.dtype == torch.float32
    assert got.dtype == torch.bfloat16
    assert relative_difference(got.float(), wanted) < 0.1


def test_memory_is_three_feature_maps_of_the_widest_resnet_at_full_size() -> None:
    network = with_random_weights(AutoencoderKL(4, {**SMALL, "ch_mult": [1, 2, 2, 2]}))
    size = 128
    map_bytes = 32 * size * size * 4  # of the base width, at full size
    x, z = torch.zeros(1, 3, size, size), torch.zeros(1, 4, size // 8, size // 8)
    with torch.no_grad(), LiveBytes() as decoding:
        network.decode(z)
    # Its input and its norm are twice as wide, its first convolution's output is not.
    assert decoding.peak_bytes <= 5.1 * map_bytes
    with torch.no_grad(), LiveBytes() as encoding:
        network.encode(x)
    assert encoding.peak_bytes <= 3.1 * map_bytes


def test_renaming_changes_names_only() -> None:
    sd = reference().state_dict()
    assert ENTRY in sd
    renamed = autoencoder_from_diffusers(sd)
    assert ENTRY not in renamed
    assert len(renamed) == len(sd)
    places = {tensor.data_ptr() for tensor in sd.values()}
    assert {tensor.data_ptr() for tensor in renamed.values()} == places
    assert renamed["decoder.mid.attn_1.q.weight"].shape == (128, 128, 1, 1)
    # The first of diffusers' decoder stands next to the latent, the last of ours does.
    assert renamed["decoder.up.2.block.0.norm1.weight"] is sd[ENTRY]


@pytest.mark.parametrize(
    ("old", "new"),
    [("query", "q"), ("key", "k"), ("value", "v"), ("proj_attn", "proj_out")],
)
def test_older_names_of_attention_are_known(old: str, new: str) -> None:
    key = f"encoder.mid_block.attentions.0.{old}.bias"
    assert list(autoencoder_from_diffusers({key: torch.zeros(2)})) == [f"encoder.mid.attn_1.{new}.bias"]
