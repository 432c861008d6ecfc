"""Strategies of third parties: by a function, by an entry point, and what they may not do."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from comfy.loading.default import default_loader, load, load_strategies, register_load_strategy
from comfy.loading.errors import NotEnoughMemory, StrategyUnavailable, UnknownStrategy
from comfy.loading.loader import Loader
from comfy.loading.memory import MemoryNeed
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadPlan, LoadRequest
from comfy.loading.registry import OpenContext, StrategyRegistry
from comfy.loading.strategies.readinto import ReadInto
from comfy.loading.testing import as_bytes
from comfy.loading.weight_slice import WeightSlice
from support.files import write_safetensors
from support.memory_cap import run_measured
from support.simulated_device import SimulatedDevice


class Counting(ReadInto):
    """What a plug-in looks like; it counts what it opened."""

    name: ClassVar[str] = "counting"
    opened: ClassVar[list[str]] = []

    def open(
        self, slices: Mapping[str, WeightSlice], plan: LoadPlan, context: OpenContext
    ) -> dict[str, torch.Tensor]:
        self.opened.extend(slices)
        return super().open(slices, plan, context)


class Silent:
    """One that does not tell whether it maps files, as an old plug-in might."""

    name: ClassVar[str] = "silent"

    def supports(self, *facts: object) -> str | None:
        return None

    def estimate(self, slices: Mapping[str, WeightSlice], request: LoadRequest) -> Any:
        return ReadInto().estimate(slices, request)

    def open(
        self, slices: Mapping[str, WeightSlice], plan: LoadPlan, context: OpenContext
    ) -> dict[str, torch.Tensor]:
        return ReadInto().open(slices, plan, context)


class Hungry(Counting):
    """One that needs more than any machine has."""

    name: ClassVar[str] = "hungry"

    def estimate(self, slices: Mapping[str, WeightSlice], request: LoadRequest) -> MemoryNeed:
        return MemoryNeed(file=0, host=1 << 60, device=0, staging=0, cast=0)


class Unwilling(Counting):
    """One that works on other machines."""

    name: ClassVar[str] = "unwilling"

    def supports(self, *facts: object) -> str | None:
        return "needs a disk from the future"


class Raising(Counting):
    """One with a bug in its question."""

    name: ClassVar[str] = "raising"

    def supports(self, *facts: object) -> str | None:
        raise ZeroDivisionError("a bug of the plug-in")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model.safetensors", {"w": torch.arange(8.0)})


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    Counting.opened.clear()
    yield
    registry = default_loader().registry
    for name in set(registry.names()) & {"counting", "silent", "unwilling"}:
        registry.unregister(name)


def loader_with(strategy: str, *plugins: type, **options: Any) -> Loader:
    registry = StrategyRegistry()
    for plugin in plugins:
        registry.register(plugin.name, plugin)  # type: ignore[attr-defined]
    return Loader(LoadOptions(strategy, **options), run_device="cpu", registry=registry)


def open_file(loader: Loader, path: Path, device: torch.device | None = None) -> Any:
    return loader.open(LoadRequest(path=str(path), device=device))


# -- registration ----------------------------------------------------------------------------------


def test_registered_strategy_is_used_by_its_name(path: Path) -> None:
    opened = open_file(loader_with("counting", Counting), path)
    assert Counting.opened == ["w"]
    assert opened.plan.strategy == "counting"
    assert opened.state_dict["w"].tolist() == list(range(8))


def test_registered_strategy_may_be_named_as_a_string(path: Path) -> None:
    registry = StrategyRegistry()
    registry.register("mine", "comfy.loading.strategies.readinto:ReadInto")
    loader = Loader(LoadOptions("mine"), run_device="cpu", registry=registry)
    assert open_file(loader, path).plan.strategy == "mine"


def test_weights_of_a_plugin_go_to_a_device_as_all_others(
    path: Path, simgpu: SimulatedDevice
) -> None:
    loader = loader_with("counting", Counting)
    state = open_file(loader, path, simgpu.device).state_dict
    assert state["w"].device == simgpu.device
    assert as_bytes(state["w"]) == as_bytes(torch.arange(8.0))
    assert simgpu.counters.uploaded_bytes == 32
    loader.close()


def test_functions_of_the_package_reach_the_default_loader(path: Path) -> None:
    register_load_strategy("counting", Counting)
    assert load_strategies()["counting"] is Counting
    opened = load(str(path), strategy="counting", device="cpu")
    assert (opened.plan.strategy, opened.plan.row) == ("counting", 0)
    assert Counting.opened == ["w"]


def test_view_of_the_strategies_cannot_be_written(path: Path) -> None:
    with pytest.raises(TypeError):
        load_strategies()["mine"] = Counting  # type: ignore[index]
    assert {"mmap", "readinto", "file-slice"} <= set(load_strategies())


@pytest.mark.parametrize("name", ["counting", "readinto", "no-mmap", "auto"])
def test_name_that_is_taken_is_refused_and_both_are_named(name: str) -> None:
    loader = loader_with("auto", Counting)
    with pytest.raises(ValueError, match="Unwilling") as caught:
        loader.registry.register(name, Unwilling)
    owner = {
        "counting": "Counting",
        "readinto": "ReadInto",
        "no-mmap": "readinto",
        "auto": "reserved",
    }[name]
    assert owner in str(caught.value)


def test_forgotten_strategy_is_unknown_and_its_weights_stay(path: Path) -> None:
    loader = loader_with("counting", Counting)
    state = open_file(loader, path).state_dict
    loader.registry.unregister("counting")
    with pytest.raises(UnknownStrategy):
        open_file(loader, path)
    assert state["w"].tolist() == list(range(8))


# -- what is refused -------------------------------------------------------------------------------


def test_plugin_that_does_not_tell_whether_it_maps_is_refused_under_disable_mmap(
    path: Path,
) -> None:
    with pytest.raises(StrategyUnavailable, match="--disable-mmap") as caught:
        open_file(loader_with("silent", Silent, allow_mmap=False), path)
    assert "silent" in caught.value.reasons
    assert caught.value.path == str(path)
    assert open_file(loader_with("silent", Silent), path).plan.strategy == "silent"


def test_plugin_that_maps_nothing_works_under_disable_mmap(path: Path) -> None:
    assert open_file(loader_with("counting", Counting, allow_mmap=False), path).state_dict


def test_plugin_that_needs_too_much_is_refused_before_it_reads(path: Path) -> None:
    with pytest.raises(NotEnoughMemory) as caught:
        open_file(loader_with("hungry", Hungry), path)
    assert caught.value.need == 1 << 60
    assert Counting.opened == []


def test_what_a_plugin_needs_is_not_asked_where_the_load_places_its_weights(
    path: Path, simgpu: SimulatedDevice
) -> None:
    state = open_file(loader_with("hungry", Hungry), path, simgpu.device).state_dict
    assert state["w"].device == simgpu.device


def test_plugin_that_cannot_is_named_with_its_reason(path: Path) -> None:
    with pytest.raises(StrategyUnavailable, match="needs a disk from the future"):
        open_file(loader_with("unwilling", Unwilling), path)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (Raising, "ZeroDivisionError: a bug of the plug-in"),
        ("no_such_package.module:Strategy", "no_such_package"),
        ("comfy.loading.strategies.readinto:Missing", "Missing"),
        (object, "lacks name, supports, estimate, open"),
    ],
    ids=["question", "module", "attribute", "no-strategy"],
)
def test_plugin_that_cannot_be_made_is_told_and_hinders_no_other(
    path: Path, spec: Any, reason: str
) -> None:
    registry = StrategyRegistry()
    registry.register("broken", spec)
    loader = Loader(LoadOptions("broken"), run_device="cpu", registry=registry)
    with pytest.raises(StrategyUnavailable, match=reason):
        open_file(loader, path)
    loader.configure(LoadOptions("auto"))
    assert open_file(loader, path).state_dict


# -- entry points ----------------------------------------------------------------------------------

MODULE = """
from comfy.loading.strategies.readinto import ReadInto

