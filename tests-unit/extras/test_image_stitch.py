"""Pictures are joined edge to edge; the module needs neither the nodes nor a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comfy_extras.nodes_images import ImageStitch

_GENERATOR = torch.Generator().manual_seed(0)
FIRST = torch.rand((1, 6, 8, 3), generator=_GENERATOR)
SECOND = torch.rand((1, 6, 8, 3), generator=_GENERATOR)


@pytest.mark.parametrize(
    ("direction", "order", "axis"),
    [
        ("right", (FIRST, SECOND), 2),
        ("left", (SECOND, FIRST), 2),
        ("down", (FIRST, SECOND), 1),
        ("up", (SECOND, FIRST), 1),
    ],
)
@pytest.mark.parametrize("match", [True, False])
def test_second_picture_stands_on_its_side(
    direction: str, order: tuple[torch.Tensor, torch.Tensor], axis: int, match: bool
) -> None:
    result = ImageStitch().stitch(FIRST, direction, match, 0, "white", SECOND)[0]
    assert torch.equal(result, torch.cat(order, dim=axis))


def test_one_picture_stays_as_it_is() -> None:
    assert ImageStitch().stitch(FIRST, "right", True, 4, "white")[0] is FIRST


@pytest.mark.parametrize(
    ("colour", "rgb"),
    [
        ("white", [1.0, 1.0, 1.0]),
        ("black", [0.0, 0.0, 0.0]),
        ("red", [1.0, 0.0, 0.0]),
        ("green", [0.0, 1.0, 0.0]),
        ("blue", [0.0, 0.0, 1.0]),
    ],
)
def test_space_between_has_its_colour(colour: str, rgb: list[float]) -> None:
    result = ImageStitch().stitch(FIRST, "down", True, 4, colour, SECOND)[0]
    assert result.shape == (1, 16, 8, 3)
    assert (result[0, 6:10] == torch.tensor(rgb)).all()
    assert torch.equal(result[:, 10:], SECOND)


@pytest.mark.parametrize(("wished", "given"), [(1, 2), (2, 2), (7, 8)])
def test_odd_space_becomes_even(wished: int, given: int) -> None:
    result = ImageStitch().stitch(FIRST, "right", True, wished, "black", SECOND)[0]
    assert result.shape[2] == 16 + given


@pytest.mark.parametrize(
    ("direction", "size", "wanted"),
    [("right", (12, 20), (6, 10)), ("left", (3, 5), (6, 10)), ("up", (5, 16), (2, 8))],
)
def test_matched_picture_keeps_its_aspect(
    direction: str, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    other = torch.full((1, *size, 3), 0.25)
    result = ImageStitch().stitch(FIRST, direction, True, 0, "white", other)[0]
    across = direction in ("left", "right")
    assert result.shape[1:3] == ((6, 8 + wanted[1]) if across else (6 + wanted[0], 8))
    assert result.numel() == FIRST.numel() + 3 * wanted[0] * wanted[1]


def test_matched_picture_is_scaled_by_lanczos() -> None:
    other = torch.rand((1, 12, 20, 3), generator=_GENERATOR)
    result = ImageStitch().stitch(FIRST, "right", True, 0, "white", other)[0]
    levels = (other[0].numpy() * 255).clip(0, 255).astype(np.uint8)
    by_pillow = Image.fromarray(levels).resize((10, 6), Image.Resampling.LANCZOS)
    assert np.allclose(result[0, :, 8:].numpy(), np.asarray(by_pillow) / 255.0, atol=1 / 255)


@pytest.mark.parametrize("order", [True, False])
def test_smaller_picture_is_centred_on_the_colour(order: bool) -> None:
    small = torch.full((1, 3, 2, 3), 0.5)
    pair = (FIRST, small) if order else (small, FIRST)
    result = ImageStitch().stitch(pair[0], "right", False, 0, "red", pair[1])[0]
    assert result.shape == (1, 6, 10, 3)
    column = result[0, :, 8 if order else 0]
    assert (column[1:4] == 0.5).all()
    assert (column[[0, 4, 5]] == torch.tensor([1.0, 0.0, 0.0])).all()


def test_shorter_batch_goes_on_with_its_last_picture() -> None:
    several = torch.rand((3, 6, 8, 3), generator=_GENERATOR)
    result = ImageStitch().stitch(several, "right", True, 0, "white", several[:2])[0]
    assert torch.equal(result[:, :, 8:], several[[0, 1, 1]])


@pytest.mark.parametrize("order", [True, False])
def test_missing_alpha_is_opaque_and_so_is_the_space(order: bool) -> None:
    clear = torch.zeros((1, 6, 8, 4))
    pair = (FIRST, clear) if order else (clear, FIRST)
    result = ImageStitch().stitch(pair[0], "right", True, 2, "blue", pair[1])[0]
    assert result.shape == (1, 6, 18, 4)
    assert (result[0, 0, 8:10] == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()
    opaque = result[..., :8, 3] if order else result[..., 10:, 3]
    assert (opaque == 1.0).all()


def test_grey_pictures_get_a_grey_space() -> None:
    grey = torch.zeros((1, 2, 2, 1))
    result = ImageStitch().stitch(grey, "right", True, 2, "white", grey)[0]
    assert result.shape == (1, 2, 6, 1)
    assert result[0, 0, :, 0].tolist() == pytest.approx([0, 0, 1, 1, 0, 0])


def test_module_can_be_imported_with_stand_ins_for_nodes_and_server() -> None:
    program = (
        "import sys; from unittest import mock;"
        "stand_ins = {name: mock.MagicMock() for name in ('nodes', 'server')};"
        "sys.modules.update(stand_ins);"
        "from comfy_extras.nodes_images import ImageStitch;"
        "assert not any(one.mock_calls for one in stand_ins.values());"
        "assert sys.modules['nodes'] is stand_ins['nodes']"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, timeout=60)
