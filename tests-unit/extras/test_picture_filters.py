"""Pictures are blurred, sharpened, blended, reduced to few colours; edges are found in them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from comfy_extras import nodes_canny, nodes_morphology, nodes_post_processing
from comfy_extras.pictures import blending, canny, filters, quantizing

_GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.rand((2, 14, 19, 3), generator=_GENERATOR)


def _blurred_by_scipy(image: np.ndarray, radius: int, sigma: float) -> np.ndarray:
    offsets = np.arange(-radius, radius + 1) / radius
    grid = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2))
    kernel = (grid / grid.sum())[None, :, :, None]
    return scipy.ndimage.correlate(image.astype(np.float64), kernel, mode="mirror")


@pytest.mark.parametrize(("radius", "sigma"), [(1, 1.0), (3, 0.5), (20, 2.0)])
def test_blur_is_a_gaussian_mean(radius: int, sigma: float) -> None:
    blurred = nodes_post_processing.Blur.blur(IMAGE, radius, sigma)[0]
    assert np.allclose(blurred.numpy(), _blurred_by_scipy(IMAGE.numpy(), radius, sigma), atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_sharpening_adds_what_blurring_takes_away(alpha: float) -> None:
    sharp = nodes_post_processing.Sharpen.sharpen(IMAGE, 2, 0.7, alpha)[0]
    image = IMAGE.numpy().astype(np.float64)
    wanted = image + 10 * alpha * (image - _blurred_by_scipy(image, 2, 0.7))
    assert np.allclose(sharp.numpy(), wanted.clip(0, 1), atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 4, 5])
@pytest.mark.parametrize("operation", list(filters.MORPHOLOGY))
def test_morphology_is_that_of_scipy(operation: str, size: int) -> None:
    ndimage, window = scipy.ndimage, (1, size, size, 1)
    by_scipy = {
        "erode": ndimage.grey_erosion,
        "dilate": ndimage.grey_dilation,
        "open": ndimage.grey_opening,
        "close": ndimage.grey_closing,
        "gradient": ndimage.morphological_gradient,
        "bottom_hat": ndimage.black_tophat,
        "top_hat": ndimage.white_tophat,
    }
    result = nodes_morphology.ImageMorphology.process(IMAGE, operation, size)[0]
    assert np.allclose(result.numpy(), by_scipy[operation](IMAGE.numpy(), size=window), atol=1e-6)


def test_brightness_and_colours_come_back_together() -> None:
    parts = nodes_morphology.ImageRGBToYUV.execute(IMAGE).args
    red, green, blue = IMAGE.numpy().transpose(3, 0, 1, 2)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    wanted = (y, 0.492 * (blue - y), 0.877 * (red - y))
    for part, plane in zip(parts, wanted, strict=True):
        assert np.allclose(part.numpy(), plane[..., None], atol=1e-3)
    assert torch.allclose(nodes_morphology.ImageYUVToRGB.execute(*parts)[0], IMAGE, atol=1e-5)


def _w3c(mode: str, under: float, over: float) -> float:
    """B(cb, cs) of "Compositing and Blending Level 1", section 10.1."""
    if mode == "multiply":
        return under * over
    if mode == "screen":
        return 1 - (1 - under) * (1 - over)
    if mode == "overlay":
        return 2 * under * over if under <= 0.5 else 1 - 2 * (1 - under) * (1 - over)
    if mode == "soft_light":
        if over <= 0.5:
            return under - (1 - 2 * over) * under * (1 - under)
        curve = ((16 * under - 12) * under + 4) * under if under <= 0.25 else math.sqrt(under)
        return under + (2 * over - 1) * (curve - under)
    return {"normal": over, "difference": max(0.0, under - over)}[mode]


@pytest.mark.parametrize("mode", list(blending.MODES))
def test_blend_modes_follow_their_formulas(mode: str) -> None:
    levels = [0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.9, 1.0]
    pairs = torch.tensor(list(itertools.product(levels, levels)))
    found = blending.blended(pairs[:, 0], pairs[:, 1], mode, 1.0)
    wanted = [_w3c(mode, under, over) for under, over in itertools.product(levels, levels)]
    assert np.allclose(found.numpy(), wanted, atol=1e-6)


def test_blend_is_mixed_by_its_factor_at_the_size_of_the_first() -> None:
    over = torch.zeros((2, 28, 38, 4))
    mixed = nodes_post_processing.Blend.blend_images(IMAGE, over, 0.25, "multiply")[0]
    assert torch.allclose(mixed, IMAGE * 0.75)


@pytest.mark.parametrize(
    ("counts", "wanted"), [((2, 3), [0, 1]), ((3, 2), [0, 1, 0]), ((1, 2), [0, 1])]
)
def test_blend_repeats_or_cuts_the_second_batch(counts: tuple[int, int], wanted: list[int]) -> None:
    over = torch.arange(counts[1]).float()[:, None, None, None].expand(-1, 4, 4, 3)
    mixed = nodes_post_processing.Blend.execute(
        torch.zeros(counts[0], 4, 4, 3), over, 1.0, "normal"
    )
    assert mixed[0][:, 0, 0, 0].tolist() == wanted


def _bayer_by_recursion(order: int) -> np.ndarray:
    if order == 1:
        return np.zeros((1, 1))
    quarter = 4 * _bayer_by_recursion(order // 2)
    return np.block([[quarter, quarter + 2], [quarter + 3, quarter + 1]])


@pytest.mark.parametrize("order", [2, 4, 8, 16])
def test_thresholds_are_those_of_bayer(order: int) -> None:
    ranks = _bayer_by_recursion(order)
    found = quantizing.thresholds(order)
    assert np.allclose(found, (ranks + 0.5) / order**2 - 0.5)
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("dither", quantizing.DITHERS)
def test_picture_keeps_as_many_colours_as_it_may(dither: str) -> None:
    reduced = nodes_post_processing.Quantize.quantize(IMAGE, 5, dither)[0]
    assert reduced.shape == IMAGE.shape
    colours = [len(one.reshape(-1, 3).unique(dim=0)) for one in reduced]
    assert max(colours) <= 5
    assert min(colours) > 1


@pytest.mark.parametrize(
    ("dither", "method"),
    [("none", Image.Dither.NONE), ("floyd-steinberg", Image.Dither.FLOYDSTEINBERG)],
)
def test_plain_quantizing_is_that_of_pillow(dither: str, method: Image.Dither) -> None:
    picture = Image.fromarray((IMAGE[0].numpy() * 255).astype(np.uint8))
    wanted = picture.quantize(7, palette=picture.quantize(7), dither=method).convert("RGB")
    reduced = nodes_post_processing.Quantize.execute(IMAGE, 7, dither)[0]
    assert np.array_equal((reduced[0].numpy() * 255).round(), np.asarray(wanted))


def test_dithering_keeps_the_mean_brightness() -> None:
    ramp = torch.linspace(0, 1, 64).expand(64, 64)[None, ..., None].expand(-1, -1, -1, 3)
    reduced = {
        dither: nodes_post_processing.Quantize.execute(ramp, 4, dither)[0]
        for dither in ("none", "bayer-4")
    }
    # Columns of one brightness: a mean over many rows is as near as dithering can bring it.
    errors = {dither: (one - ramp).mean(dim=1).abs().mean() for dither, one in reduced.items()}
    assert errors["bayer-4"] < errors["none"]


def _canny_by_scipy(grey: np.ndarray, low: float, high: float) -> np.ndarray:
    """Canny's five steps with scipy's filters and its labels of connected parts."""
    taps = np.exp(-(np.arange(-2, 3) ** 2) / 2.0)
    smooth = grey
    for axis in (0, 1):
        smooth = scipy.ndimage.correlate1d(smooth, taps / taps.sum(), axis=axis, mode="mirror")
    down, across = (scipy.ndimage.sobel(smooth, axis=axis, mode="mirror") for axis in (0, 1))
    slope = np.hypot(down, across)
    framed = np.pad(slope, 1)
    ridge = np.zeros(slope.shape, dtype=bool)
    for row, column in np.ndindex(*slope.shape):
        angle = round(math.atan2(down[row, column], across[row, column]) / (math.pi / 4)) % 4
        step = [(0, 1), (1, 1), (1, 0), (1, -1)][angle]
        behind = framed[row + 1 + step[0], column + 1 + step[1]]
        before = framed[row + 1 - step[0], column + 1 - step[1]]
        ridge[row, column] = before < slope[row, column] >= behind
    parts, _ = scipy.ndimage.label(ridge & (slope > low), structure=np.ones((3, 3)))
    begun = np.unique(parts[ridge & (slope > high)])
    return np.isin(parts, begun[begun > 0])


def test_edges_are_those_of_the_five_steps() -> None:
    noise = np.random.default_rng(3).random((40, 50))
    grey = scipy.ndimage.gaussian_filter(noise, 2.0)
    grey = (grey - grey.min()) / np.ptp(grey)
    image = torch.tensor(grey, dtype=torch.float64)[None, ..., None].expand(-1, -1, -1, 3)
    found = canny.canny(image.float(), 0.4, 1.2)[0].numpy()
    wanted = _canny_by_scipy(grey, 0.4, 1.2)
    assert 0.02 < wanted.mean() < 0.3
    # float32 may decide a tie the other way.
    assert (found != wanted).mean() < 0.002


def test_edge_of_a_square_is_one_closed_thin_line() -> None:
    image = torch.zeros(1, 32, 32, 3)
    image[:, 8:24, 8:24] = 1.0
    lines = nodes_canny.Canny.detect_edge(image, 0.4, 0.8)[0]
    assert lines.shape == image.shape
    edge = lines[0, :, :, 0].numpy()
    assert set(np.unique(edge)) == {0.0, 1.0}
    _, grounds = scipy.ndimage.label(edge == 0)
    assert grounds == 2
    assert (edge[16] > 0).sum() == 2
    assert (edge[:, 16] > 0).sum() == 2


def test_step_has_the_slope_that_the_thresholds_are_meant_for() -> None:
    image = torch.zeros(1, 16, 16, 3)
    image[:, :, 8:] = 1.0
    assert canny.canny(image, 2.5, 2.55).any()
    assert not canny.canny(image, 2.5, 2.65).any()


def test_weak_edges_alone_are_no_edges() -> None:
    image = torch.zeros(1, 16, 32, 3)
    image[:, :, 8:] = 0.2
    assert not canny.canny(image, 0.3, 0.8).any()
    image[:, :, 24:] = 1.0
    found = canny.canny(image, 0.3, 0.8)[0]
    assert not found[:, :16].any()
    assert found[:, 16:].any()
