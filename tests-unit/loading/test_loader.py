"""The Loader's face: what a request gives, what the report and the log say of it."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading.errors import (
    FlagConflict,
    InvalidWeightFile,
    LoadError,
    UnknownStrategy,
)
from comfy.loading.file_tensor import FileTensor
from comfy.loading.loader import LoadedFile, Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.sources import is_mapped, source_of
from comfy.loading.testing import as_bytes
from support.census import descriptors_of
from support.files import evict, make_file_set, write_safetensors
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024
STRATEGIES = ["mmap", "readinto", "file-slice"]


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {
        "first.weight": torch.randn(640, 1024, generator=generator),
        "first.bias": torch.randn(640, generator=generator).half(),
        "positions": torch.arange(77),
        "second.weight": torch.randn(1024, 700, generator=generator).bfloat16(),
        "last.weight": torch.randn(300, 1024, generator=generator),
        "scale": torch.tensor(0.5),
        "flags": torch.tensor([True, False, True]),
    }


TOTAL_BYTES = sum(tensor.nbytes for tensor in weights().values())
METADATA = {"format": "pt", "modelspec.title": "a test"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model.safetensors", weights(), METADATA)


def open_file(
    path: Path,
    strategy: str = "auto",
    *,
    run_device: torch.device | str = "cpu",
    options: dict[str, Any] | None = None,
    **request: Any,
) -> LoadedFile:
    chosen = LoadOptions(strategy=strategy, **{"staging_bytes": MIB, **(options or {})})
    loader = Loader(chosen, run_device=run_device)
    opened = loader.open(LoadRequest(path=str(path), **{"device": None, **request}))
    loader.close()
    return opened


def contents(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: as_bytes(tensor) for name, tensor in state.items()}


# -- what a request gives --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_index_of_a_device_is_honoured(
    path: Path, simgpu: SimulatedDevice, second_simgpu: SimulatedDevice, strategy: str
) -> None:
    state = open_file(path, strategy, device=second_simgpu.device).state_dict
    assert {tensor.device for tensor in state.values()} == {torch.device("simgpu:1")}
    assert second_simgpu.counters.uploaded_bytes == TOTAL_BYTES
    assert simgpu.counters.uploads == 0
    assert contents(state) == contents(weights())


def test_meta_device_gets_shapes_and_dtypes_and_reads_no_weight(path: Path) -> None:
    request = LoadRequest(path=str(path), device=torch.device("meta"), dtype=torch.float16)
    loaded = Loader(LoadOptions(), run_device="cpu").open(request)
    for name, tensor in weights().items():
        found = loaded.state_dict[name]
        assert found.device.type == "meta", name
        assert found.shape == tensor.shape, name
        assert found.dtype == (torch.float16 if tensor.is_floating_point() else tensor.dtype), name
    assert loaded.report.bytes_read == 0


def test_device_without_index_is_the_current_one(path: Path, simgpu: SimulatedDevice) -> None:
    state = open_file(path, "file-slice", device=torch.device("simgpu")).state_dict
    assert {tensor.device for tensor in state.values()} == {torch.device("simgpu:0")}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_weight_goes_to_the_device_once_and_through_its_port(
    path: Path, simgpu: SimulatedDevice, strategy: str
) -> None:
    state = open_file(path, strategy, device=simgpu.device).state_dict
    assert simgpu.counters.uploaded_bytes == TOTAL_BYTES
    assert simgpu.counters.h2d_copies == 0
    assert simgpu.allocated_bytes == TOTAL_BYTES
    assert simgpu.peak_bytes == TOTAL_BYTES
    assert contents(state) == contents(weights())


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [
        ("mmap", lambda tensor: is_mapped(tensor) == (tensor.nbytes >= MIB)),
        ("readinto", lambda tensor: type(tensor) is torch.Tensor and not is_mapped(tensor)),
        ("file-slice", lambda tensor: isinstance(tensor, FileTensor) and tensor.is_in_file),
    ],
    ids=STRATEGIES,
)
def test_without_a_device_values_are_as_the_strategy_holds_them(
    path: Path, strategy: str, kind: Any
) -> None:
    state = open_file(path, strategy).state_dict
    assert all(kind(tensor) for tensor in state.values())
    assert {tensor.device.type for tensor in state.values()} == {"cpu"}
    # Whatever it is, it can be dropped and read again.
    assert all(source_of(tensor) is not None for tensor in state.values() if tensor.numel())
    assert contents(state) == contents(weights())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_unknown_key_is_told_by_its_name(path: Path, strategy: str) -> None:
    with pytest.raises(KeyError, match=re.escape("'third.weight'")) as caught:
        open_file(path, strategy, keys=frozenset({"first.bias", "third.weight"}))
    assert str(path) in str(caught.value)
    assert descriptors_of(path) == []


def test_chosen_keys_are_all_that_is_read(path: Path) -> None:
    chosen = {"last.weight", "first.weight"}
    opened = open_file(path, "readinto", keys=frozenset(chosen))
    # In the order of the file, whatever that of the set.
    assert list(opened.state_dict) == ["first.weight", "last.weight"]
    expected = {name: weights()[name] for name in chosen}
    assert contents(opened.state_dict) == contents(expected)
    assert opened.report.bytes_read == sum(tensor.nbytes for tensor in expected.values())


def test_no_keys_give_an_empty_state_dict(path: Path) -> None:
    opened = open_file(path, "readinto", keys=frozenset())
    assert opened.state_dict == {}
    assert opened.report.bytes_read == 0
    assert opened.metadata == METADATA


@pytest.mark.parametrize("where", ["host", "simgpu"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_casts_floating_weights_only(
    path: Path, simgpu: SimulatedDevice, strategy: str, where: str, dtype: torch.dtype
) -> None:
    device = simgpu.device if where == "simgpu" else None
    state = open_file(path, strategy, device=device, dtype=dtype).state_dict
    expected = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in weights().items()
    }
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        name: tensor.dtype for name, tensor in expected.items()
    }
    assert contents(state) == contents(expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_metadata_is_the_files(path: Path, strategy: str) -> None:
    assert open_file(path, strategy).metadata == METADATA


def test_file_without_metadata_has_none(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "bare.safetensors", weights())
    assert open_file(path).metadata is None


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("where", ["host", "simgpu"])
def test_shards_are_one_state_dict(
    tmp_path: Path, simgpu: SimulatedDevice, strategy: str, where: str
) -> None:
    whole = make_file_set("A", tmp_path / "whole", factor=1 / 2048)
    parts = make_file_set("B", tmp_path / "parts", factor=1 / 2048)
    device = simgpu.device if where == "simgpu" else None
    found = open_file(parts.path, strategy, device=device)
    expected = open_file(whole.path, "readinto").state_dict
    assert list(found.state_dict) == list(expected)
    assert contents(found.state_dict) == contents(expected)
    assert found.metadata == {"format": "pt"}
    assert found.report.file_bytes == sum(file.stat().st_size for file in parts.files)


# -- the report ------------------------------------------------------------------------------------


def test_report_of_a_load_to_the_host(path: Path) -> None:
    report = open_file(path, "readinto").report
    assert report.path == str(path)
    assert (report.strategy, report.row) == ("readinto", 0)
    assert report.reasons == ("--load-strategy=readinto",)
    assert report.bytes_read == TOTAL_BYTES
    assert report.bytes_uploaded == 0
    assert report.file_bytes == path.stat().st_size
    assert report.seconds > 0
    assert report.peak.host >= report.before.host


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_report_of_a_load_to_a_device(path: Path, simgpu: SimulatedDevice, strategy: str) -> None:
    report = open_file(path, strategy, device=simgpu.device).report
    assert report.bytes_uploaded == TOTAL_BYTES == simgpu.counters.uploaded_bytes
    # Each byte once, also where small neighbours were read on the host before.
    assert report.bytes_read == TOTAL_BYTES


def test_report_of_a_load_that_leaves_weights_in_the_file(path: Path) -> None:
    report = open_file(path, "file-slice").report
    assert (report.bytes_read, report.bytes_uploaded) == (0, 0)


@pytest.mark.parametrize(("cache", "left"), [("drop", 0.0), ("keep", 1.0)])
def test_report_tells_the_page_cache_before_and_after(path: Path, cache: str, left: float) -> None:
    evict(path)
    report = open_file(path, "readinto", options={"cache": cache, "direct": "off"}).report
    if report.cached_before is None or report.cached_after is None:
        pytest.skip("this system does not tell what is cached")
    assert report.cached_before / report.file_bytes < 0.05
    assert report.cached_after / report.file_bytes == pytest.approx(left, abs=0.05)


# -- the log ---------------------------------------------------------------------------------------


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.INFO]


@pytest.mark.parametrize("strategy", ["readinto", "auto"])
def test_log_has_one_line_that_tells_it_all(
    path: Path, caplog: pytest.LogCaptureFixture, strategy: str
) -> None:
    caplog.set_level(logging.INFO, "comfy.loading")
    opened = open_file(path, strategy, dtype=torch.float64)
    (line,) = lines_of(caplog)
    assert line == opened.report.line()
    row = "row 3" if strategy == "auto" else "--load-strategy=readinto"
    for part in ("model.safetensors: ", " MiB in ", " GB/s)", "readinto (", row, "peak +"):
        assert part in line
    if opened.report.cached_before is not None:
        assert re.search(r"cache \d+ % -> \d+ %", line)


def test_log_has_one_line_for_a_sharded_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_file_set("B", tmp_path, factor=1 / 8192)
    caplog.set_level(logging.INFO, "comfy.loading")
    open_file(made.path, "readinto")
    (line,) = lines_of(caplog)
    assert line.startswith("model.safetensors.index.json: ")


def test_log_has_no_line_of_success_for_a_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0not json")
    caplog.set_level(logging.INFO, "comfy.loading")
    with pytest.raises(InvalidWeightFile):
        open_file(broken)
    assert lines_of(caplog) == []


# -- the choice of a strategy ----------------------------------------------------------------------


def test_plan_of_auto_tells_its_row_and_reasons(path: Path) -> None:
    plan = open_file(path, dtype=torch.float64).plan
    assert (plan.strategy, plan.row) == ("readinto", 3)
    assert any("MiB" in reason for reason in plan.reasons)


def test_plan_under_disable_mmap_tells_what_it_could_not_take(path: Path) -> None:
    path.read_bytes()
    assert open_file(path).plan.strategy == "mmap"
    plan = open_file(path, options={"allow_mmap": False}).plan
    assert plan.strategy == "readinto"
    assert any("--disable-mmap" in reason for reason in plan.reasons)


def test_alias_is_the_strategy_it_stands_for(path: Path) -> None:
    assert open_file(path, "no-mmap").plan.strategy == "readinto"


@pytest.mark.parametrize(
    ("given", "meant"), [("readint", "readinto"), ("file_slice", "file-slice"), ("nmap", "mmap")]
)
def test_unknown_strategy_is_an_error_that_suggests(path: Path, given: str, meant: str) -> None:
    with pytest.raises(UnknownStrategy, match=f"Did you mean '{meant}'") as caught:
        open_file(path, given)
    assert caught.value.name == given
    assert set(STRATEGIES) <= set(caught.value.known)
    assert descriptors_of(path) == []


def test_mmap_and_disable_mmap_contradict_each_other() -> None:
    with pytest.raises(FlagConflict, match="--disable-mmap"):
        LoadOptions(strategy="mmap", allow_mmap=False)


def test_options_of_one_call_stand_above_the_loaders(path: Path) -> None:
    loader = Loader(LoadOptions("mmap"), run_device="cpu")
    request = LoadRequest(path=str(path), device=None)
    options = LoadOptions("file-slice")
    assert loader.open(request, options=options).plan.strategy == "file-slice"
    assert loader.open(request).plan.strategy == "mmap"


def test_configure_changes_what_is_done_from_then_on(path: Path, simgpu: SimulatedDevice) -> None:
    loader = Loader(LoadOptions("mmap"), run_device=simgpu.device)
    loader.configure(LoadOptions("file-slice", staging_bytes=2 * MIB))
    request = LoadRequest(path=str(path), device=simgpu.device)
    assert loader.open(request).plan.strategy == "file-slice"
    assert loader.rings.nbytes == 2 * MIB
    loader.close()


def test_run_device_decides_when_a_request_names_none(path: Path, simgpu: SimulatedDevice) -> None:
    loader = Loader(LoadOptions(), run_device="cpu")
    facts, _ = loader.plan(LoadRequest(path=str(path), device=None))
    assert facts.executes_on_cpu
    loader.run_device = simgpu.device
    facts, available = loader.plan(LoadRequest(path=str(path), device=None))
    assert not facts.executes_on_cpu
    assert facts.profile.device == simgpu.device
    assert set(STRATEGIES) <= set(available)
    assert descriptors_of(path) == []


def test_error_of_a_load_survives_the_border_of_a_process(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        open_file(tmp_path / "missing.safetensors")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is type(caught.value)
    assert copy.path == str(tmp_path / "missing.safetensors")
    assert str(copy) == str(caught.value)
