"""Style models compute what the same layers of torch compute, and stay in their files until used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import comfy.clip_vision
import comfy.loading.default
import comfy.model_management
import comfy.sd
from comfy.loading import FileTensor
from comfy.state_loading import IncompleteModel
from support import managed
from support.networks import relative_difference, with_random_weights
from support.simulated_device import SimulatedDevice

WIDTH, TOKENS, CONTEXT, LAYERS, INNER = 64, 5, 24, 3, 96


class QuickGELU(nn.Module):
    """``x sigma(1.702 x)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (1 + torch.exp(-1.702 * x))


class Layer(nn.Module):
    """A transformer layer, its norms before attention and MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 8, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, INNER))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(INNER, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.ln_1(x)
        x = x + self.attn(q, q, q, need_weights=False)[0]
        joined: torch.Tensor = x + self.mlp(self.ln_2(x))
        return joined


class Adapter(nn.Module):
    """The style adapter out of torch's layers; its parameters have the published names."""

    def __init__(self) -> None:
        super().__init__()
        self.style_embedding = nn.Parameter(torch.zeros(1, TOKENS, WIDTH))
        self.transformer_layes = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.zeros(WIDTH, CONTEXT))

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([seen, self.style_embedding.repeat(len(seen), 1, 1)], dim=1)
        last = self.transformer_layes(self.ln_pre(whole))[:, seen.shape[1] :]
        tokens: torch.Tensor = torch.einsum("btw,wc->btc", self.ln_post(last), self.proj)
        return tokens


class Redux(nn.Module):
    """Flux Redux out of torch's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.redux_up, self.redux_down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, CONTEXT)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        up = self.redux_up(seen)
        tokens: torch.Tensor = self.redux_down(up * torch.sigmoid(up))
        return tokens


KINDS = {"adapter": Adapter, "redux": Redux}


def _written(theirs: nn.Module, path: Path, **changed: torch.Tensor) -> str:
    save_file({**theirs.state_dict(), **changed}, path)
    return str(path)


def _seen(width: int = WIDTH) -> comfy.clip_vision.Output:
    output = comfy.clip_vision.Output()
    values = torch.randn(2, 9, width, generator=torch.Generator().manual_seed(1))
    output.last_hidden_state = values
    return output


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_tokens_are_those_of_torchs_layers(kind: str, tmp_path: Path) -> None:
    theirs = with_random_weights(KINDS[kind]())
    model = comfy.sd.load_style_model(_written(theirs, tmp_path / "style.safetensors"))
    got, wanted = model.get_cond(_seen()), theirs(_seen().last_hidden_state)
    assert wanted.shape == (2, {"adapter": TOKENS, "redux": 9}[kind], CONTEXT)
    assert relative_difference(got, wanted) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_half_precision_weights_are_computed_in_full(kind: str, tmp_path: Path) -> None:
    theirs = with_random_weights(KINDS[kind]()).half()
    model = comfy.sd.load_style_model(_written(theirs, tmp_path / "style.safetensors"))
    got = model.get_cond(_seen())
    assert got.dtype == torch.float32
    assert relative_difference(got, theirs.float()(_seen().last_hidden_state)) <= 1e-5


def test_pickled_file_is_read_too(tmp_path: Path) -> None:
    theirs = with_random_weights(Adapter())
    torch.save(theirs.state_dict(), tmp_path / "style.pth")
    model = comfy.sd.load_style_model(str(tmp_path / "style.pth"))
    with torch.no_grad():
        wanted = theirs(_seen().last_hidden_state)
    assert relative_difference(model.get_cond(_seen()), wanted) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stay_in_their_file_until_a_picture_comes(
    kind: str, tmp_path: Path, simgpu: SimulatedDevice
) -> None:
    with managed.own_manager(simgpu.device, strategy="file-slice"):
        theirs = with_random_weights(KINDS[kind]())
        model = comfy.sd.load_style_model(_written(theirs, tmp_path / "style.safetensors"))
        weights = model.model.parameters
        assert all(isinstance(one, FileTensor) and one.is_in_file for one in weights())
        got = model.get_cond(_seen())
        assert all(one.device == simgpu.device for one in weights())
        with torch.no_grad():
            assert relative_difference(got, theirs(_seen().last_hidden_state)) <= 1e-3
        comfy.model_management.unload_all_models()
        assert all(isinstance(one, FileTensor) and one.is_in_file for one in weights())


# -- faults --------------------------------------------------------------------------------------


def test_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    save_file({"decoder.conv_in.weight": torch.zeros(4)}, path)
    with pytest.raises(RuntimeError, match=r"vae\.safetensors is not a style model but looks like"):
        comfy.sd.load_style_model(str(path))


def test_unknown_file_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({f"a.{number}.odd": torch.zeros(4) for number in range(5)}, path)
    with pytest.raises(RuntimeError, match=r"odd\.safetensors is not a style model that.*'a\.0\.o"):
        comfy.sd.load_style_model(str(path))


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("adapter", "proj"),
        ("adapter", "ln_post.bias"),
        ("adapter", "transformer_layes.0.mlp.c_fc.weight"),
        ("redux", "redux_down.weight"),
        ("redux", "redux_up.bias"),
    ],
)
def test_incomplete_file_is_refused_by_name(kind: str, lost: str, tmp_path: Path) -> None:
    state = KINDS[kind]().state_dict()
    del state[lost]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(RuntimeError, match=rf"cut\.safetensors.*{lost}"):
        comfy.sd.load_style_model(str(tmp_path / "cut.safetensors"))


@pytest.mark.parametrize(
    ("kind", "key", "shape"),
    [
        ("adapter", "proj", ()),
        ("adapter", "style_embedding", ()),
        ("adapter", "transformer_layes.0.attn.in_proj_weight", (2,)),
        ("redux", "redux_up.weight", ()),
    ],
)
def test_file_with_a_tensor_of_an_impossible_shape_is_damaged(
    kind: str, key: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    odd = _written(KINDS[kind](), tmp_path / "odd.safetensors", **{key: torch.zeros(shape)})
    with pytest.raises(IncompleteModel, match=r"odd\.safetensors: style model is damaged"):
        comfy.sd.load_style_model(odd)


def test_lost_part_of_a_later_layer_is_told_too(tmp_path: Path) -> None:
    state = Adapter().state_dict()
    del state["transformer_layes.2.attn.in_proj_bias"]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(IncompleteModel, match=r"layers\.2\.self_attn\.q_proj\.bias"):
        comfy.sd.load_style_model(str(tmp_path / "cut.safetensors"))


def test_tensors_of_no_use_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more: dict[str, Any] = {"extra": torch.zeros(1)}
    comfy.sd.load_style_model(_written(Adapter(), tmp_path / "style.safetensors", **more))
    assert "style.safetensors: style model: left over and not used: 'extra'" in caplog.text


def test_style_model_named_as_a_checkpoint_is_told(tmp_path: Path) -> None:
    path = _written(Redux(), tmp_path / "style.safetensors")
    with pytest.raises(RuntimeError, match=r"looks like a style model: load it with StyleModelLo"):
        comfy.sd.load_checkpoint_guess_config(path)


def test_picture_of_another_encoder_is_refused(tmp_path: Path) -> None:
    model = comfy.sd.load_style_model(_written(Redux(), tmp_path / "style.safetensors"))
    with pytest.raises(ValueError, match=r"tokens of width 64, these have 32: use the CLIP vision"):
        model.get_cond(_seen(32))
