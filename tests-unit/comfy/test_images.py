"""Resampling, batch sizes, masks, packed latents: against slow reference computations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from comfy import images
from support.simulated_device import SimulatedDevice


def reference_slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Turn by t times the angle, length by linear interpolation; one pair of vectors in fp64."""
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    if length_a == 0 or length_b == 0 or abs(a @ b) / (length_a * length_b) > 1 - 1e-5:
        return a * (1 - t) + b * t
    omega = math.acos(a @ b / (length_a * length_b))
    direction = (
        math.sin((1 - t) * omega) * a / length_a + math.sin(t * omega) * b / length_b
    ) / math.sin(omega)
    return direction * (length_a * (1 - t) + length_b * t)


def reference_bislerp_row(row: np.ndarray, length: int) -> np.ndarray:
    old = len(row)
    out = []
    for index in range(length):
        at = min(max((index + 0.5) * old / length - 0.5, 0), old - 1)
        low = int(at)
        out.append(reference_slerp(row[low], row[min(low + 1, old - 1)], at - low))
    return np.stack(out)


def reference_bislerp(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """C, H, W in fp64: rows first, then columns."""
    rows = np.stack([reference_bislerp_row(row, width) for row in image.transpose(1, 2, 0)])
    columns = [reference_bislerp_row(rows[:, x], height) for x in range(width)]
    return np.stack(columns, axis=1).transpose(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [(7, 5), (10, 8), (3, 9), (13, 2), (1, 1)])
def test_bislerp_equals_vector_by_vector_computation(width: int, height: int) -> None:
    samples = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(3))
    result = images.bislerp(samples, width, height).double().numpy()
    expected = [reference_bislerp(one, width, height) for one in samples.double().numpy()]
    np.testing.assert_allclose(result, np.stack(expected), atol=2e-5)


def test_bislerp_keeps_the_length_between_vectors_of_equal_length() -> None:
    samples = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)
    lengths = images.bislerp(samples, 9, 1).norm(dim=1)
    assert torch.allclose(lengths, torch.ones_like(lengths))


def test_bislerp_of_zeros_and_of_opposite_vectors_is_finite() -> None:
    samples = torch.tensor([0.0, 1.0, -1.0, 0.0]).reshape(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert images.bislerp(samples, 11, 3).isfinite().all()


def test_bislerp_of_parallel_vectors_interpolates_their_length() -> None:
    samples = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)
    assert images.bislerp(samples, 4, 1).flatten().tolist() == pytest.approx([1.0, 1.5, 2.5, 3.0])


