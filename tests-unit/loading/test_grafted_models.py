"""The model patcher's hooks: which weights are taken over, moved, and let go, and which are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfy.loading.default import default_loader
from comfy.loading.file_tensor import FileTensor
from comfy.loading.grafted import activity, files, flags, models, patches
from comfy.loading.options import LoadOptions
from support.simulated_device import SimulatedDevice

WIDTH = 64


@pytest.fixture(autouse=True)
def _asked_for(simgpu: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A program with ``--load-strategy=file-slice`` on the simulated device."""
    loader = default_loader()
    before = loader.options, loader.run_device
    monkeypatch.setattr(flags._taken, "options", LoadOptions(strategy="file-slice"))
    monkeypatch.setattr(activity._program, "device", lambda: simgpu.device)
    yield
    loader.configure(before[0])
    loader.run_device = before[1]


@pytest.fixture(params=[False, True], ids=["counted", "inference"])
def _mode(request: pytest.FixtureRequest) -> Iterator[None]:
    """ComfyUI executes graphs in inference mode, where torch counts no writes."""
    with torch.inference_mode(request.param):
        yield


class Net(torch.nn.Module):
    """Two layers, one of them used twice, and a table."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.one = torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=dtype)
        self.two = torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=dtype)
        self.again = torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=dtype)
        self.again.weight = self.two.weight
        self.register_buffer("table", torch.zeros(8))


@pytest.fixture
def values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    names = ("one.weight", "two.weight", "again.weight")
    found = {name: torch.randn(WIDTH, WIDTH, generator=generator) for name in names}
    found["again.weight"] = found["two.weight"].clone()
    return {**found, "table": torch.arange(8.0)}


@pytest.fixture
def state(tmp_path: Path, values: dict[str, torch.Tensor]) -> dict[str, Any]:
    save_file(values, tmp_path / "net.safetensors")
    loaded = files.load(tmp_path / "net.safetensors")
    assert loaded is not None
    return loaded[0]


def _filled(state: dict[str, Any], net: Net) -> Net:
    missing, unexpected = net.load_state_dict(models.adopt(net, state), strict=False)
    assert not missing
    assert not unexpected
    return net


def _kinds(net: torch.nn.Module) -> set[str]:
    return {type(one).__name__ for one in net.parameters()}


def _has(net: Net, values: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(net.state_dict()[name].cpu(), value) for name, value in values.items())


@pytest.mark.usefixtures("_mode")
def test_weights_become_parameters_without_being_read(
    state: dict[str, Any], values: dict[str, torch.Tensor]
) -> None:
    file = state["one.weight"].file_slice.file
    before = file.bytes_read
    net = _filled(state, Net())
    assert _kinds(net) == {"FileTensor"}
    assert file.bytes_read - before == 8 * 4  # the table is a buffer, and copied
    assert net.two.weight is net.again.weight
    assert _has(net, values)


@pytest.mark.parametrize("assign", [False, True])
def test_either_way_of_loading_keeps_what_was_taken_over(
    assign: bool, state: dict[str, Any], values: dict[str, torch.Tensor]
) -> None:
    net = Net()
    net.load_state_dict(models.adopt(net, state), assign=assign)
    assert _kinds(net) == {"FileTensor"}
    assert _has(net, values)


def test_what_has_another_dtype_is_copied(state: dict[str, Any]) -> None:
    net = _filled(state, Net(torch.float16))
    assert _kinds(net) == {"Parameter"}
    assert net.one.weight.dtype == torch.float16


def test_what_has_another_shape_is_left_to_torch_to_refuse(state: dict[str, Any]) -> None:
    net = Net()
    net.one = torch.nn.Linear(WIDTH, 2 * WIDTH, bias=False)
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(models.adopt(net, state))


def test_parameters_on_the_device_are_filled_there(
    state: dict[str, Any], values: dict[str, torch.Tensor], simgpu: SimulatedDevice
) -> None:
    net = _filled(state, Net().to(simgpu.device))
    assert {one.device for one in net.parameters()} == {simgpu.device}
    assert _has(net, values)


def test_without_a_wish_the_very_dict_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags._taken, "options", LoadOptions(unified="off"))
    given = {"one.weight": torch.zeros(WIDTH, WIDTH)}
    assert models.adopt(Net(), given) is given


def _loaded(net: Net, simgpu: SimulatedDevice, patches: tuple[str, ...] = ()) -> None:
    entries = [(1, "one", net.one, ["weight"]), (0, 1, "two", net.two), (1, "again", net.again)]
    models.place(net, entries, simgpu.device, patches)


@pytest.mark.usefixtures("_mode")
def test_a_tied_weight_is_on_the_device_once_and_goes_home_once(
    state: dict[str, Any], values: dict[str, torch.Tensor], simgpu: SimulatedDevice
) -> None:
    net = _filled(state, Net())
    _loaded(net, simgpu)
    assert net.two.weight is net.again.weight
    assert simgpu.allocated_bytes == 2 * WIDTH * WIDTH * 4
    assert _has(net, values)

    models.return_home(net, torch.device("cpu"))
    assert net.two.weight is net.again.weight
    assert _kinds(net) == {"FileTensor"}
    assert simgpu.allocated_bytes == 0
    assert _has(net, values)


@pytest.mark.usefixtures("_mode")
def test_what_is_to_be_patched_stays_in_the_file(
    state: dict[str, Any], simgpu: SimulatedDevice
) -> None:
    net = _filled(state, Net())
    _loaded(net, simgpu, ("one.weight",))
    assert isinstance(net.one.weight, FileTensor)
    assert net.two.weight.device == simgpu.device


@pytest.mark.usefixtures("_mode")
def test_the_host_copy_of_what_is_to_be_patched_is_dropped(
    state: dict[str, Any], values: dict[str, torch.Tensor], simgpu: SimulatedDevice
) -> None:
    net = Net()
    net.load_state_dict(state)
    assert _kinds(net) == {"Parameter"}
    _loaded(net, simgpu, ("one.weight",))
    assert isinstance(net.one.weight, FileTensor)
    assert torch.equal(net.one.weight, values["one.weight"])


@pytest.mark.parametrize("device", [None, "meta", "simgpu:0", "simgpu:1"])
def test_weights_go_home_only_on_their_way_to_the_host(
    device: str | None, state: dict[str, Any], simgpu: SimulatedDevice
) -> None:
    net = _filled(state, Net())
    _loaded(net, simgpu)
    models.return_home(net, device)
    assert {one.device for one in net.parameters()} == {simgpu.device}


def test_what_is_still_patched_is_carried(state: dict[str, Any], simgpu: SimulatedDevice) -> None:
    net = _filled(state, Net())
    _loaded(net, simgpu, ("one.weight",))
    net.one.weight = torch.nn.Parameter(torch.full((WIDTH, WIDTH), 7.0).to(simgpu.device))
    models.return_home(net, "cpu", {"one.weight": "what was there before"})
    net.to("cpu")
    assert isinstance(net.two.weight, FileTensor)
    assert net.one.weight.eq(7).all()


def test_without_a_device_nothing_is_moved(state: dict[str, Any]) -> None:
    net = _filled(state, Net())
    models.place(net, [(1, net.one)], None, ())
    assert _kinds(net) == {"FileTensor"}


@pytest.mark.usefixtures("_mode")
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("strategy", ["readinto", "mmap"])
def test_weights_in_host_memory_go_home_too(
    strategy: str,
    is_written: bool,
    assign: bool,
    tmp_path: Path,
    simgpu: SimulatedDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Large enough for a mapping.
    save_file({"weight": torch.rand(1024, 1024)}, tmp_path / "one.safetensors")
    monkeypatch.setattr(flags._taken, "options", LoadOptions(strategy=strategy))
    loaded = files.load(tmp_path / "one.safetensors")
    assert loaded is not None
    net = torch.nn.Linear(1024, 1024, bias=False)
    net.load_state_dict(models.adopt(net, loaded[0]), assign=assign)
    assert net.weight.data_ptr() == loaded[0]["weight"].data_ptr()
    if is_written:
        with torch.no_grad():
            net.weight.add_(1)
    models.place(net, [(1, net)], simgpu.device, ())
    net.to(simgpu.device)
    models.return_home(net, "cpu")
    assert isinstance(net.weight, FileTensor) is not is_written


@pytest.mark.parametrize("is_adopted", [True, False])
@pytest.mark.usefixtures("_mode")
def test_what_somebody_wrote_before_the_load_is_kept(
    is_adopted: bool, state: dict[str, Any], simgpu: SimulatedDevice
) -> None:
    net = Net()
    net.load_state_dict(models.adopt(net, state) if is_adopted else state)
    with torch.no_grad():
        net.one.weight.fill_(7)
    _loaded(net, simgpu)
    net.to(simgpu.device)
    models.return_home(net, "cpu")
    net.to("cpu")
    assert torch.equal(net.one.weight, torch.full((WIDTH, WIDTH), 7.0))
    assert isinstance(net.two.weight, FileTensor)


def test_what_somebody_wrote_on_the_device_is_kept(
    state: dict[str, Any], simgpu: SimulatedDevice
) -> None:
    net = _filled(state, Net())
    _loaded(net, simgpu)
    with torch.no_grad():
        net.one.weight.fill_(7)
    models.return_home(net, "cpu")
    net.to("cpu")
    assert torch.equal(net.one.weight, torch.full((WIDTH, WIDTH), 7.0))
    assert isinstance(net.two.weight, FileTensor)


def test_what_somebody_replaced_is_kept(state: dict[str, Any], simgpu: SimulatedDevice) -> None:
    net = _filled(state, Net())
    _loaded(net, simgpu)
    net.one.weight = torch.nn.Parameter(torch.ones(2, 2, device=simgpu.device))
    models.return_home(net, "cpu")
    assert net.one.weight.shape == (2, 2)


def test_file_backed_weights_are_not_pinned(state: dict[str, Any]) -> None:
    assert models.must_not_pin(state["one.weight"])
    assert not models.must_not_pin(torch.zeros(3))


def test_free_memory_can_be_asked_for_with_parameters_of_other_versions(
    simgpu: SimulatedDevice,
) -> None:
    def get_free_memory(dev: Any = None, torch_free_too: bool = False, *, more: int = 0) -> Any:
        return more

    program = ModuleType("comfy.model_management")
    vars(program)["get_free_memory"] = get_free_memory
    patches.patch(program)
    assert program.get_free_memory(torch.device("cpu"), more=7) == 7
    assert program.get_free_memory(simgpu.device, more=7) > 7
    free, cached = program.get_free_memory(torch_free_too=True, more=7)
    assert free > 7 and cached >= 0
