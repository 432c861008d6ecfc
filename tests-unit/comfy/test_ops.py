"""Layers that take their weight from its home: the same numbers as torch's, whatever is brought."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import comfy.ops
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.ops import disable_weight_init, fp8_ops, manual_cast, mixed_precision_ops
from comfy.quant_ops import UnsupportedQuantization
from support.raw_files import write_safetensors
from support.simulated_device import SimulatedDevice

Case = tuple[str, tuple[Any, ...], Callable[[], torch.Tensor]]

CASES: list[Case] = [
    ("Linear", (6, 4), lambda: torch.randn(2, 6)),
    ("Conv1d", (4, 6, 3), lambda: torch.randn(2, 4, 9)),
    ("Conv2d", (4, 6, 3), lambda: torch.randn(2, 4, 8, 8)),
    ("Conv3d", (2, 3, 3), lambda: torch.randn(1, 2, 5, 5, 5)),
    ("ConvTranspose1d", (4, 6, 3, 2), lambda: torch.randn(2, 4, 7)),
    ("ConvTranspose2d", (4, 6, 3, 2), lambda: torch.randn(2, 4, 5, 5)),
    ("GroupNorm", (2, 4), lambda: torch.randn(2, 4, 3, 3)),
    ("LayerNorm", (6,), lambda: torch.randn(2, 6)),
    ("RMSNorm", (6,), lambda: torch.randn(2, 6)),
]


def _filled(layer: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return layer.requires_grad_(False)


@pytest.mark.parametrize("family", [disable_weight_init, manual_cast, fp8_ops])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_layer_computes_what_torchs_layer_does(family: Any, case: Case) -> None:
    name, arguments, make = case
    layer = _filled(getattr(family, name)(*arguments))
    twin = getattr(nn, name)(*arguments)
    twin.load_state_dict(layer.state_dict())
    x = make()
    assert isinstance(layer, getattr(nn, name))
    assert torch.equal(layer(x), twin(x))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_manual_cast_computes_in_the_dtype_and_on_the_device_of_its_input(
    simgpu: SimulatedDevice, case: Case
) -> None:
    name, arguments, make = case
    layer = _filled(getattr(manual_cast, name)(*arguments, dtype=torch.float16))
    twin = getattr(nn, name)(*arguments)
    twin.load_state_dict(layer.state_dict())
    x = make().to(simgpu.device)
    out = layer(x)
    assert (out.dtype, out.device) == (torch.float32, simgpu.device)
    assert torch.allclose(out.cpu(), twin(x.cpu()), atol=1e-5)
    assert layer.weight.dtype == torch.float16
    assert layer.weight.device.type == "cpu"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_building_a_layer_leaves_its_memory_alone(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a weight was initialised")

    for name in ("kaiming_uniform_", "uniform_", "ones_", "zeros_", "normal_"):
        monkeypatch.setattr(nn.init, name, refuse)
    name, arguments, _ = case
    getattr(disable_weight_init, name)(*arguments)
    assert getattr(disable_weight_init, name)(*arguments, device="meta").weight.is_meta


def test_a_transposed_convolution_honours_the_size_asked_for() -> None:
    layer = _filled(manual_cast.ConvTranspose2d(4, 6, 3, stride=2))
    assert layer(torch.randn(1, 4, 5, 5), output_size=[12, 12]).shape == (1, 6, 12, 12)


@pytest.mark.parametrize("family", [disable_weight_init, manual_cast])
def test_an_embedding_casts_rows_and_not_its_table(family: Any) -> None:
    layer = _filled(family.Embedding(7, 4, dtype=torch.float16))
    rows = torch.tensor([[1, 6], [0, 1]])
    assert torch.equal(layer(rows), layer.weight[rows])
    assert torch.equal(layer(rows, out_dtype=torch.float32), layer.weight[rows].float())


@pytest.mark.parametrize(("dims", "kind"), [(1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)])
def test_conv_nd_makes_the_convolution_of_its_family(dims: int, kind: type) -> None:
    layer = manual_cast.conv_nd(dims, 2, 3, 1, device="meta")
    assert isinstance(layer, kind)
    assert layer.comfy_cast_weights
    with pytest.raises(ValueError, match="4 dimensions"):
        manual_cast.conv_nd(4, 2, 3, 1)


def test_a_weight_in_a_file_goes_straight_to_the_device_for_one_call(
    simgpu: SimulatedDevice, tmp_path: Path
) -> None:
    values = {"weight": torch.randn(64, 64), "bias": torch.randn(64)}
    path = write_safetensors(tmp_path / "one.safetensors", values)
    loader = Loader(LoadOptions(strategy="file-slice"), run_device=simgpu.device)
    state = loader.open(LoadRequest(path=str(path), device=None)).state_dict
    layer = manual_cast.Linear(64, 64, device="meta")
    layer.load_state_dict(state, assign=True)
    x = torch.randn(2, 64)
    with torch.inference_mode():
        out = layer(x.to(simgpu.device)).cpu()
    assert torch.allclose(out, nn.functional.linear(x, values["weight"], values["bias"]), atol=1e-5)
    assert simgpu.counters.h2d_bytes == x.nbytes
    assert layer.weight.is_in_file


def test_functions_of_a_weight_run_around_its_cast_and_leave_it_alone() -> None:
    layer = _filled(disable_weight_init.Linear(4, 3, dtype=torch.float16))
    seen: list[torch.dtype] = []

    def late(weight: torch.Tensor) -> torch.Tensor:
        seen.append(weight.dtype)
        return weight + 1

    class Early:
        in_storage_dtype = True

        def __call__(self, weight: torch.Tensor) -> torch.Tensor:
            seen.append(weight.dtype)
            return weight * 2

    before = layer.weight.clone()
    layer.weight_function.append(late)
    layer.weight_function.append(Early())
    layer.bias_function.append(late)
    x = torch.randn(2, 4)
    expected = nn.functional.linear(x, before.float() * 2 + 1, layer.bias.float() + 1)
    assert torch.equal(layer(x), expected)
    assert seen == [torch.float16, torch.float32, torch.float32]
    assert torch.equal(layer.weight, before)
    assert disable_weight_init.Linear(4, 3).weight_function == []


def test_a_pack_may_replace_how_a_kind_of_layer_is_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = _filled(manual_cast.GroupNorm(2, 4))
    monkeypatch.setattr(
        disable_weight_init.GroupNorm, "forward_comfy_cast_weights", lambda self, x: x * 0
    )
    assert not layer(torch.randn(1, 4, 2)).any()


def test_what_was_borrowed_is_given_back_once_with_and_without_a_handle() -> None:
    class Loan:
        def __init__(self) -> None:
            self.releases = 0

        def get(self, name: str) -> torch.Tensor | None:
            return torch.ones(3, 4) if name == "weight" else None

        def release(self) -> None:
            self.releases += 1

    class Stream:
        def __init__(self) -> None:
            self.loans: list[Loan] = []

        def borrow(self, layer: Any) -> Loan:
            self.loans.append(Loan())
            return self.loans[-1]

    layer = _filled(manual_cast.Linear(4, 3))
    stream = layer.weight_stream = Stream()
    x = torch.randn(2, 4)
    assert torch.equal(layer(x), nn.functional.linear(x, torch.ones(3, 4), layer.bias))
    weight, bias = comfy.ops.cast_bias_weight(layer, x)
    assert torch.equal(weight, torch.ones(3, 4))
    weight, bias, handle = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    comfy.ops.uncast_bias_weight(layer, weight, bias, handle)
    assert [loan.releases for loan in stream.loans] == [1, 1, 1]


def test_casting_helpers_follow_the_input() -> None:
    weight, x = torch.ones(2, dtype=torch.float16), torch.ones(2, dtype=torch.float64)
    assert comfy.ops.cast_to_input(weight, x).dtype == torch.float64
    assert comfy.ops.cast_to(weight) is weight
    assert comfy.ops.cast_to(weight, copy=True) is not weight
    queued = comfy.ops.cast_to(weight, torch.float32, stream=torch.cpu.current_stream())
    assert torch.equal(queued, torch.ones(2))


# -- eight bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("family", [manual_cast, fp8_ops])
def test_weights_in_eight_bits_are_computed_in_the_inputs_dtype(
    family: Any, dtype: torch.dtype
) -> None:
    layer = _filled(family.Linear(8, 8, dtype=dtype))
    x = torch.randn(2, 8)
    expected = nn.functional.linear(x, layer.weight.float(), layer.bias.float())
    assert torch.equal(layer(x), expected)


def _marker(**settings: Any) -> torch.Tensor:
    return torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("rows", [False, True], ids=["one scale", "a scale per row"])
def test_a_scaled_weight_is_what_is_stored_times_its_scale(rows: bool) -> None:
    scale = torch.rand(6, 1) + 0.5 if rows else torch.tensor(0.25)
    stored = torch.randn(6, 8).to(torch.float8_e4m3fn)
    state = {
        "weight": stored,
        "bias": torch.randn(6),
        "weight_scale": scale,
        "comfy_quant": _marker(format="float8_e4m3fn"),
    }
    layer = mixed_precision_ops().Linear(8, 6, device="meta")
    assert layer.load_state_dict(dict(state), assign=True) == ([], [])
    x = torch.randn(2, 8)
    assert torch.equal(layer(x), nn.functional.linear(x, stored.float() * scale, state["bias"]))
    saved = layer.state_dict()
    assert saved.keys() == state.keys()
    assert torch.equal(saved["comfy_quant"], state["comfy_quant"])


def test_a_layer_without_a_marker_is_a_plain_one() -> None:
    layer = mixed_precision_ops().Linear(4, 3, device="meta")
    state = {"weight": torch.randn(3, 4).half(), "bias": torch.randn(3).half()}
    layer.load_state_dict(state, assign=True)
    x = torch.randn(2, 4)
    expected = nn.functional.linear(x, state["weight"].float(), state["bias"].float())
    assert torch.equal(layer(x), expected)
    assert layer.state_dict().keys() == state.keys()


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        (_marker(format="nvfp4"), "'nvfp4'"),
        (_marker(), "None"),
        (torch.tensor([255, 1], dtype=torch.uint8), "no JSON"),
        (torch.tensor(list(b"[]"), dtype=torch.uint8), "no JSON object"),
    ],
)
def test_a_format_that_cannot_be_read_is_an_error_that_names_it(
    marker: torch.Tensor, told: str
) -> None:
    layer = mixed_precision_ops().Linear(4, 3, bias=False, device="meta")
    with pytest.raises(UnsupportedQuantization, match=told):
        layer.load_state_dict({"weight": torch.ones(3, 4), "comfy_quant": marker}, assign=True)


def test_storing_a_wide_weight_undoes_widening() -> None:
    layer = mixed_precision_ops().Linear(8, 6, bias=False, device="meta")
    stored = torch.randn(6, 8).to(torch.float8_e4m3fn)
    marker = _marker(format="float8_e4m3fn")
    layer.load_state_dict(
        {"weight": stored, "weight_scale": torch.tensor(0.5), "comfy_quant": marker}, assign=True
    )
    wide = layer.convert_weight(layer.weight)
    for seed in (None, 4):
        again = layer.set_weight(wide, seed=seed, return_weight=True)
        assert torch.equal(again.view(torch.uint8), stored.view(torch.uint8))
    layer.set_weight(wide * 2)
    assert torch.equal(layer.convert_weight(layer.weight), wide * 2)


@pytest.mark.parametrize(
    ("weight", "compute", "fp8", "quant", "expected"),
    [
        (torch.float16, None, False, None, disable_weight_init),
        (torch.float16, torch.float16, False, None, disable_weight_init),
        (torch.float16, torch.float32, False, None, manual_cast),
        (torch.float8_e4m3fn, torch.float16, False, None, manual_cast),
        (torch.float8_e4m3fn, torch.float16, True, None, fp8_ops),
    ],
)
def test_operations_are_picked_by_dtypes(
    weight: torch.dtype, compute: Any, fp8: bool, quant: Any, expected: type
) -> None:
    assert comfy.ops.pick_operations(weight, compute, fp8_optimizations=fp8) is expected


def test_a_quantised_model_gets_layers_that_read_markers() -> None:
    class Config:
        quant_config = {"mixed_ops": True}  # noqa: RUF012 - as model configs have it

    picked = comfy.ops.pick_operations(torch.float16, torch.float16, model_config=Config())
    assert "weight_scale" in dict(picked.Linear(2, 2, device="meta")._parameters)
