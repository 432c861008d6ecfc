"""What becomes of writes to a weight that is still in its file, and of changes to its module."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from comfy.loading.errors import FrozenTensor
from comfy.loading.file_tensor import FileTensor
from comfy.loading.sources import source_of
from support.one_weight import SHAPE, Opened

# -- writing -------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "copy_": lambda t: t.copy_(torch.ones(SHAPE)),
    "mul_": lambda t: t.mul_(3),
    "operator": lambda t: t.__imul__(3),
    "item assignment": lambda t: t.__setitem__((1, 2), 50.0),
    "slice assignment": lambda t: t.__setitem__(slice(1, 3), 0.0),
    "nn.init": lambda t: nn.init.ones_(t),
    "out=": lambda t: torch.add(torch.ones(SHAPE), 1, out=t),
    "foreach in place": lambda t: torch._foreach_mul_([t], 2.0),
    "fill diagonal": lambda t: t.fill_diagonal_(9),
    "index_copy_": lambda t: t.index_copy_(0, torch.tensor([0, 2]), torch.zeros(2, 6)),
    "masked_fill_": lambda t: t.masked_fill_(t > 3, -1.0),
    "clamp_": lambda t: t.clamp_(2, 5),
}


@pytest.mark.parametrize("name", WRITES)
def test_write_is_seen_by_later_reads_and_never_reaches_the_file(opened: Opened, name: str) -> None:
    expected = opened.values.clone()
    WRITES[name](expected)
    WRITES[name](opened.tensor)
    assert torch.equal(opened.tensor, expected)
    assert not opened.tensor.is_in_file
    assert source_of(opened.tensor) is None


@pytest.mark.parametrize("name", WRITES)
def test_write_to_a_parameter_is_seen_by_forward(opened: Opened, name: str) -> None:
    module, expected = opened.module(), opened.values.clone()
    WRITES[name](expected)
    with torch.no_grad():
        WRITES[name](module.weight)
        assert torch.equal(module(torch.eye(6)), expected.t())


def test_in_place_operation_returns_the_tensor_itself(opened: Opened) -> None:
    assert opened.tensor.add_(1) is opened.tensor
    out = torch.neg(torch.ones(SHAPE), out=opened.tensor)
    assert out is opened.tensor


def test_write_inside_inference_mode(opened: Opened) -> None:
    with torch.inference_mode():
        opened.tensor.add_(1)
        assert torch.equal(opened.tensor, opened.values + 1)
    assert torch.equal(opened.tensor, opened.values + 1)


def test_write_frees_the_descriptor(opened: Opened) -> None:
    assert opened.file.is_open
    opened.tensor.zero_()
    assert not opened.file.is_open


SHAPE_CHANGES: dict[str, Callable[[torch.Tensor], object]] = {
    "t_": lambda t: t.t_(),
    "squeeze_": lambda t: t.squeeze_(),
    "resize_": lambda t: t.resize_(2, 2),
    "set_": lambda t: t.set_(torch.ones(3).untyped_storage()),
}


@pytest.mark.parametrize("name", SHAPE_CHANGES)
def test_change_of_shape_in_place_is_refused(opened: Opened, name: str) -> None:
    with pytest.raises(FrozenTensor) as caught:
        SHAPE_CHANGES[name](opened.tensor)
    assert caught.value.path == str(opened.path)
    assert torch.equal(opened.tensor, opened.values)


# -- modules --------------------------------------------------------------------------------------


def test_assigned_module_runs_and_holds_no_bytes(opened: Opened) -> None:
    module = opened.module()
    assert opened.reads == 0
    assert torch.equal(module(torch.eye(6)), opened.values.t())
    assert module.weight.is_in_file


def test_state_dict_of_a_module_reads_nothing(opened: Opened) -> None:
    state = opened.module().state_dict()
    assert isinstance(state["weight"], FileTensor)
    assert opened.reads == 0


@pytest.fixture(params=[False, True], ids=["set data", "swap parameters"])
def swap_switch(request: pytest.FixtureRequest):
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(request.param)
    yield request.param
    torch.__future__.set_swap_module_params_on_conversion(before)


CONVERSIONS: dict[str, Callable[[nn.Module], object]] = {
    "half": lambda m: m.half(),
    "to double": lambda m: m.to(torch.float64),
    "bfloat16": lambda m: m.bfloat16(),
}


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.usefixtures("swap_switch")
def test_module_conversion_keeps_the_values(opened: Opened, name: str) -> None:
    module, plain = opened.module(), nn.Linear(6, 4, bias=False)
    with torch.no_grad():
        plain.weight.copy_(opened.values)
    parameter = module.weight
    CONVERSIONS[name](module)
    CONVERSIONS[name](plain)
    assert module.weight is parameter
    assert isinstance(module.weight, nn.Parameter)
    assert module.weight.dtype == plain.weight.dtype
    assert torch.equal(module.weight, plain.weight)


@pytest.mark.usefixtures("swap_switch")
def test_module_conversion_keeps_tied_weights_tied(opened: Opened) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = opened.module()
            self.two = nn.Linear(6, 4, bias=False)
            self.two.weight = self.one.weight

    module = Tied().half()
    assert module.one.weight is module.two.weight
    assert torch.equal(module.two.weight, opened.values.half())


def test_conversion_under_a_weak_reference_is_right_or_refused(opened: Opened) -> None:
    module = opened.module()
    held_by_a_pack = weakref.ref(module.weight)
    with pytest.raises(FrozenTensor):
        module.half()
    assert held_by_a_pack() is module.weight
    assert torch.equal(module.weight, opened.values)


@pytest.mark.usefixtures("swap_switch")
def test_module_cpu_stays_in_the_file(opened: Opened) -> None:
    module = opened.module().cpu()
    assert isinstance(module.weight, FileTensor)
    assert opened.reads == 0


@pytest.mark.usefixtures("swap_switch")
def test_module_to_meta_reads_nothing(opened: Opened) -> None:
    module = opened.module().to("meta")
    assert module.weight.device.type == "meta"
    assert opened.reads == 0


@pytest.mark.usefixtures("swap_switch")
def test_copying_load_state_dict_over_a_file_tensor_is_not_lost(opened: Opened) -> None:
    module = opened.module()
    module.load_state_dict({"weight": torch.full(SHAPE, 5.0)})
    assert bool((module(torch.eye(6)) == 5).all())


@pytest.mark.usefixtures("swap_switch")
def test_copying_load_state_dict_from_a_file_tensor(opened: Opened) -> None:
    plain = nn.Linear(6, 4, bias=False)
    plain.load_state_dict({"weight": opened.tensor})
    assert torch.equal(plain.weight, opened.values)


DATA_VALUES = {
    "same": torch.full(SHAPE, 2.0),
    "other dtype": torch.full(SHAPE, 2.0, dtype=torch.float16),
    "other shape": torch.full((2, 3), 2.0),
}


@pytest.mark.parametrize("name", DATA_VALUES)
def test_assignment_to_data_takes_effect(opened: Opened, name: str) -> None:
    module, value = opened.module(), DATA_VALUES[name]
    parameter = module.weight
    parameter.data = value
    assert module.weight is parameter
    assert isinstance(parameter, nn.Parameter)
    assert torch.equal(parameter, value)


def test_assignment_to_data_under_a_weak_reference_takes_effect(opened: Opened) -> None:
    module = opened.module()
    held_by_a_pack = weakref.ref(module.weight)
    module.weight.data = torch.full(SHAPE, 2.0)
    assert bool((module(torch.eye(6)) == 2).all())
    assert held_by_a_pack() is module.weight


def test_write_through_data_is_seen(opened: Opened) -> None:
    module = opened.module()
    module.weight.data.mul_(2)
    assert torch.equal(module.weight, opened.values * 2)


def test_requires_grad_can_be_set_and_gradients_flow(opened: Opened) -> None:
    module = opened.module()
    module.weight.requires_grad_(True)
    module(torch.eye(6)).sum().backward()
    assert torch.equal(module.weight.grad, torch.ones(SHAPE))
