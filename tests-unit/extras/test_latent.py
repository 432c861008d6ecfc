"""Latents are made, taken from pictures and turned back, taken out of batches and repeated."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.sample
import comfy.sd
from comfy_extras.classic import latent as room
from support import narrow

SAMPLES = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))
PICTURE = torch.rand((2, 64, 96, 4), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("models") / "narrow.safetensors"
    narrow.write_checkpoint(path, without=("cond_stage_model.",), encoding="F32")
    return comfy.sd.load_checkpoint_guess_config(str(path), output_clip=False)[2]


def test_empty_latent_is_an_eighth_of_its_picture() -> None:
    (latent,) = room.EmptyLatentImage().generate(96, 64, 2)
    assert latent["samples"].shape == (2, 4, 8, 12)
    assert not latent["samples"].any()


def test_only_colours_are_encoded(vae: Any) -> None:
    (latent,) = room.VAEEncode().encode(vae, PICTURE)
    assert latent["samples"].shape == (2, 4, 8, 12)
    assert torch.equal(latent["samples"], vae.encode(PICTURE[..., :3]))


def test_picture_is_decoded_to_its_size(vae: Any) -> None:
    (picture,) = room.VAEDecode().decode(vae, {"samples": SAMPLES})
    assert picture.shape == (3, 64, 64, 3)
    assert 0 <= picture.min() < picture.max() <= 1


class PictureAndSound:
    """Latents of two shapes as one, as models of video with sound have them."""

    is_nested = True

    def unbind(self) -> list[torch.Tensor]:
        return [SAMPLES[:1], torch.zeros(1, 8, 5)]


def test_first_of_nested_latents_is_decoded(vae: Any) -> None:
    (picture,) = room.VAEDecode().decode(vae, {"samples": PictureAndSound()})
    assert torch.equal(picture, room.VAEDecode().decode(vae, {"samples": SAMPLES[:1]})[0])


class VideoVAE:
    """Says what it was asked for, and makes eight frames of every latent frame."""

    asked: dict[str, Any]

    def spacial_compression_decode(self) -> int:
        return 8

    def temporal_compression_decode(self) -> int:
        return 8

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        batch, _, frames, rows, columns = samples.shape
        count = batch * frames * 8
        numbered = torch.arange(count).reshape(batch, frames * 8, 1, 1, 1)
        return numbered.expand(-1, -1, rows * 8, columns * 8, 3)

    def decode_tiled(self, samples: torch.Tensor, **asked: Any) -> torch.Tensor:
        self.asked = asked
        return self.decode(samples)


def test_frames_of_videos_follow_each_other() -> None:
    video = {"samples": torch.zeros(2, 16, 3, 4, 4)}
    (frames,) = room.VAEDecode().decode(VideoVAE(), video)
    assert frames.shape == (48, 32, 32, 3)
    assert frames[:, 0, 0, 0].tolist() == list(range(48))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((512, 64, 64, 8), (64, 8, 8, 1)),
        ((256, 128, 64, 8), (32, 8, 8, 1)),
        ((512, 64, 8, 32), (64, 8, 2, 1)),
        ((512, 0, 128, 512), (64, 0, 16, 8)),
    ],
)
def test_tiles_are_given_in_positions_of_the_latent(
    given: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    vae = VideoVAE()
    (frames,) = room.VAEDecodeTiled().decode(vae, {"samples": torch.zeros(1, 16, 2, 4, 4)}, *given)
    side, overlap, length, shared = wanted
    tiles = {"tile_x": side, "tile_y": side, "overlap": overlap}
    assert vae.asked == {**tiles, "tile_t": length, "overlap_t": shared}
    assert frames.shape == (16, 32, 32, 3)


def test_one_tile_is_the_whole(vae: Any) -> None:
    (whole,) = room.VAEDecode().decode(vae, {"samples": SAMPLES})
    (tiled,) = room.VAEDecodeTiled().decode(vae, {"samples": SAMPLES}, 256)
    assert torch.allclose(whole, tiled, atol=1e-5)
    (whole,) = room.VAEEncode().encode(vae, PICTURE)
    (tiled,) = room.VAEEncodeTiled().encode(vae, PICTURE, 256, 64)
    assert torch.allclose(whole["samples"], tiled["samples"], atol=1e-4)


@pytest.mark.parametrize("overlap", [0, 64, 4096])
def test_any_overlap_is_limited_to_what_a_tile_allows(vae: Any, overlap: int) -> None:
    (latent,) = room.VAEEncodeTiled().encode(vae, PICTURE, 64, overlap)
    (picture,) = room.VAEDecodeTiled().decode(vae, latent, 64, overlap)
    assert latent["samples"].shape == (2, 4, 8, 12)
    assert picture.shape == (2, 64, 96, 3)
    assert picture.isfinite().all()


@pytest.mark.parametrize(
    ("start", "length", "rows"), [(0, 1, [0]), (1, 2, [1, 2]), (1, 60, [1, 2]), (50, 1, [2])]
)
def test_rows_keep_the_numbers_they_had(start: int, length: int, rows: list[int]) -> None:
    masks = torch.rand((3, 1, 64, 64), generator=torch.Generator().manual_seed(1))
    given = {"samples": SAMPLES, "noise_mask": masks, "unknown": "kept"}
    (taken,) = room.LatentFromBatch().frombatch(given, start, length)
    assert torch.equal(taken["samples"], SAMPLES[rows])
    assert torch.equal(taken["noise_mask"], masks[rows])
    assert (taken["batch_index"], taken["unknown"]) == (rows, "kept")
    assert "batch_index" not in given


def test_rows_of_rows_keep_the_first_numbers() -> None:
    (taken,) = room.LatentFromBatch().frombatch({"samples": SAMPLES}, 1, 2)
    (again,) = room.LatentFromBatch().frombatch(taken, 1, 1)
    assert again["batch_index"] == [2]


def test_row_gets_the_noise_that_it_had_in_its_batch() -> None:
    (taken,) = room.LatentFromBatch().frombatch({"samples": SAMPLES}, 2, 1)
    whole = comfy.sample.prepare_noise(SAMPLES, 7, list(range(3)))
    alone = comfy.sample.prepare_noise(taken["samples"], 7, taken["batch_index"])
    assert torch.equal(alone[0], whole[2])


@pytest.mark.parametrize(
    ("masks", "wanted"), [(1, [0]), (2, [0, 1, 0, 0, 1, 0]), (3, [0, 1, 2] * 2)]
)
def test_repeated_batch_has_a_mask_for_each_row(masks: int, wanted: list[int]) -> None:
    levels = torch.arange(masks, dtype=torch.float32).reshape(masks, 1, 1, 1)
    given = {"samples": SAMPLES, "noise_mask": levels, "unknown": "kept"}
    (repeated,) = room.RepeatLatentBatch().repeat(given, 2)
    assert torch.equal(repeated["samples"], torch.cat([SAMPLES, SAMPLES]))
    assert repeated["noise_mask"].flatten().tolist() == wanted
    assert repeated["unknown"] == "kept"
    assert "batch_index" not in repeated


def test_one_mask_for_all_stays_one() -> None:
    mask = torch.ones(1, 1, 4, 4)
    given = {"samples": SAMPLES, "noise_mask": mask}
    (taken,) = room.LatentFromBatch().frombatch(given, 1, 2)
    assert torch.equal(taken["noise_mask"], mask)


def test_copies_get_new_numbers() -> None:
    given = {"samples": SAMPLES, "batch_index": [4, 5, 7]}
    (repeated,) = room.RepeatLatentBatch().repeat(given, 3)
    assert repeated["batch_index"] == [4, 5, 7, 8, 9, 11, 12, 13, 15]
    assert given["batch_index"] == [4, 5, 7]
