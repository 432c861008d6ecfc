"""Self-attention over tiles, and over fewer tokens."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from comfy_extras import nodes_hypertile, nodes_tomesd

TOKENS = torch.randn((2, 8 * 12, 5), generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (8, 12), (4, 1)])
def test_tiles_are_rectangles_that_join_again(rows: int, columns: int) -> None:
    tiles = nodes_hypertile.to_tiles(TOKENS, 8, rows, columns)
    assert tiles.shape == (2 * rows * columns, 96 // (rows * columns), 5)
    assert torch.equal(nodes_hypertile.from_tiles(tiles, 8, rows, columns), TOKENS)
    image = TOKENS.reshape(2, 8, 12, 5)
    corner = image[0, : 8 // rows, : 12 // columns].reshape(-1, 5)
    assert torch.equal(tiles[0], corner)


@pytest.mark.parametrize(
    ("side", "least", "choices", "possible"),
    [(64, 32, 2, {1, 2}), (96, 32, 1, {3}), (96, 32, 3, {3, 2, 1}), (20, 32, 2, {1})],
)
def test_side_is_cut_into_equal_tiles_of_a_least_length(
    side: int, least: int, choices: int, possible: set[int]
) -> None:
    found = {
        nodes_hypertile.tiles_along(side, least, choices, random.Random(seed)) for seed in range(40)
    }
    assert found == possible


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_equal_tokens_are_merged_without_loss(ratio: float) -> None:
    tokens = torch.ones(2, 96, 5) * torch.tensor([[[1.0]], [[2.0]]])
    targets = nodes_tomesd.targets_of(8, 12, random.Random(1))
    merge = nodes_tomesd.Merge(tokens, targets, ratio)
    merged = merge.merge(tokens)
    assert merged.shape == (2, 96 - min(int(96 * ratio), 96 - 24), 5)
    torch.testing.assert_close(merge.unmerge(merged), tokens)


def test_each_window_has_one_target() -> None:
    targets = nodes_tomesd.targets_of(8, 12, random.Random(1))
    windows = {(int(n) // 12 // 2, int(n) % 12 // 2) for n in targets}
    assert len(targets) == len(windows) == 24
    assert nodes_tomesd.targets_of(5, 5, random.Random(1)).shape == (4,)


def test_tokens_that_are_alike_become_their_mean() -> None:
    targets = torch.tensor([0, 1])
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [3.0, 0.1], [0.1, 2.0], [1.0, 1.0]]])
    merge = nodes_tomesd.Merge(tokens, targets, 0.4)
    merged = merge.merge(tokens)[0]
    assert merged[0].tolist() == [1.0, 1.0]
    torch.testing.assert_close(merged[1], (tokens[0, 0] + tokens[0, 2]) / 2)
    torch.testing.assert_close(merged[2], (tokens[0, 1] + tokens[0, 3]) / 2)
    back = merge.unmerge(merge.merge(tokens))[0]
    assert torch.equal(back[2], back[0])
    assert torch.equal(back[3], back[1])
    assert back[4].tolist() == [1.0, 1.0]


def test_choices_leave_the_samplers_noise_alone(sd15: Any) -> None:
    (patched,) = (nodes_tomesd.TomePatchModel.execute(sd15.model, 0.3)[0],)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    options = {"activations_shape": [1, 5, 8, 12], "original_shape": [1, 4, 8, 12]}
    (patch,) = patched.model_options["transformer_options"]["patches"]["attn1_patch"]
    patch(TOKENS, TOKENS, TOKENS, {**options, "sigmas": torch.ones(1)})
    assert torch.equal(torch.get_rng_state(), before)
