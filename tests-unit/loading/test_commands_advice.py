"""The flags that `doctor` recommends, for machines of which figures are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from comfy.loading.commands.advice import (
    Advice,
    command_line,
    effect,
    environment_twin,
    recommend,
    why_none,
)
from comfy.loading.commands.findings import CacheAbilities, Decision, Findings, Software
from comfy.loading.errors import LoadError
from comfy.loading.hardware import HardwareProfile, probe
from comfy.loading.memory import default_reserve
from comfy.loading.options import FLAGS, LoadOptions
from comfy.loading.plan import LoadPlan, LoadRequest, explain, resolve
from support import facts as machines
from support.facts import EVERYTHING, GIB, MIB, Machine, facts, pool, storage


def findings(
    machine: Machine | HardwareProfile,
    *,
    path: str | None = "model.safetensors",
    serves: tuple[str, ...] = ("cuda",),
    offload: bool = False,
    **changes: Any,
) -> Findings:
    """What `doctor` would find on a machine; changes are those of `support.facts.facts`."""
    options = changes.pop("options", LoadOptions())
    detected: HardwareProfile
    if isinstance(machine, Machine):
        detected = probe(machine.device, sources=machine.sources())
        chosen = probe(machine.device, unified=options.unified, sources=machine.sources())
    else:
        detected = chosen = machine
    known = facts(profile=chosen, options=options, **changes)
    request = LoadRequest(path=path or "model.safetensors", device=chosen.device, offload=offload)
    try:
        plan: LoadPlan | LoadError = resolve(request, known, EVERYTHING)
    except LoadError as err:
        plan = err
    reserve = options.reserve_bytes
    return Findings(
        software=Software("Linux", "3.11", "2.13.0", serves),
        profile=chosen,
        detected_unified=detected.unified,
        host=known.host,
        device=known.device,
        reserve_bytes=default_reserve(chosen, known.device) if reserve is None else reserve,
        path=path,
        place="models",
        place_note="",
        abilities=CacheAbilities(True, True, 4096, True),
        decision=Decision("model.safetensors", request, known, plan),
        examples=(),
        verdicts=explain(request, known, EVERYTHING),
        available=EVERYTHING,
    )


def advice_of(kind: str, found: Findings) -> list[Advice]:
    return [one for one in recommend(found) if one.kind == kind]


def flags_of(found: Findings) -> set[str]:
    return {flag for advice in recommend(found) for flag in advice.flags}


ORDINARY = {
    "DGX Spark": (machines.GB10, "one memory"),
    "Jetson Orin": (machines.JETSON_ORIN, "one memory"),
    "Intel iGPU": (machines.XPU_IGPU, "one memory"),
    "Apple": (machines.MAC, "one memory"),
    "RTX 5090": (machines.RTX_5090, "memory of its own"),
    "Grace Hopper": (machines.GH200, "memory of its own"),
    "Arc": (machines.ARC, "memory of its own"),
    "DirectML": (machines.profile("directml"), "Nothing is known"),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_machines_that_are_recognised_need_no_flag(name: str) -> None:
    machine, words = ORDINARY[name]
    found = findings(machine)
    assert recommend(found) == []
    assert command_line(recommend(found)) == ()
    assert words in why_none(found)


def test_cpu_needs_no_flag_and_hears_about_its_torch() -> None:
    found = findings(machines.profile("cpu"), serves=())
    (note,) = recommend(found)
    assert note.kind == "note"
    assert "no code for any GPU" in note.reason
    assert "no accelerator" in why_none(found)


def test_cpu_beside_a_torch_for_gpus_asks_for_the_driver() -> None:
    (note,) = recommend(findings(machines.profile("cpu"), serves=("cuda",)))
    assert "no driver answers" in note.reason


def test_disputed_memory_is_the_users_word() -> None:
    found = findings(machines.RTX_5090_AS_UNIFIED)
    (condition,) = advice_of("if", found)
    assert condition.flags == ("--unified-memory=on",)
    assert "contradict" in condition.reason
    assert command_line(recommend(found)) == ()


def test_one_weak_sign_is_the_users_word() -> None:
    silent = replace(machines.GB10, driver=replace(machines.GB10.driver, is_integrated=None))
    found = findings(replace(silent, attributes={100: 0}))
    (condition,) = advice_of("if", found)
    assert condition.flags == ("--unified-memory=on",)
    assert "one sign alone" in condition.reason


@pytest.mark.parametrize(
    ("machine", "given", "cost"),
    [
        (machines.GB10, "off", "counts the one memory twice"),
        (machines.RTX_5090, "on", "host memory that the card does not have"),
    ],
)
def test_override_against_the_driver_is_to_be_dropped(
    machine: Machine, given: Any, cost: str
) -> None:
    (advice, *_) = advice_of("drop", findings(machine, options=LoadOptions(unified=given)))
    assert advice.flags == (f"--unified-memory={given}",)
    assert cost in advice.reason


@pytest.mark.parametrize(("machine", "given"), [(machines.GB10, "on"), (machines.RTX_5090, "off")])
def test_override_that_agrees_is_left_alone(machine: Machine, given: Any) -> None:
    assert recommend(findings(machine, options=LoadOptions(unified=given))) == []


def test_named_strategy_is_compared_with_auto() -> None:
    found = findings(machines.GB10, options=LoadOptions(strategy="mmap"))
    (advice,) = advice_of("drop", found)
    assert advice.flags == ("--load-strategy=mmap",)
    assert "file-slice" in advice.reason
    assert "row 7" in advice.reason


def test_named_strategy_that_auto_takes_is_left_alone() -> None:
    assert recommend(findings(machines.GB10, options=LoadOptions(strategy="file-slice"))) == []


def test_kept_cache_costs_weights_on_unified_memory_only() -> None:
    keep = LoadOptions(cache="keep")
    assert flags_of(findings(machines.GB10, options=keep)) == {"--load-cache=keep"}
    assert recommend(findings(machines.RTX_5090, options=keep)) == []


@pytest.mark.parametrize(
    ("disk", "words"),
    [(storage("nfs4"), "will be refused"), (storage(hot=0.9), "reads it from the disk again")],
)
def test_direct_reads_that_cannot_help_are_to_be_dropped(disk: Any, words: str) -> None:
    found = findings(machines.RTX_5090, storage=disk, options=LoadOptions(direct="on"))
    (advice,) = advice_of("drop", found)
    assert advice.flags == ("--load-direct=on",)
    assert words in advice.reason


def test_direct_reads_of_a_cold_file_are_left_alone() -> None:
    assert recommend(findings(machines.RTX_5090, options=LoadOptions(direct="on"))) == []


def test_disable_mmap_is_explained() -> None:
    options = LoadOptions(allow_mmap=False)
    assert "changes little" in recommend(findings(machines.GB10, options=options))[0].reason
    on_cpu = recommend(findings(machines.profile("cpu"), options=options))
    assert any("costs speed only" in advice.reason for advice in on_cpu)


def test_file_that_fits_into_the_reserve_gets_a_number() -> None:
    host = pool(20 * GIB, 121 * GIB)
    found = findings(machines.GB10, host=host, file_bytes=16 * GIB, largest_bytes=MIB)
    (advice,) = advice_of("if", found)
    (flag,) = advice.flags
    name, _, value = flag.partition("=")
    assert name == "--load-reserve-mb"
    again = LoadOptions(reserve_bytes=int(value) * MIB)
    fits = findings(machines.GB10, host=host, file_bytes=16 * GIB, largest_bytes=MIB, options=again)
    assert isinstance(fits.decision.plan, LoadPlan)


def test_reserve_is_not_lowered_to_where_a_machine_hangs() -> None:
    host = pool(20 * GIB, 121 * GIB)
    found = findings(machines.GB10, host=host, file_bytes=20 * GIB - 100 * MIB)
    assert advice_of("if", found) == []
    (note,) = advice_of("note", found)
    assert "No flag makes" in note.reason


def test_imagined_files_that_do_not_fit_need_no_advice() -> None:
    host = pool(2 * GIB, 121 * GIB)
    assert recommend(findings(machines.GB10, host=host, path=None)) == []


def test_container_limit_is_named() -> None:
    host = pool(30 * GIB, 32 * GIB, notes=("the limit of 32,768 MiB on /x",), beyond=60 * GIB)
    (note,) = advice_of("note", findings(machines.RTX_5090, host=host))
    assert "container's limit binds" in note.reason
    assert "60.00 GiB more" in note.reason


def test_small_unified_machine_saves_staging() -> None:
    tiny = machines.cuda_machine(3.5, 3.5, True, attributes={18: 1, 99: 1, 100: 0})
    host = pool(int(2.5 * GIB), int(3.5 * GIB))
    found = findings(tiny, host=host, file_bytes=GIB)
    assert command_line(recommend(found)) == ("--load-staging-mb=16",)
    given = LoadOptions(staging_bytes=32 * MIB)
    assert recommend(findings(tiny, host=host, file_bytes=GIB, options=given)) == []


def test_apu_hears_of_the_kernels_limit() -> None:
    host = pool(100 * GIB, int(124.92 * GIB))
    (note,) = recommend(findings(machines.STRIX_HALO, host=host))
    assert "ttm.pages_limit" in note.reason
    assert "62.47 GiB of 124.92 GiB" in note.reason


def test_mac_hears_of_the_wired_limit_when_a_model_needs_it() -> None:
    device = pool(20 * GIB, 48 * GIB, "unified memory (mps)")
    found = findings(
        machines.MAC, host=pool(60 * GIB, 64 * GIB), device=device, file_bytes=30 * GIB
    )
    assert any("iogpu.wired_limit_mb" in note.reason for note in advice_of("note", found))


def test_memory_filesystem_is_a_second_copy_on_unified_memory() -> None:
    (note,) = recommend(findings(machines.GB10, storage=storage("tmpfs")))
    assert "second copy" in note.reason
    assert recommend(findings(machines.RTX_5090, storage=storage("tmpfs"))) == []


def test_windows_drive_under_wsl_is_slow() -> None:
    wsl = replace(machines.RTX_5090, platform="wsl")
    (note,) = recommend(findings(wsl, storage=storage("9p")))
    assert "Windows drive" in note.reason


def test_turning_disk_is_questioned() -> None:
    (note,) = recommend(findings(machines.RTX_5090, storage=storage(rotational=True)))
    assert "--load-threads=4" in note.reason


def test_urgent_advice_comes_first() -> None:
    options = LoadOptions(cache="keep", allow_mmap=False)
    found = findings(machines.GB10, storage=storage("tmpfs"), options=options)
    assert [one.kind for one in recommend(found)] == ["drop", "note", "note"]


@pytest.mark.parametrize(
    ("flag", "twin"),
    [
        ("--unified-memory=on", "COMFY_UNIFIED_MEMORY=on"),
        ("--load-reserve-mb=100", "COMFY_LOAD_RESERVE_MB=100"),
        ("--disable-mmap", "COMFY_DISABLE_MMAP=1"),
    ],
)
def test_environment_twins_are_those_of_the_flags(flag: str, twin: str) -> None:
    assert environment_twin(flag) == twin
    assert twin.partition("=")[0] in {one.variable for one in FLAGS}


@pytest.mark.parametrize("strategy", ["mmap", "readinto", "file-slice"])
@pytest.mark.parametrize("machine", [machines.GB10, machines.profile("cpu")])
def test_every_strategy_is_described(strategy: str, machine: Any) -> None:
    found = findings(machine, options=LoadOptions(strategy=strategy))
    assert isinstance(found.decision.plan, LoadPlan)
    device = None if found.profile.backend == "cpu" else "cuda:0"
    text = effect(found.decision.plan, device)
    assert ("cuda:0" in text) == (device is not None)
