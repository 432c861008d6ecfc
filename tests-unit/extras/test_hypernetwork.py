"""Hypernetworks: their files, what they add to a context, and that a model samples with them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import comfy.model_management
import comfy.sd
import folder_paths
from comfy_extras.nodes_hypernetwork import Hypernetwork, HypernetworkLoader
from support import narrow

WIDTH = 64


def trained(structure: list[nn.Module]) -> dict[str, torch.Tensor]:
    """The tensors of a row, named as the trainer names them."""
    row = nn.Sequential(*structure)
    return {f"linear.{key}": value for key, value in row.state_dict().items()}


def structure(activation: nn.Module, is_last_activated: bool) -> list[nn.Module]:
    """Two linear layers with all that may stand between them."""
    torch.manual_seed(3)
    layers: list[nn.Module] = [nn.Linear(WIDTH, 2 * WIDTH), activation, nn.LayerNorm(2 * WIDTH)]
    layers += [nn.Dropout(0.3), nn.Linear(2 * WIDTH, WIDTH)]
    return layers + ([activation] if is_last_activated else [])


def content(layers: list[nn.Module], **more: Any) -> dict[Any, Any]:
    # That for values has its signs turned.
    keys = trained(layers)
    networks = (keys, {name: -tensor for name, tensor in keys.items()})
    return {WIDTH: networks, "layer_structure": [1, 2, 1], "step": 7, **more}


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("relu", nn.ReLU()),
        ("swish", nn.Hardswish()),
        ("tanh", nn.Tanh()),
        ("linear", nn.Identity()),
    ],
)
@pytest.mark.parametrize("is_last_activated", [False, True])
def test_context_is_changed_as_torch_s_layers_would(
    name: str, activation: nn.Module, is_last_activated: bool
) -> None:
    layers = structure(activation, is_last_activated)
    state = content(layers, activation_func=name, activate_output=is_last_activated)
    patch = Hypernetwork.of(state, 0.5)
    context, value = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)
    row = nn.Sequential(*layers).eval()
    turned = copy.deepcopy(row)
    for parameter in turned.parameters():
        parameter.data.neg_()
    query = torch.randn(2, 9, 32)
    same, keys, values = patch(query, context, value, {})
    assert same is query
    with torch.no_grad():
        assert torch.allclose(keys, context + 0.5 * row(context), atol=1e-5)
        assert torch.allclose(values, value + 0.5 * turned(value), atol=1e-5)


def test_context_of_another_width_is_left_alone() -> None:
    patch = Hypernetwork.of(content(structure(nn.ReLU(), False), activation_func="relu"), 1.0)
    context = torch.randn(1, 3, 32)
    assert patch(context, context, context, {}) == (context, context, context)


def test_half_precision_stays_half_precision() -> None:
    patch = Hypernetwork.of(content(structure(nn.ReLU(), False), activation_func="relu"), 1.0)
    context = torch.randn(1, 3, WIDTH).half()
    assert patch.to(torch.float16)(context, context, context, {})[1].dtype == torch.float16


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "hypernetworks", ([str(tmp_path)], set())
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    path = narrow.write_checkpoint(tmp_path / "sd15.safetensors", encoding="F32")
    return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]


def answer(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 4, 8, 8, generator=generator)
    context = torch.randn(1, 77, WIDTH, generator=generator)
    options = model.model_options["transformer_options"]
    with torch.inference_mode():
        result: torch.Tensor = model.model.apply_model(
            latent, torch.tensor([3.0]), c_crossattn=context, transformer_options=options
        )
    return result


def test_model_answers_otherwise_by_strength(loaded: Any, tmp_path: Path) -> None:
    torch.save(content(structure(nn.ReLU(), False), activation_func="relu"), tmp_path / "h.pt")
    comfy.model_management.load_models_gpu([loaded])
    plain = answer(loaded)
    nothing, full = (
        answer(HypernetworkLoader.execute(loaded, "h.pt", strength)[0]) for strength in (0.0, 1.0)
    )
    assert torch.equal(nothing, plain)
    assert full.isfinite().all()
    assert not torch.allclose(full, plain, atol=1e-4)
    assert torch.equal(answer(loaded), plain)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"a": torch.ones(1)}, "holds no networks"),
        (content(structure(nn.ReLU(), False), activation_func="magic"), "'magic' is not known"),
        ({WIDTH: ({"conv.weight": torch.ones(1)},) * 2}, "'conv.weight'"),
        ({WIDTH: ({"linear.0.weight": torch.ones(1, 1)},) * 2}, "bias"),
    ],
    ids=["another file", "activation", "layer", "no bias"],
)
def test_what_is_no_hypernetwork_is_refused_with_its_path(
    loaded: Any, tmp_path: Path, state: dict[Any, Any], told: str
) -> None:
    torch.save(state, tmp_path / "h.pt")
    with pytest.raises(ValueError, match=rf"h\.pt is no hypernetwork.*{told}"):
        HypernetworkLoader.execute(loaded, "h.pt", 1.0)
