"""Nodes that say where to paint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfy_extras.classic import inpainting as room

PICTURE = torch.rand((1, 32, 48, 3), generator=torch.Generator().manual_seed(0))
CONDITIONING = [[torch.zeros(1, 2, 4), {"unknown": "kept"}]]


class Encoder:
    """A VAE whose latents are the pictures themselves, so that they can be looked at."""

    downscale_ratio = 8

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.movedim(-1, 1).clone()


def _square(rows: slice, columns: slice, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    mask = torch.zeros(1, *size)
    mask[:, rows, columns] = 1.0
    return mask


MASK = _square(slice(10, 20), slice(12, 30))


def _masked_of(latent: torch.Tensor, mask: torch.Tensor) -> None:
    """Check that a picture is grey where it is masked and as it was elsewhere."""
    picture = latent.movedim(1, -1)
    assert (picture[mask == 1] == 0.5).all()
    assert torch.equal(picture[mask == 0], PICTURE[mask == 0])


@pytest.mark.parametrize(
    ("grow", "rows", "columns"),
    [
        (0, slice(10, 20), slice(12, 30)),
        (1, slice(10, 20), slice(12, 30)),
        (5, slice(8, 22), slice(10, 32)),
        (6, slice(8, 23), slice(10, 33)),
    ],
)
def test_masked_part_is_grey_and_its_mask_is_grown(grow: int, rows: slice, columns: slice) -> None:
    (latent,) = room.VAEEncodeForInpaint().encode(Encoder(), PICTURE, MASK, grow)
    _masked_of(latent["samples"], MASK)
    assert torch.equal(latent["noise_mask"][0], _square(rows, columns))


def test_mask_may_have_another_size_and_soft_edges() -> None:
    small = _square(slice(4, 12), slice(4, 20), (16, 24)) * 0.8
    (latent,) = room.VAEEncodeForInpaint().encode(Encoder(), PICTURE, small, 0)
    mask = latent["noise_mask"]
    assert mask.shape == (1, 1, 32, 48)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    _masked_of(latent["samples"], mask[:, 0])


@pytest.mark.parametrize("is_inpaint_model", [False, True])
def test_sizes_are_cut_in_the_middle_to_whole_positions(is_inpaint_model: bool) -> None:
    picture = torch.zeros(1, 37, 51, 3)
    picture[:, 2:34, 1:49] = PICTURE
    mask = torch.zeros(1, 37, 51)
    mask[:, 2:34, 1:49] = MASK
    if is_inpaint_model:
        prompts = (CONDITIONING, CONDITIONING)
        latent = room.InpaintModelConditioning().encode(*prompts, picture, Encoder(), mask)[2]
        assert torch.equal(latent["samples"].movedim(1, -1), PICTURE)
    else:
        (latent,) = room.VAEEncodeForInpaint().encode(Encoder(), picture, mask, 0)
        _masked_of(latent["samples"], MASK)
    assert torch.allclose(latent["noise_mask"][:, 0], MASK)


@pytest.mark.parametrize("noise_mask", [False, True])
def test_inpaint_model_sees_the_masked_picture(noise_mask: bool) -> None:
    given = (CONDITIONING, CONDITIONING * 2)
    positive, negative, latent = room.InpaintModelConditioning().encode(
        *given, PICTURE, Encoder(), MASK, noise_mask
    )
    assert (len(positive), len(negative)) == (1, 2)
    for _, options in positive + negative:
        _masked_of(options["concat_latent_image"], MASK)
        assert torch.equal(options["concat_mask"][0], MASK)
        assert options["unknown"] == "kept"
    assert torch.equal(latent["samples"].movedim(1, -1), PICTURE)
    assert ("noise_mask" in latent) == noise_mask
    assert CONDITIONING[0][1] == {"unknown": "kept"}


@pytest.mark.parametrize("shape", [(32, 48), (1, 32, 48), (1, 1, 32, 48)])
def test_noise_mask_is_set_on_a_copy(shape: tuple[int, ...]) -> None:
    given: dict[str, Any] = {"samples": torch.zeros(1, 4, 4, 6), "unknown": "kept"}
    (masked,) = room.SetLatentNoiseMask().set_mask(given, MASK.reshape(shape))
    assert torch.equal(masked["noise_mask"], MASK.reshape(1, 1, 32, 48))
    assert masked["samples"] is given["samples"]
    assert (masked["unknown"], "noise_mask" in given) == ("kept", False)


def test_masks_are_repeated_or_cut_to_the_number_of_pictures() -> None:
    masks = torch.stack([torch.ones(32, 48), torch.zeros(32, 48), torch.ones(32, 48)])
    pictures = PICTURE.repeat(4, 1, 1, 1)
    (latent,) = room.VAEEncodeForInpaint().encode(Encoder(), pictures, masks, 0)
    assert latent["noise_mask"][:, 0, 0, 0].tolist() == [1.0, 0.0, 1.0, 1.0]
    positive, _, latent = room.InpaintModelConditioning().encode(
        CONDITIONING, CONDITIONING, pictures[:2], Encoder(), masks
    )
    assert latent["noise_mask"].shape[0] == positive[0][1]["concat_mask"].shape[0] == 2


@pytest.mark.parametrize(("pictures", "masks"), [(1, 3), (3, 1)])
def test_one_picture_or_one_mask_goes_with_all_of_the_others(pictures: int, masks: int) -> None:
    given = MASK.repeat(masks, 1, 1)
    (latent,) = room.VAEEncodeForInpaint().encode(
        Encoder(), PICTURE.repeat(pictures, 1, 1, 1), given, 0
    )
    assert torch.equal(latent["noise_mask"], given[:, None])
    assert latent["samples"].shape[0] == 3
    for picture in latent["samples"]:
        _masked_of(picture[None], MASK)
