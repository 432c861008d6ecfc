"""Pictures with opacities are laid over each other, taken apart and put together."""

from __future__ import annotations

import itertools

import pytest
import torch

from comfy_extras import nodes_compositing
from comfy_extras.pictures import porter_duff

LEVELS = (0.0, 0.3, 0.5, 1.0)

# Formulas as Porter and Duff's paper and Android's documentation of its modes write them: sa, da
# are opacities, sc, dc colours times opacity.
COLOURS = {
    "ADD": lambda sc, sa, dc, da: min(1.0, sc + dc),
    "CLEAR": lambda sc, sa, dc, da: 0.0,
    "DARKEN": lambda sc, sa, dc, da: (1 - da) * sc + (1 - sa) * dc + min(sc * da, dc * sa),
    "DST": lambda sc, sa, dc, da: dc,
    "DST_ATOP": lambda sc, sa, dc, da: sa * dc + (1 - da) * sc,
    "DST_IN": lambda sc, sa, dc, da: dc * sa,
    "DST_OUT": lambda sc, sa, dc, da: dc * (1 - sa),
    "DST_OVER": lambda sc, sa, dc, da: dc + (1 - da) * sc,
    "LIGHTEN": lambda sc, sa, dc, da: (1 - da) * sc + (1 - sa) * dc + max(sc * da, dc * sa),
    "MULTIPLY": lambda sc, sa, dc, da: sc * dc,
    "OVERLAY": lambda sc, sa, dc, da: (
        (1 - da) * sc
        + (1 - sa) * dc
        + (2 * sc * dc if 2 * dc < da else sa * da - 2 * (da - dc) * (sa - sc))
    ),
    "SCREEN": lambda sc, sa, dc, da: sc + dc - sc * dc,
    "SRC": lambda sc, sa, dc, da: sc,
    "SRC_ATOP": lambda sc, sa, dc, da: da * sc + (1 - sa) * dc,
    "SRC_IN": lambda sc, sa, dc, da: sc * da,
    "SRC_OUT": lambda sc, sa, dc, da: sc * (1 - da),
    "SRC_OVER": lambda sc, sa, dc, da: sc + (1 - sa) * dc,
    "XOR": lambda sc, sa, dc, da: (1 - da) * sc + (1 - sa) * dc,
}
ALPHAS = {
    "ADD": lambda sa, da: min(1.0, sa + da),
    "CLEAR": lambda sa, da: 0.0,
    "DST": lambda sa, da: da,
    "DST_ATOP": lambda sa, da: sa,
    "DST_IN": lambda sa, da: sa * da,
    "DST_OUT": lambda sa, da: (1 - sa) * da,
    "MULTIPLY": lambda sa, da: sa * da,
    "SRC": lambda sa, da: sa,
    "SRC_ATOP": lambda sa, da: da,
    "SRC_IN": lambda sa, da: sa * da,
    "SRC_OUT": lambda sa, da: (1 - da) * sa,
    "XOR": lambda sa, da: sa + da - 2 * sa * da,
}


@pytest.mark.parametrize("mode", porter_duff.MODES)
def test_modes_follow_their_formulas(mode: str) -> None:
    grid = list(itertools.product(LEVELS, repeat=4))
    s, sa, d, da = torch.tensor(grid).T.reshape(4, 1, 1, 1, -1)
    over, under = porter_duff.layer(s, sa), porter_duff.layer(d, da)
    colour, alpha = porter_duff.compose(over, under, mode)
    alpha_of = ALPHAS.get(mode, lambda sa, da: sa + da - sa * da)
    wanted = [(COLOURS[mode](s * sa, sa, d * da, da), alpha_of(sa, da)) for s, sa, d, da in grid]
    assert colour.flatten().tolist() == pytest.approx([one for one, _ in wanted], abs=1e-6)
    assert alpha.flatten().tolist() == pytest.approx([one for _, one in wanted], abs=1e-6)


def test_node_gives_colours_and_a_mask_of_what_is_transparent() -> None:
    red, blue = (torch.tensor(colour).expand(1, 2, 2, 3) for colour in ([1.0, 0, 0], [0, 0, 1.0]))
    half, opaque = torch.full((1, 2, 2), 0.5), torch.zeros(1, 2, 2)
    node = nodes_compositing.PorterDuffImageComposite
    image, mask = node.composite(red, half, blue, opaque, "SRC_OVER").args
    assert image[0, 0, 0].tolist() == pytest.approx([0.5, 0.0, 0.5])
    assert (mask == 0.0).all()
    image, mask = node.composite(red, half, blue, opaque, "SRC_OUT").args
    assert (image == 0.0).all()
    assert (mask == 1.0).all()
    image, mask = node.composite(red, half, blue, opaque, "SRC").args
    assert torch.equal(image, red)
    assert (mask == 0.5).all()


def test_everything_takes_the_size_of_the_destination_and_the_shortest_batch() -> None:
    image, mask = nodes_compositing.PorterDuffImageComposite.execute(
        torch.rand(3, 8, 8, 3), torch.rand(2, 4, 4), torch.rand(4, 5, 6, 3), torch.rand(5, 6), "ADD"
    ).args
    assert (image.shape, mask.shape) == ((1, 5, 6, 3), (1, 5, 6))


def test_alpha_is_taken_off_and_put_on_again() -> None:
    image = torch.rand(2, 4, 5, 4)
    colours, mask = nodes_compositing.SplitImageWithAlpha.split_image_with_alpha(image).args
    assert torch.equal(colours, image[..., :3])
    assert torch.equal(mask, 1.0 - image[..., 3])
    joined = nodes_compositing.JoinImageWithAlpha.join_image_with_alpha(colours, mask)[0]
    assert torch.allclose(joined, image, atol=1e-6)


def test_picture_without_alpha_is_opaque() -> None:
    colours, mask = nodes_compositing.SplitImageWithAlpha.execute(torch.rand(2, 4, 5, 3)).args
    assert (colours.shape, mask.shape, float(mask.max())) == ((2, 4, 5, 3), (2, 4, 5), 0.0)


def test_mask_is_scaled_and_the_shorter_batch_repeats() -> None:
    joined = nodes_compositing.JoinImageWithAlpha.execute(
        torch.rand(1, 4, 6, 4), torch.ones(3, 2, 3)
    )
    assert joined[0].shape == (3, 4, 6, 4)
    assert (joined[0][..., 3] == 0.0).all()
