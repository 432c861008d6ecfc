"""The loading flags in another program's parser, and when the hooks are active."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest
import torch

from comfy.loading.default import default_loader
from comfy.loading.errors import FlagConflict
from comfy.loading.grafted import activity, files, flags, memory
from comfy.loading.options import FLAGS, LoadOptions, add_missing_arguments, from_namespace
from support.simulated_device import SimulatedDevice


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    loader = default_loader()
    before = loader.options, loader.run_device
    monkeypatch.setattr(flags._taken, "options", None)
    monkeypatch.setattr(flags._taken, "force_cpu", False)
    monkeypatch.setattr(activity._program, "device", None)
    yield
    loader.configure(before[0])
    loader.run_device = before[1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--disable-mmap", action="store_true", help="Theirs.")
    return parser


def test_a_flag_that_the_program_has_is_left_as_it_is() -> None:
    parser = _parser()
    add_missing_arguments(parser, {})
    assert "Theirs." in parser.format_help()
    parsed = parser.parse_args(["--disable-mmap", "--load-threads", "2"])
    assert from_namespace(parsed) == LoadOptions(allow_mmap=False, threads=2)
    assert {flag.dest for flag in FLAGS} <= vars(parsed).keys()


def test_the_environment_speaks_for_the_programs_own_flag() -> None:
    parser = _parser()
    add_missing_arguments(parser, {"COMFY_DISABLE_MMAP": "1"})
    assert parser.parse_args([]).disable_mmap is True


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--load-strategy=mmap", "--disable-mmap"], {}),
        (["--load-threads=65"], {}),
        ([], {"COMFY_LOAD_THREADS": "many"}),
    ],
)
def test_what_cannot_be_ends_the_program_as_wrong_usage(
    arguments: list[str],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    parser = _parser()
    with pytest.raises(SystemExit) as ended:
        flags.add_arguments(parser)
        flags.take(parser, parser.parse_args(arguments))
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_without_a_parser_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_LOAD_STRATEGY", "readinto")
    assert flags.options() == LoadOptions(strategy="readinto")


def test_the_programs_flags_join_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_LOAD_STRATEGY", "readinto")
    flags.take_environment(argparse.Namespace(disable_mmap=True, cpu=True))
    assert flags.options() == LoadOptions(strategy="readinto", allow_mmap=False)
    assert flags.force_cpu()
    assert activity.run_device() == torch.device("cpu")
    monkeypatch.setenv("COMFY_LOAD_STRATEGY", "mmap")
    with pytest.raises(FlagConflict):
        flags.take_environment(argparse.Namespace(disable_mmap=True))


@pytest.mark.parametrize(
    ("wanted", "is_unified", "expected"),
    [
        (LoadOptions(), False, False),
        (LoadOptions(), True, True),
        (LoadOptions(threads=3, cache="drop"), False, False),
        (LoadOptions(strategy="mmap"), False, True),
        (LoadOptions(allow_mmap=False), False, True),
        (LoadOptions(unified="on"), False, True),
        (LoadOptions(unified="off"), True, False),
        (LoadOptions(unified="off", strategy="readinto"), True, True),
    ],
)
def test_hooks_act_on_a_wish_or_on_unified_memory(
    wanted: LoadOptions,
    is_unified: bool,
    expected: bool,
    simgpu: SimulatedDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simgpu.is_unified = is_unified
    default_loader()._profiles.clear()
    monkeypatch.setattr(flags._taken, "options", wanted)
    activity.run_on(lambda: simgpu.device)
    assert activity.is_active() is expected
    if not expected:
        # A file that is not there: it is not even looked for.
        assert files.load("nowhere.safetensors") is None
    assert (memory.free_memory(simgpu.device) is None) == (
        wanted.unified == "off" or not (is_unified or wanted.unified == "on")
    )
    default_loader()._profiles.clear()


def test_the_cpu_is_never_unified() -> None:
    activity.run_on(lambda: "cpu")
    assert not activity.is_active()
    assert memory.free_memory("cpu") is None


def test_free_memory_is_what_the_system_has(simgpu: SimulatedDevice) -> None:
    activity.run_on(lambda: simgpu.device)
    default_loader()._profiles.clear()
    free = memory.free_memory(simgpu.device)
    assert free is not None
    total, held = free
    assert total > 64 << 20
    assert 0 <= held <= total
