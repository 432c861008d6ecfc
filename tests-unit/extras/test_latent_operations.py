"""Latents are calculated with, cut, joined, numbered, rebatched and passed through operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch

import comfy.sample
import comfy.utils
from comfy.model_patcher import ModelPatcher
from comfy_extras import nodes_latent, nodes_rebatch, nodes_sdupscale
from comfy_extras.latents import operations

_GENERATOR = torch.Generator().manual_seed(0)
FIRST = torch.randn((2, 4, 6, 8), generator=_GENERATOR)
SECOND = torch.randn((2, 4, 6, 8), generator=_GENERATOR)
VIDEO = torch.randn((1, 4, 5, 6, 8), generator=_GENERATOR)


def _latent(samples: torch.Tensor, **others: Any) -> dict[str, Any]:
    return {"samples": samples, **others}


def test_sums_differences_and_products() -> None:
    first, second = _latent(FIRST, unknown="kept"), _latent(SECOND)
    added = nodes_latent.LatentAdd.op(first, second)[0]
    assert torch.equal(added["samples"], FIRST + SECOND)
    assert added["unknown"] == "kept"
    assert torch.equal(nodes_latent.LatentSubtract.op(first, second)[0]["samples"], FIRST - SECOND)
    assert torch.equal(nodes_latent.LatentMultiply.op(first, -2.5)[0]["samples"], FIRST * -2.5)
    assert first["samples"] is FIRST


def test_second_latent_takes_size_and_batch_of_the_first() -> None:
    other = SECOND[:1, :, :3, :3]
    added = nodes_latent.LatentAdd.execute(_latent(FIRST), _latent(other))[0]["samples"]
    scaled = comfy.utils.common_upscale(other, 8, 6, "bilinear", "center")
    assert torch.equal(added, FIRST + scaled.expand(2, -1, -1, -1))
    assert nodes_latent.reshape_latent_to(FIRST.shape, other, False).shape == (1, 4, 6, 8)
    assert nodes_latent.reshape_latent_to((3, 4, 6, 8), SECOND).shape == (3, 4, 6, 8)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_interpolation_keeps_lengths(ratio: float) -> None:
    mixed = nodes_latent.LatentInterpolate.op(_latent(FIRST), _latent(SECOND), ratio)[0]["samples"]
    first, second = FIRST.double().numpy(), SECOND.double().numpy()
    lengths = [np.linalg.norm(one, axis=1, keepdims=True) for one in (first, second)]
    towards = first / lengths[0] * ratio + second / lengths[1] * (1 - ratio)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    wanted = towards * (lengths[0] * ratio + lengths[1] * (1 - ratio))
    assert np.allclose(mixed.numpy(), wanted, atol=1e-5)


def test_interpolating_nothing_gives_nothing() -> None:
    assert (
        operations.interpolated(torch.zeros_like(FIRST), torch.zeros_like(FIRST), 0.5) == 0
    ).all()


@pytest.mark.parametrize(("dim", "axis"), [("x", 4), ("y", 3), ("t", 2)])
def test_latents_are_joined_on_either_side(dim: str, axis: int) -> None:
    first, second = _latent(VIDEO), _latent(VIDEO * 2)
    joined = nodes_latent.LatentConcat.op(first, second, dim)[0]["samples"]
    assert torch.equal(joined, torch.cat((VIDEO, VIDEO * 2), dim=axis))
    joined = nodes_latent.LatentConcat.op(first, second, f"-{dim}")[0]["samples"]
    assert torch.equal(joined, torch.cat((VIDEO * 2, VIDEO), dim=axis))


@pytest.mark.parametrize(
    ("index", "amount", "wanted"),
    [
        (0, 1, slice(0, 1)),
        (3, 2, slice(3, 5)),
        (6, 9, slice(6, 8)),
        (99, 2, slice(7, 8)),
        (-3, 2, slice(5, 7)),
        (-2, 9, slice(6, 8)),
        (-99, 2, slice(0, 2)),
    ],
)
def test_cut_stays_inside(index: int, amount: int, wanted: slice) -> None:
    part = nodes_latent.LatentCut.op(_latent(FIRST), "x", index, amount)[0]["samples"]
    assert torch.equal(part, FIRST[..., wanted])


def test_slices_become_a_batch_in_order_and_the_rest_is_dropped() -> None:
    slices = nodes_latent.LatentCutToBatch.op(_latent(FIRST), "x", 3)[0]["samples"]
    wanted = [row[..., start : start + 3] for row in FIRST for start in (0, 3)]
    assert torch.equal(slices, torch.stack(wanted))
    frames = nodes_latent.LatentCutToBatch.op(_latent(VIDEO), "t", 2)[0]["samples"]
    assert torch.equal(frames, torch.stack([VIDEO[0, :, :2], VIDEO[0, :, 2:4]]))
    whole = nodes_latent.LatentCutToBatch.op(_latent(FIRST), "y", 99)[0]["samples"]
    assert torch.equal(whole, FIRST)


def test_every_slice_of_numbered_latents_counts() -> None:
    slices = nodes_latent.LatentCutToBatch.op(_latent(FIRST, batch_index=[7, 9]), "x", 2)[0]
    (parts,) = nodes_rebatch.LatentRebatch().rebatch([slices], [3])
    assert [part["samples"].shape[0] for part in parts] == [3, 3, 2]
    noise = comfy.sample.prepare_noise(slices["samples"], 1, slices.get("batch_index"))
    assert noise.shape == slices["samples"].shape


@pytest.mark.parametrize("node", [nodes_latent.LatentCut, nodes_latent.LatentCutToBatch])
def test_pictures_have_no_frames(node: Any) -> None:
    with pytest.raises(ValueError, match="no axis 't'"):
        node.execute(_latent(FIRST), "t", *((0, 1) if node is nodes_latent.LatentCut else (1,)))


def test_batches_are_joined_with_their_numbers() -> None:
    second = _latent(SECOND[..., :4, :4], batch_index=[7, 9])
    joined = nodes_latent.LatentBatch.batch(_latent(FIRST), second)[0]
    assert joined["samples"].shape == (4, 4, 6, 8)
    assert joined["batch_index"] == [0, 1, 7, 9]


@pytest.mark.parametrize(
    ("numbers", "behaviour", "wanted"),
    [([5, 6], "fixed", [5, 5]), (None, "fixed", [0, 0]), ([5, 6], "random", None)],
)
def test_noise_of_a_batch_is_the_same_or_not(
    numbers: list[int] | None, behaviour: str, wanted: list[int] | None
) -> None:
    latent = _latent(FIRST) if numbers is None else _latent(FIRST, batch_index=numbers)
    result = nodes_latent.LatentBatchSeedBehavior.op(latent, behaviour)[0]
    assert result.get("batch_index") == wanted
    assert latent.get("batch_index") == numbers


@pytest.mark.parametrize(("index", "first"), [(0, 0), (3, 3), (-2, 3), (-5, 0)])
def test_frames_are_replaced(index: int, first: int) -> None:
    source = torch.ones(1, 4, 2, 6, 8)
    node = nodes_latent.ReplaceVideoLatentFrames
    result = node.execute(_latent(VIDEO), index, _latent(source))[0]["samples"]
    changed = (result != VIDEO).flatten(3).any(-1)[0].any(0)
    assert changed.nonzero().flatten().tolist() == [first, first + 1]
    assert (result[:, :, first : first + 2] == 1).all()
    assert node.execute(_latent(VIDEO), index)[0]["samples"] is VIDEO


@pytest.mark.parametrize("index", [4, -1, -6])
def test_frames_that_do_not_fit_are_refused(index: int) -> None:
    source = _latent(torch.ones(1, 4, 2, 6, 8))
    with pytest.raises(ValueError, match="do not fit into a video of 5 frames"):
        nodes_latent.ReplaceVideoLatentFrames.execute(_latent(VIDEO), index, source)


def test_tone_mapping_compresses_lengths() -> None:
    operation = nodes_latent.LatentOperationTonemapReinhard.execute(0.5)[0]
    latent = FIRST.double().numpy()
    length = np.linalg.norm(latent, axis=1, keepdims=True)
    axes = (1, 2, 3)
    top = length.mean(axes, keepdims=True) + 5 * length.std(axes, keepdims=True, ddof=1)
    ratio = length / (top * 0.5)
    wanted = latent / length * (ratio / (1 + ratio)) * top * 0.5
    assert np.allclose(operation(latent=FIRST).numpy(), wanted, atol=1e-5)


def test_sharpening_keeps_lengths_apart_from_directions() -> None:
    operation = nodes_latent.LatentOperationSharpen.execute(2, 1.0, 0.1)[0]
    latent = FIRST.double().numpy()
    length = np.linalg.norm(latent, axis=1, keepdims=True)
    taps = np.exp(-((np.arange(-2, 3) / 2) ** 2) / 2)
    towards = smooth = latent / length
    for axis in (2, 3):
        smooth = scipy.ndimage.correlate1d(smooth, taps / taps.sum(), axis=axis, mode="mirror")
    wanted = length * (towards + (towards - smooth))
    assert np.allclose(operation(latent=FIRST).numpy(), wanted, atol=1e-4)


def test_operation_is_applied_once_or_to_the_guidance() -> None:
    def doubled(latent: torch.Tensor) -> torch.Tensor:
        return latent * 2

    once = nodes_latent.LatentApplyOperation.op(_latent(FIRST), doubled)[0]
    assert torch.equal(once["samples"], FIRST * 2)

    cpu = torch.device("cpu")
    patcher = ModelPatcher(torch.nn.Linear(1, 1), load_device=cpu, offload_device=cpu)
    patched = nodes_latent.LatentApplyOperationCFG.op(patcher, doubled)[0]
    (hook,) = patched.model_options["sampler_pre_cfg_function"]
    assert "sampler_pre_cfg_function" not in patcher.model_options
    given = [FIRST, SECOND]
    positive, negative = hook({"conds_out": given})
    assert torch.allclose(positive, SECOND + 2 * (FIRST - SECOND))
    assert negative is SECOND
    assert given[0] is FIRST
    (alone,) = hook({"conds_out": [FIRST]})
    assert torch.equal(alone, FIRST * 2)


def test_pictures_are_rebatched() -> None:
    images = [torch.full((count, 2, 2, 3), float(count)) for count in (1, 2, 2)]
    (batches,) = nodes_rebatch.ImageRebatch().rebatch(images, [2])
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches), torch.cat(images))


def test_pictures_of_other_sizes_begin_a_batch_of_their_own() -> None:
    images = [torch.zeros(3, 2, 2, 3), torch.zeros(1, 4, 4, 3)]
    (batches,) = nodes_rebatch.ImageRebatch().rebatch(images, [2])
    assert [tuple(batch.shape[:2]) for batch in batches] == [(2, 2), (1, 2), (1, 4)]


def test_latents_are_rebatched_with_masks_and_numbers() -> None:
    masked = _latent(FIRST, noise_mask=torch.zeros(1, 6, 8))
    latents = [masked, _latent(SECOND, batch_index=[9, 4]), _latent(FIRST[:1, :, :2])]
    (batches,) = nodes_rebatch.LatentRebatch().rebatch(latents, [3])
    assert [batch["samples"].shape[0] for batch in batches] == [3, 1, 1]
    assert torch.equal(batches[0]["samples"], torch.cat((FIRST, SECOND[:1])))
    assert [batch["batch_index"] for batch in batches] == [[0, 1, 9], [4], [4]]
    assert batches[0]["noise_mask"].shape == (3, 1, 48, 64)
    assert batches[0]["noise_mask"].mean(dim=(1, 2, 3)).tolist() == [0.0, 0.0, 1.0]
    assert "noise_mask" not in batches[1]


def test_upscaler_is_told_the_small_picture() -> None:
    image = torch.rand(2, 64, 48, 3)
    conds = [[[torch.zeros(1), {"kept": name}]] for name in ("yes", "no")]
    node = nodes_sdupscale.SD_4XUpscale_Conditioning
    positive, negative, latent = node.encode(image, *conds, 4.0, 0.25).args
    assert torch.equal(positive[0][1]["concat_image"], image.movedim(-1, 1) * 2 - 1)
    assert positive[0][1]["noise_augmentation"] == 0.25
    assert (positive[0][1]["kept"], negative[0][1]["kept"]) == ("yes", "no")
    assert latent["samples"].shape == (2, 4, 64, 48)
    assert "concat_image" not in conds[0][0][1]