class Strategy(ReadInto):
    name = "installed"
    maps_files = False
"""
ENTRY_POINTS = """
[comfy.load_strategies]
installed = onecopy_plugin:Strategy
broken = onecopy_broken_plugin:Strategy
readinto = onecopy_plugin:Strategy
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a distribution in it, as pip leaves it."""
    site = tmp_path_factory.mktemp("site")
    record = site / "onecopy_plugin-1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: onecopy-plugin\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "onecopy_plugin.py").write_text(MODULE)
    (site / "onecopy_broken_plugin.py").write_text("raise RuntimeError('made for another torch')")
    return site


PROGRAM = """
import sys
sys.path.insert(0, args["site"])
from comfy.loading import LoadOptions, load, load_strategies
from comfy.loading.errors import LoadError
names = sorted(load_strategies())
imported = sorted(name for name in sys.modules if name.startswith("onecopy"))
chosen = load(args["path"], strategy="installed")
plain = load(args["path"], options=LoadOptions())
try:
    load(args["path"], strategy="broken")
    reason = None
except LoadError as err:
    reason = str(err)
result = {
    "names": names,
    "imported": imported,
    "chosen": chosen.plan.strategy,
    "home": type(chosen.state_dict["w"]).__name__,
    "plain": plain.plan.strategy,
    "reason": reason,
}
"""


@pytest.fixture(scope="module")
def found(installed: Path) -> dict[str, Any]:
    """What a program sees in whose environment that distribution is installed."""
    path = write_safetensors(installed / "model.safetensors", {"w": torch.arange(8.0)})
    arguments = {"site": str(installed), "path": str(path)}
    measured = run_measured(PROGRAM, arguments=arguments, in_group=False)
    result: dict[str, Any] = measured.succeeded().result
    return result


def test_installed_distribution_brings_its_strategy(found: dict[str, Any]) -> None:
    assert {"installed", "broken", "readinto"} <= set(found["names"])
    # Its name is known before any of its code has run.
    assert found["imported"] == []
    assert found["chosen"] == "installed"
    assert found["home"] == "Tensor"


def test_broken_distribution_hinders_no_other(found: dict[str, Any]) -> None:
    assert found["plain"] in ("mmap", "readinto")
    assert "made for another torch" in found["reason"]


def test_entry_point_cannot_take_a_name_that_is_taken(
    installed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    with caplog.at_level(logging.WARNING, "comfy.loading"):
        names = StrategyRegistry().names()
    assert names["readinto"] == "comfy.loading.strategies.readinto:ReadInto"
    (line,) = [one.getMessage() for one in caplog.records]
    assert "'readinto' of onecopy_plugin:Strategy is ignored" in line
    assert "comfy.loading.strategies.readinto:ReadInto" in line
