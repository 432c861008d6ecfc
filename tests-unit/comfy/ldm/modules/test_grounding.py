"""Object tokens and gated layers are those of diffusers with the same weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers.models.attention import GatedSelfAttentionDense as TheirLayer
from diffusers.models.embeddings import GLIGENTextBoundingboxProjection

import comfy.ops
from comfy.ldm.modules.grounding import (
    MAX_BOXES,
    FourierEmbedder,
    GatedSelfAttentionDense,
    PositionNet,
)
from support.networks import relative_difference, with_random_weights

TEXT, WIDTH, OBJECTS = 24, 64, 40
BUILT: dict[str, Any] = {
    "operations": comfy.ops.manual_cast,
    "dtype": torch.float32,
    "device": "meta",
}
CORNERS = torch.tensor(
    [[0.0, 0.0, 1.0, 1.0], [0.3, 0.7, 0.4, 0.71], [0.9, -0.2, 1.6, 0.1], [0.5, 0.5, 0.5, 0.5]]
)


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_waves_of_a_number_have_lengths_between_one_and_a_hundredth() -> None:
    found = FourierEmbedder(2)(torch.tensor([0.25, 1.0]))
    wanted = [wave(f * x) for f in (1, 10) for wave in (math.sin, math.cos) for x in (0.25, 1.0)]
    torch.testing.assert_close(found, torch.tensor(wanted))


@pytest.mark.parametrize("boxes", [0, 1, 4, MAX_BOXES])
@torch.inference_mode()
def test_object_tokens_are_those_of_diffusers(boxes: int) -> None:
    theirs = with_random_weights(GLIGENTextBoundingboxProjection(TEXT, OBJECTS))
    ours = PositionNet(TEXT, 64, 512, OBJECTS, BUILT)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    corners = CORNERS.repeat(8, 1)[:boxes]
    texts = random(boxes, TEXT)
    padding = (0, 0, 0, MAX_BOXES - boxes)
    wanted = theirs(
        torch.nn.functional.pad(corners, padding)[None],
        (torch.arange(MAX_BOXES) < boxes).float()[None],
        torch.nn.functional.pad(texts, padding)[None],
    )
    assert relative_difference(ours(corners, texts), wanted[0]) <= 1e-4


def layers(heads: int) -> tuple[GatedSelfAttentionDense, Any]:
    theirs = with_random_weights(TheirLayer(WIDTH, OBJECTS, heads, WIDTH // heads))
    with torch.no_grad():
        for parameter in theirs.parameters():
            # Attention that looks at some tokens more than at others.
            parameter.mul_(3.0)
        theirs.alpha_attn.fill_(0.9)
        theirs.alpha_dense.fill_(-1.3)
    ours = GatedSelfAttentionDense(WIDTH, OBJECTS, WIDTH, 4, BUILT)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return ours, theirs


@pytest.mark.parametrize(
    ("heads", "options"), [(8, {}), (8, {"n_heads": 8}), (2, {"n_heads": 2, "dim_head": 32})]
)
@torch.inference_mode()
def test_gated_layer_is_that_of_diffusers(heads: int, options: dict[str, Any]) -> None:
    ours, theirs = layers(heads)
    x, objects = random(3, 10, WIDTH), random(MAX_BOXES, OBJECTS, seed=2)
    wanted = theirs(x, objects.expand(3, -1, -1)) - x
    assert relative_difference(ours(x, objects, options) - x, wanted) <= 1e-4
    other = ours(x, objects, {"n_heads": 4}) - x
    assert relative_difference(other, wanted) > 1e-2


@torch.inference_mode()
def test_closed_gates_let_the_picture_through_as_it_is() -> None:
    ours, _ = layers(8)
    ours.alpha_attn.zero_()
    ours.alpha_dense.zero_()
    x = random(1, 10, WIDTH)
    assert torch.equal(ours(x, random(MAX_BOXES, OBJECTS), {}), x)


@torch.inference_mode()
def test_weights_in_half_precision_are_computed_in_that_of_the_picture() -> None:
    ours, _ = layers(8)
    x, objects = random(1, 10, WIDTH), random(MAX_BOXES, OBJECTS)
    exact = ours(x, objects, {})
    rounded = ours.half()(x, objects, {})
    assert rounded.dtype == torch.float32
    assert relative_difference(rounded, exact) < 1e-2