class _NoDoubles(TorchDispatchMode):
    """A device without fp64, as Apple's and some of Intel's are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            assert result.device.type == "cpu"
        return result


def test_bislerp_needs_no_fp64_of_a_device(simgpu: SimulatedDevice) -> None:
    samples = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(1))
    with _NoDoubles():
        found = images.bislerp(samples.to(simgpu.device), 9, 8)
    assert found.device == simgpu.device
    assert torch.equal(found.cpu(), images.bislerp(samples, 9, 8))


def test_bislerp_returns_the_dtype_it_was_given() -> None:
    assert images.bislerp(torch.randn(1, 4, 4, 4).half(), 8, 8).dtype == torch.float16


# -- lanczos -------------------------------------------------------------------------------------


def test_lanczos_is_pillows_on_bytes() -> None:
    samples = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(5))
    result = images.lanczos(samples, 20, 7)
    for one, got in zip(samples, result, strict=True):
        picture = Image.fromarray((one * 255).movedim(0, -1).numpy().astype(np.uint8))
        wanted = np.asarray(picture.resize((20, 7), Image.Resampling.LANCZOS))
        assert np.array_equal((got * 255).round().movedim(0, -1).numpy(), wanted)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 16])
def test_lanczos_takes_any_number_of_channels(channels: int) -> None:
    assert images.lanczos(torch.rand(2, channels, 4, 6), 8, 8).shape == (2, channels, 8, 8)


def test_lanczos_clips_instead_of_wrapping_around() -> None:
    samples = torch.tensor([-1.0, 2.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert images.lanczos(samples, 2, 1)[0, 0].flatten().tolist() == [0.0, 1.0]


def test_lanczos_truncates_to_bytes() -> None:
    assert images.lanczos(torch.full((1, 3, 2, 2), 0.5), 2, 2)[0, 0, 0, 0] * 255 == 127


# -- common_upscale ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic"])
def test_upscale_is_torchs_interpolation(method: str) -> None:
    samples = torch.rand(1, 4, 6, 8)
    wanted = torch.nn.functional.interpolate(samples, size=(12, 10), mode=method)
    assert torch.equal(images.common_upscale(samples, 10, 12, method, "disabled"), wanted)


@pytest.mark.parametrize("method", ["bilinear", "bislerp", "lanczos"])
def test_video_is_resized_frame_by_frame(method: str) -> None:
    samples = torch.rand(2, 3, 5, 6, 8)
    result = images.common_upscale(samples, 4, 3, method, "disabled")
    assert result.shape == (2, 3, 5, 3, 4)
    frame = images.common_upscale(samples[:, :, 3], 4, 3, method, "disabled")
    assert torch.equal(result[:, :, 3], frame)


@pytest.mark.parametrize(
    ("size", "wanted", "rows", "columns"),
    [
        ((8, 16), (4, 4), slice(0, 8), slice(4, 12)),
        ((16, 8), (4, 4), slice(4, 12), slice(0, 8)),
        ((8, 8), (8, 4), slice(2, 6), slice(0, 8)),
        ((6, 9), (2, 3), slice(0, 6), slice(2, 7)),  # margins of 2.5 are rounded to even
        ((7, 7), (5, 5), slice(0, 7), slice(0, 7)),
    ],
)
def test_center_crop_keeps_the_middle_of_the_right_proportions(
    size: tuple[int, int], wanted: tuple[int, int], rows: slice, columns: slice
) -> None:
    samples = torch.rand(1, 2, *size)
    width, height = wanted
    result = images.common_upscale(samples, width, height, "nearest-exact", "center")
    cut = samples[:, :, rows, columns]
    expected = torch.nn.functional.interpolate(cut, size=(height, width), mode="nearest-exact")
    assert torch.equal(result, expected)


# -- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "wanted", "items"),
    [
        (3, 3, [0, 1, 2]),
        (3, 2, [0, 1]),
        (3, 7, [0, 1, 2, 0, 1, 2, 0]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_batch_is_repeated_or_cut(length: int, wanted: int, items: list[int]) -> None:
    tensor = torch.arange(length).reshape(length, 1)
    assert images.repeat_to_batch_size(tensor, wanted).flatten().tolist() == items
    across = images.repeat_to_batch_size(tensor.T, wanted, dim=1)
    assert across.flatten().tolist() == items


@pytest.mark.parametrize(
    ("length", "wanted", "items"),
    [
        (4, 4, [0, 1, 2, 3]),
        (5, 3, [0, 2, 4]),
        (10, 4, [0, 3, 6, 9]),
        (5, 1, [0]),
        (2, 4, [0, 0, 1, 1]),
        (3, 5, [0, 0, 1, 2, 2]),
    ],
)
def test_batch_is_resampled_by_nearest_neighbour(
    length: int, wanted: int, items: list[int]
) -> None:
    assert images.resize_to_batch_size(torch.arange(length), wanted).tolist() == items
    assert images.resize_list_to_batch_size(list(range(length)), wanted) == items


# -- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        ((8, 8), (1, 4, 16, 12)),
        ((3, 8, 8), (3, 1, 4, 4)),
        ((2, 1, 8, 8), (5, 3, 4, 4)),
        ((4, 8, 8), (1, 16, 2, 4, 4)),
        ((1, 1, 4, 8, 8), (2, 16, 4, 4, 4)),
        ((1, 1, 9), (2, 3, 5)),
    ],
)
def test_mask_gets_the_wanted_shape(mask: tuple[int, ...], shape: tuple[int, ...]) -> None:
    assert images.reshape_mask(torch.rand(mask), shape).shape == shape


def test_mask_is_interpolated_bilinearly() -> None:
    mask = torch.rand(1, 1, 4, 6)
    wanted = torch.nn.functional.interpolate(mask, size=(8, 8), mode="bilinear")
    assert torch.equal(images.reshape_mask(mask, (1, 1, 8, 8)), wanted)


def test_attention_mask_of_equal_size_is_returned_as_it_is() -> None:
    mask = torch.rand(6, 6)
    assert images.upscale_dit_mask(mask, (2, 2), (2, 2)) is mask


def test_attention_mask_is_resized_quadrant_by_quadrant() -> None:
    text, (h, w), (height, width) = 3, (2, 3), (4, 5)
    mask = torch.rand(1, text + h * w, text + h * w)
    result = images.upscale_dit_mask(mask, (h, w), (height, width))
    assert result.shape == (1, text + height * width, text + height * width)
    assert torch.equal(result[:, :text, :text], mask[:, :text, :text])

    def resized(rows: torch.Tensor) -> torch.Tensor:
        """The last axis, from h x w to height x width."""
        image = rows.reshape(1, -1, h, w)
        return torch.nn.functional.interpolate(
            image, size=(height, width), mode="bilinear"
        ).reshape(1, rows.shape[1], -1)

    assert torch.allclose(result[:, :text, text:], resized(mask[:, :text, text:]))
    below = resized(mask[:, text:, :text].transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(result[:, text:, :text], below)
    both = resized(resized(mask[:, text:, text:]).transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(result[:, text:, text:], both)


def test_attention_mask_of_other_axes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[b, q, k\]"):
        images.upscale_dit_mask(torch.rand(1, 1, 4, 4), (2, 2), (4, 4))


# -- packed latents ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shapes", [[(2, 4, 3, 5)], [(2, 16, 2, 4, 4), (2, 8, 10)], [(1, 1), (1, 2, 2), (1, 3)]]
)
def test_latents_are_packed_and_unpacked(shapes: list[tuple[int, ...]]) -> None:
    latents = [torch.randn(shape) for shape in shapes]
    packed, told = images.pack_latents(latents)
    assert packed.shape == (shapes[0][0], 1, sum(math.prod(shape[1:]) for shape in shapes))
    unpacked = images.unpack_latents(packed, told)
    assert all(torch.equal(a, b) for a, b in zip(unpacked, latents, strict=True))


def test_unpacking_follows_the_batch_size_of_what_is_unpacked() -> None:
    packed, told = images.pack_latents([torch.randn(1, 4, 3), torch.randn(1, 2)])
    unpacked = images.unpack_latents(packed.repeat(3, 1, 1), told)
    assert [tuple(one.shape) for one in unpacked] == [(3, 4, 3), (3, 2)]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_mask_of_whole_numbers_is_resized_as_its_floats_are(dtype: torch.dtype) -> None:
    mask = (torch.arange(64).reshape(1, 8, 8) % 3 == 0).to(dtype)
    found = images.reshape_mask(mask, (2, 4, 5, 6))
    assert torch.equal(found, images.reshape_mask(mask.float(), (2, 4, 5, 6)))
