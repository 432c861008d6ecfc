"""Previews: which way is taken, and what the pictures show."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import comfy.latent_formats
import comfy.utils
import folder_paths
import latent_preview
from comfy.taesd.taesd import TAESD
from latent_preview import LatentPreviewMethod

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Latent2RGB)


def a_format(**changes: Any) -> Any:
    values = {
        "latent_channels": 2,
        "latent_rgb_factors": [[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]],
        "latent_rgb_factors_bias": [0.0, 0.0, 1.0],
        "latent_rgb_factors_reshape": None,
        "taesd_decoder_name": None,
    }
    return SimpleNamespace(**{**values, **changes})


def test_colours_are_linear_in_the_latent() -> None:
    previewer = latent_preview.get_previewer(CPU, a_format())
    assert previewer is not None
    latent = torch.tensor([1.0, -2.0]).reshape(1, 2, 1, 1).expand(3, 2, 4, 6)
    picture = previewer.decode_latent_to_preview(latent)
    assert picture.size == (6, 4)
    assert picture.getpixel((0, 0)) == (255, 0, 255)


def test_a_video_shows_its_first_frame() -> None:
    latent = torch.stack([torch.zeros(1, 2, 4, 6), torch.ones(1, 2, 4, 6)], dim=2)
    previewer = latent_preview.Latent2RGBPreviewer([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    assert previewer.decode_latent_to_preview(latent).getpixel((0, 0)) == (127, 127, 127)


def test_a_format_reshapes_its_latents_first() -> None:
    changed = a_format(latent_rgb_factors_reshape=lambda latent: latent[:, :2])
    previewer = latent_preview.get_previewer(CPU, changed)
    assert previewer is not None
    assert previewer.decode_latent_to_preview(torch.zeros(1, 5, 2, 2)).size == (2, 2)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (LatentPreviewMethod.NoPreviews, {}),
        (LatentPreviewMethod.Auto, {"latent_rgb_factors": None}),
    ],
)
def test_no_previewer_where_none_is_wanted_or_possible(
    monkeypatch: pytest.MonkeyPatch, method: LatentPreviewMethod, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(latent_preview.args, "preview_method", method)
    assert latent_preview.get_previewer(CPU, a_format(**changes)) is None


@pytest.mark.parametrize("has_file", [True, False])
def test_taesd_needs_its_file_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_file: bool,
) -> None:
    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.TAESD)
    kinds = {"vae_approx": ([str(tmp_path)], folder_paths.supported_pt_extensions)}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    if has_file:
        weights = TAESD().taesd_decoder.state_dict()
        save_file(weights, tmp_path / "taesd_decoder.safetensors")
    previewer = latent_preview.get_previewer(CPU, comfy.latent_formats.SD15())
    assert isinstance(previewer, latent_preview.TAESDPreviewerImpl) is has_file
    assert ("need a file taesd_decoder" in caplog.text) is not has_file
    assert previewer is not None
    with torch.inference_mode():
        picture = previewer.decode_latent_to_preview(torch.zeros(2, 4, 2, 3))
    assert picture.size == ((24, 16) if has_file else (3, 2))


def test_the_callback_tells_progress_and_shows_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **kw: told.append(args))
    model = SimpleNamespace(load_device=CPU, model=SimpleNamespace(latent_format=a_format()))
    kept: dict[str, Any] = {}
    callback = latent_preview.prepare_callback(model, 5, kept)
    x0 = torch.zeros(1, 2, 4, 4)
    callback(1, x0, x0, 5)
    ((value, total, (kind, picture, side)),) = told
    assert (value, total, kind, side) == (2, 5, "JPEG", latent_preview.MAX_PREVIEW_RESOLUTION)
    assert isinstance(picture, Image.Image)
    assert kept["x0"] is x0


@pytest.mark.parametrize(
    ("word", "method"),
    [
        ("none", LatentPreviewMethod.NoPreviews),
        ("auto", LatentPreviewMethod.Auto),
        ("latent2rgb", LatentPreviewMethod.Latent2RGB),
        ("taesd", LatentPreviewMethod.TAESD),
        ("default", None),
        ("TAESD", None),
        (None, None),
    ],
)
def test_a_prompt_may_ask_for_another_method(
    word: str | None, method: LatentPreviewMethod | None
) -> None:
    latent_preview.set_preview_method(word)
    expected = latent_preview.default_preview_method if method is None else method
    assert latent_preview.args.preview_method == expected
