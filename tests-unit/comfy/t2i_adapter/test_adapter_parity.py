"""T2I-Adapters compute what diffusers' compute with the same weights."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

import comfy.ops
from comfy.t2i_adapter import adapter
from support.networks import relative_difference, with_random_weights

KINDS: dict[str, dict[str, Any]] = {
    "full": {"adapter_type": "full_adapter", "downscale_factor": 8},
    "full-one-channel": {"adapter_type": "full_adapter", "in_channels": 1},
    "xl": {"adapter_type": "full_adapter_xl", "downscale_factor": 16},
    "light": {"adapter_type": "light_adapter", "num_res_blocks": 3},
}


def pair(kind: str) -> tuple[adapter.Adapter, Any, adapter.AdapterFile]:
    """Ours and theirs, with the same tensors as weights."""
    # Theirs repeats the last width of a light one.
    widths = [16, 32, 48] if kind == "light" else [16, 32, 48, 48]
    theirs = with_random_weights(
        diffusers.T2IAdapter(channels=widths, **{"num_res_blocks": 2, **KINDS[kind]})
    )
    found = adapter.recognise(theirs.state_dict())
    assert found is not None
    ours = found.build(dtype=None, device="meta", operations=comfy.ops.disable_weight_init)
    ours.load_state_dict(found.state, assign=True)
    return ours.eval(), theirs, found


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_its_features_are_those_of_diffusers(kind: str) -> None:
    ours, theirs, found = pair(kind)
    assert found.is_xl is (kind == "xl")
    assert found.channels_in == KINDS[kind].get("in_channels", 3)
    picture = torch.rand(2, found.channels_in, 64, 96, generator=torch.Generator().manual_seed(1))
    for got, wanted in zip(ours.features(picture), theirs(picture), strict=True):
        assert relative_difference(got, wanted) <= 1e-4


@torch.inference_mode()
def test_features_stand_where_the_unet_has_their_width() -> None:
    ours, _, _ = pair("full")
    residuals = ours(torch.rand(1, 3, 64, 64))
    given = {n: one.shape[1:] for n, one in enumerate(residuals["input"][::-1]) if one is not None}
    assert given == {2: (16, 8, 8), 5: (32, 4, 4), 8: (48, 2, 2), 11: (48, 1, 1)}
    assert residuals["middle"] == []


@torch.inference_mode()
def test_last_features_of_a_large_one_belong_into_the_middle() -> None:
    ours, _, _ = pair("xl")
    residuals = ours(torch.rand(1, 3, 128, 128))
    given = {n: one.shape[1:] for n, one in enumerate(residuals["input"][::-1]) if one is not None}
    assert given == {3: (16, 8, 8), 5: (32, 8, 8), 8: (48, 4, 4)}
    assert [tuple(one.shape[1:]) for one in residuals["middle"]] == [(48, 4, 4)]


def test_what_is_no_adapter_is_not_taken_for_one() -> None:
    assert adapter.recognise({"conv_in.weight": torch.empty(4, 4, 3, 3)}) is None
