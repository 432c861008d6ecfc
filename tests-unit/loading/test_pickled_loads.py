"""Pickled checkpoints through every strategy: the values that torch.load gives, each byte once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading.errors import HeaderProblem, InvalidWeightFile
from comfy.loading.loader import LoadedFile, Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.testing import as_bytes
from support.census import descriptors_of
from support.files import write_checkpoint, write_compressed_checkpoint
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024
STRATEGIES = ["mmap", "readinto", "file-slice"]
WHERES = ["host", "simgpu"]
KINDS = ["zip", "legacy", "compressed"]


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(23)
    large = torch.randn(600, 1024, generator=generator)
    return {
        "large": large,
        "half": torch.randn(1024, 700, generator=generator).half(),
        "transposed": torch.randn(40, 30, generator=generator).t(),
        "every.other": torch.randn(64, generator=generator)[::2],
        "rows": large[100:200],
        "column": large[:, 3],
        "expanded": torch.randn(1, 5, generator=generator).expand(4, 5),
        "steps": torch.tensor(1234),
        "empty": torch.empty(0, 3),
        "mask": torch.tensor([True, False]),
        "float8": torch.randn(16, generator=generator).to(torch.float8_e4m3fn),
    }


def write(kind: str, folder: Path) -> Path:
    path = folder / "model.ckpt"
    if kind == "compressed":
        return write_compressed_checkpoint(path, weights())
    return write_checkpoint(path, weights(), legacy=kind == "legacy")


def open_file(path: Path, strategy: str, where: str = "host", **request: Any) -> LoadedFile:
    device = torch.device("simgpu:0") if where == "simgpu" else None
    loader = Loader(LoadOptions(strategy, staging_bytes=MIB), run_device=device or "cpu")
    opened = loader.open(LoadRequest(path=str(path), **{"device": device, **request}))
    loader.close()
    return opened


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_values_are_those_that_were_saved(
    tmp_path: Path, simgpu: SimulatedDevice, strategy: str, where: str, kind: str
) -> None:
    opened = open_file(write(kind, tmp_path), strategy, where)
    expected = weights()
    assert list(opened.state_dict) == list(expected)
    for name, tensor in expected.items():
        found = opened.state_dict[name]
        assert found.device.type == ("simgpu" if where == "simgpu" else "cpu"), name
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
        assert as_bytes(found) == as_bytes(tensor), name
    assert opened.metadata is None


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("where", WHERES)
def test_cast_applies_to_strided_tensors_as_well(
    tmp_path: Path, simgpu: SimulatedDevice, strategy: str, where: str
) -> None:
    opened = open_file(write("zip", tmp_path), strategy, where, dtype=torch.float64)
    for name, tensor in weights().items():
        expected = tensor.double() if tensor.is_floating_point() else tensor
        assert opened.state_dict[name].dtype == expected.dtype, name
        assert as_bytes(opened.state_dict[name]) == as_bytes(expected), name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_chosen_keys_are_all_that_is_read(tmp_path: Path, strategy: str) -> None:
    opened = open_file(write("zip", tmp_path), strategy, keys=frozenset({"half", "steps"}))
    assert list(opened.state_dict) == ["half", "steps"]
    assert opened.report.bytes_read <= weights()["half"].nbytes + 8
    assert as_bytes(opened.state_dict["half"]) == as_bytes(weights()["half"])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("legacy", [False, True])
def test_tied_weights_are_read_once_and_stay_one(
    tmp_path: Path, simgpu: SimulatedDevice, strategy: str, where: str, legacy: bool
) -> None:
    tied = torch.randn(512, 1024)
    state = {"embedding": tied, "other": torch.randn(300, 1024), "head": tied, "turned": tied.t()}
    path = write_checkpoint(tmp_path / "tied.ckpt", state, legacy=legacy)
    opened = open_file(path, strategy, where)
    found = opened.state_dict
    assert {name: as_bytes(one) for name, one in found.items()} == {
        name: as_bytes(one) for name, one in state.items()
    }
    if where == "simgpu":
        assert found["head"].data_ptr() == found["embedding"].data_ptr()
    else:
        with torch.no_grad():
            found["head"].fill_(7)
        # One memory: a write through one name is seen through the others, as after torch.load.
        assert found["embedding"].min() == found["turned"].max() == 7
    # On a device the turned one is a tensor of its own. Small gaps are read along.
    copies = 2 if where == "simgpu" else 1
    most = copies * tied.nbytes + state["other"].nbytes + 4096
    assert opened.report.bytes_read <= most


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_values_and_nested_tables_are_kept(tmp_path: Path, strategy: str) -> None:
    inner = {"w": torch.randn(4, 4), "deep": {"list": [torch.ones(3), 2, ("x", torch.zeros(2))]}}
    path = tmp_path / "nested.pt"
    torch.save({"ema": inner, "weight": torch.arange(5.0), "epoch": 7, "name": "run"}, path)
    state = open_file(path, strategy).state_dict
    assert list(state) == ["ema", "weight", "epoch", "name"]
    assert (state["epoch"], state["name"]) == (7, "run")
    assert torch.equal(state["weight"], torch.arange(5.0))
    assert torch.equal(state["ema"]["w"], inner["w"])
    first, second, (name, last) = state["ema"]["deep"]["list"]
    assert torch.equal(first, torch.ones(3))
    assert (second, name) == (2, "x")
    assert torch.equal(last, torch.zeros(2))
    assert descriptors_of(path) == [] or strategy == "file-slice"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("nested", [True, False])
def test_state_dict_inside_is_unwrapped(tmp_path: Path, strategy: str, nested: bool) -> None:
    path = write_checkpoint(tmp_path / "model.ckpt", {"w": torch.ones(3)}, nested=nested)
    state = open_file(path, strategy).state_dict
    assert list(state) == ["w"]
    assert state["w"].tolist() == [1.0] * 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parameters_become_weights(tmp_path: Path, strategy: str) -> None:
    path = tmp_path / "model.pth"
    torch.save({"w": torch.nn.Parameter(torch.ones(3)), "b": torch.zeros(2)}, path)
    state = open_file(path, strategy).state_dict
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        "w": [1.0] * 3,
        "b": [0.0] * 2,
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("where", WHERES)
def test_shards_of_pickles_are_one_state_dict(
    tmp_path: Path, simgpu: SimulatedDevice, strategy: str, where: str
) -> None:
    names = list(weights())
    homes = {name: f"pytorch_model-{number % 2}.bin" for number, name in enumerate(names)}
    for home in set(homes.values()):
        share = {name: one for name, one in weights().items() if homes[name] == home}
        write_checkpoint(tmp_path / home, share, nested=False)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    state = open_file(index, strategy, where).state_dict
    assert set(state) == set(names)
    assert {name: as_bytes(one) for name, one in state.items()} == {
        name: as_bytes(one) for name, one in weights().items()
    }


class _Program:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_program_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    path = tmp_path / "bad.ckpt"
    torch.save({"w": torch.ones(3), "x": _Program()}, path)
    with pytest.raises(InvalidWeightFile) as caught:
        open_file(path, strategy)
    assert caught.value.problem is HeaderProblem.UNSAFE_PICKLE
    assert "print" in str(caught.value)
    assert capsys.readouterr().out == ""
    assert descriptors_of(path) == []
