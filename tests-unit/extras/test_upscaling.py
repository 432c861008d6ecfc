"""Pictures are enlarged by a network in tiles, in smaller ones where memory is short."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import comfy.utils
import folder_paths
from comfy_extras.chainner_models.model_loading import load_state_dict
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel, UpscaleModelLoader
from comfy_extras.pictures import upscaling

SCALE = 2


class Network:
    """What spandrel describes a network with: the module, its scale, calls and moves."""

    def __init__(self, most_pixels: int | None = None) -> None:
        self.scale = SCALE
        self.model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 3 * SCALE**2, 3, padding=1), torch.nn.PixelShuffle(SCALE)
        ).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for weight in self.model.parameters():
            weight.copy_(torch.rand(weight.shape, generator=generator) * 0.05)
        self.most_pixels = most_pixels
        self.sides: list[int] = []
        self.devices: list[str] = []

    def to(self, device: torch.device | str) -> Network:
        self.devices.append(str(device))
        self.model.to(device)
        return self

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.sides.append(max(image.shape[-2:]))
        if self.most_pixels is not None and image[0, 0].numel() > self.most_pixels:
            raise torch.OutOfMemoryError("simulated: a tile too large")
        return self.model(image)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand((2, 200, 300, 3), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def progress() -> Iterator[list[tuple[int, int]]]:
    steps: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: steps.append((value, total))
    )
    yield steps
    comfy.utils.set_progress_bar_global_hook(None)


def _whole(network: Network, image: torch.Tensor) -> torch.Tensor:
    return network.model(image.movedim(-1, 1)).movedim(1, -1).clamp(0, 1)


def test_small_picture_is_one_tile(image: torch.Tensor) -> None:
    network = Network()
    large = ImageUpscaleWithModel.upscale(network, image)[0]
    assert large.shape == (2, 400, 600, 3)
    assert torch.allclose(large, _whole(network, image), atol=1e-6)
    assert network.sides == [300, 300]
    assert network.devices[-1] == "cpu"


@pytest.mark.parametrize(
    ("most_pixels", "side"), [(200 * 300 - 1, 256), (200 * 256 - 1, 128), (128 * 128, 128)]
)
def test_tiles_halve_until_they_fit(
    image: torch.Tensor, progress: list[tuple[int, int]], most_pixels: int, side: int
) -> None:
    network = Network(most_pixels)
    large = ImageUpscaleWithModel.execute(network, image)[0]
    assert max(network.sides[-4:]) == side
    # Away from the seams, which are blended, a tile knows no more or less than the whole.
    difference = (large - _whole(network, image)).abs()
    assert float(difference.max()) < 0.1
    assert float((difference > 1e-5).float().mean()) < 0.05
    assert progress[-1][0] == progress[-1][1] > 2


def test_too_small_a_device_is_an_error_and_the_network_leaves_it(image: torch.Tensor) -> None:
    network = Network(128 * 128 - 1)
    with pytest.raises(torch.OutOfMemoryError, match="a tile too large"):
        upscaling.upscaled(network, image)
    assert network.devices[-1] == "cpu"


@pytest.fixture
def no_spandrel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)


def test_missing_library_is_named(
    no_spandrel: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfy.utils.save_torch_file({"weight": torch.zeros(2)}, str(tmp_path / "x4.safetensors"))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "upscale_models", ([str(tmp_path)], {".safetensors"})
    )
    inputs = UpscaleModelLoader.INPUT_TYPES()["required"]
    assert inputs["model_name"][1]["options"] == ["x4.safetensors"]
    with pytest.raises(ImportError, match=r"x4.safetensors .* pip install spandrel torchvision"):
        UpscaleModelLoader.load_model("x4.safetensors")


def test_packs_find_the_loader_at_its_old_place(no_spandrel: None) -> None:
    with pytest.raises(ImportError, match="spandrel"):
        load_state_dict({})
