"""Stored weights that know their scale, however their layer was filled."""

from __future__ import annotations

import copy
import io
import json

import pytest
import torch
from torch import nn

import comfy.ops
from comfy.quant_ops import QuantizedTensor, QuantParams, UnsupportedQuantization
from comfy.utils import convert_old_quants

SCALE = 0.5


class Three(nn.Module):
    """Two layers that are stored in eight bits, and a wide one between them."""

    def __init__(self, operations: type[comfy.ops.manual_cast]) -> None:
        super().__init__()
        for name in "abc":
            layer = operations.Linear(6, 6, device="cpu", dtype=torch.bfloat16)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x)))


def wide_state() -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(3)
    return {
        f"{layer}.{kind}": torch.randn(*shape, generator=made).bfloat16()
        for layer in "abc"
        for kind, shape in (("weight", (6, 6)), ("bias", (6,)))
    }


def stored_state(form: str = "float8_e4m3fn") -> dict[str, torch.Tensor]:
    state = wide_state()
    for layer in "ac":
        state[f"{layer}.weight"] = state[f"{layer}.weight"].to(torch.float8_e4m3fn)
        state[f"{layer}.weight_scale"] = torch.tensor(SCALE)
    told = {"layers": {layer: {"format": form} for layer in "ac"}}
    marked, _ = convert_old_quants(state, metadata={"_quantization_metadata": json.dumps(told)})
    return dict(marked)


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


@pytest.fixture(params=[False, True], ids=["copied", "assigned"])
def model(request: pytest.FixtureRequest) -> Three:
    made = Three(comfy.ops.mixed_precision_ops({}))
    told = made.load_state_dict(stored_state(), strict=True, assign=request.param)
    assert told == ([], [])
    return made


def expected(x: torch.Tensor, change: float = 0.0) -> torch.Tensor:
    state = stored_state()
    for layer in "abc":
        weight = state[f"{layer}.weight"].float()
        if layer != "b":
            weight = weight * SCALE
        if layer == "a":
            weight = weight + change
        x = nn.functional.linear(x, weight, state[f"{layer}.bias"].float())
    return x


def test_a_layer_filled_in_either_way_computes_with_its_scale(model: Three) -> None:
    x = torch.randn(2, 6)
    torch.testing.assert_close(model(x), expected(x))
    assert model(x.bfloat16()).dtype == torch.bfloat16


def test_stored_weights_know_their_scale_and_wide_ones_are_plain(model: Three) -> None:
    weight = model.a.weight
    assert isinstance(weight, QuantizedTensor)
    assert isinstance(weight, nn.Parameter)
    assert not isinstance(model.b.weight, QuantizedTensor)
    assert (weight.layout_cls, weight.params.scale) == ("TensorCoreFP8E4M3Layout", SCALE)
    assert (weight._layout_cls, weight._params) == (weight.layout_cls, weight.params)
    assert type(weight._qdata) is torch.Tensor
    wide = weight.dequantize()
    assert wide.dtype == torch.bfloat16 == weight.params.orig_dtype
    assert torch.equal(wide, (stored_state()["a.weight"].float() * SCALE).bfloat16())


def test_the_state_is_what_was_loaded_to_the_bit(model: Three) -> None:
    state, before = model.state_dict(), stored_state()
    assert state.keys() == before.keys()
    for key, value in before.items():
        assert type(state[key]) is torch.Tensor
        assert state[key].dtype == value.dtype
        assert torch.equal(as_bytes(state[key]), as_bytes(value))


def test_functions_of_a_weight_see_it_widened(model: Three) -> None:
    seen = []

    def change(weight: torch.Tensor) -> torch.Tensor:
        seen.append((type(weight), weight.dtype))
        return weight + 0.25

    model.a.weight_function.append(change)
    x = torch.randn(2, 6)
    torch.testing.assert_close(model(x), expected(x, 0.25))
    assert seen == [(torch.Tensor, torch.float32)]


def test_layers_without_marks_are_plain_ones() -> None:
    model = Three(comfy.ops.mixed_precision_ops({}))
    model.load_state_dict(wide_state())
    x = torch.randn(5, 6, dtype=torch.bfloat16)
    assert model(x).shape == (5, 6)
    assert type(model.a.weight) is nn.Parameter
    assert model.state_dict().keys() == wide_state().keys()


@pytest.mark.parametrize("kind", [ValueError, KeyError])
def test_an_unknown_format_is_told_as_it_is(kind: type[Exception]) -> None:
    model = Three(comfy.ops.mixed_precision_ops({}))
    with pytest.raises(kind) as caught:
        model.load_state_dict(stored_state("from_tomorrow"), strict=False)
    assert isinstance(caught.value, UnsupportedQuantization)
    assert str(caught.value).startswith("a.weight is stored as 'from_tomorrow'; known here: ")


def test_a_moved_or_copied_model_computes_the_same(model: Three) -> None:
    x = torch.randn(2, 6)
    wanted = model(x)
    twin = copy.deepcopy(model)
    assert isinstance(twin.a.weight, QuantizedTensor)
    assert twin.a.weight.data_ptr() != model.a.weight.data_ptr()
    assert torch.equal(twin(x), wanted)
    assert torch.equal(twin.to("cpu")(x), wanted)


def test_it_can_be_saved_and_read_back() -> None:
    stored = torch.randn(2, 3).to(torch.float8_e5m2)
    params = QuantParams(torch.tensor(2.0), torch.float16, (2, 3))
    one = QuantizedTensor(stored, "TensorCoreFP8E5M2Layout", params)
    assert one.data_ptr() == stored.data_ptr()
    buffer = io.BytesIO()
    torch.save(one, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert isinstance(again, QuantizedTensor)
    assert torch.equal(again.dequantize(), stored.half() * 2)


def test_what_is_computed_of_it_is_plain() -> None:
    params = QuantParams(None, torch.float32, (2, 2))
    one = QuantizedTensor(torch.ones(2, 2).to(torch.float8_e4m3fn), "any", params)
    for made in (one.to(torch.float16), one.clone(), one.view(torch.uint8), one.detach(), one[0]):
        assert type(made) is torch.Tensor
    assert torch.equal(one.dequantize(), torch.ones(2, 2))
