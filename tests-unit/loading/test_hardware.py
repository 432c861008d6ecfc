"""Which devices are unified, by votes; all machines are made of reported values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from comfy.loading import hardware, signals
from comfy.loading.hardware import (
    HardwareProfile,
    Vote,
    default_device,
    probe,
    register_hardware_probe,
    unregister_hardware_probe,
)
from comfy.loading.memory import device_pool, host_pool
from comfy.loading.signals import AmdgpuMemory, DriverFacts, HardwareSources
from support import facts as machines
from support.facts import CUDA, GIB, Machine, cuda_machine, refuse


def look(machine: Machine, **options: str) -> HardwareProfile:
    return probe(machine.device, sources=machine.sources(), **options)


@pytest.mark.parametrize(
    ("machine", "backend", "unified", "coherent"),
    [
        pytest.param(machines.GB10, "cuda", True, True, id="GB10"),
        pytest.param(machines.JETSON_ORIN, "cuda", True, False, id="Jetson Orin"),
        pytest.param(machines.STRIX_HALO, "hip", True, False, id="Strix Halo, half of RAM"),
        pytest.param(machines.N1X, "cuda", True, False, id="N1X"),
        pytest.param(machines.N1X_CARVE_OUT, "cuda", False, False, id="N1X, carve-out only"),
        pytest.param(machines.RTX_5090, "cuda", False, False, id="RTX 5090"),
        pytest.param(machines.RTX_5090_AS_UNIFIED, "cuda", False, False, id="5090 as unified"),
        pytest.param(machines.GH200, "cuda", False, True, id="GH200"),
        pytest.param(machines.XPU_IGPU, "xpu", True, False, id="Intel iGPU"),
        pytest.param(machines.ARC, "xpu", False, False, id="Intel Arc"),
        pytest.param(machines.MAC, "mps", True, False, id="Apple"),
    ],
)
def test_machine_is_recognised(
    machine: Machine, backend: str, unified: bool, coherent: bool
) -> None:
    seen = look(machine)
    assert (seen.backend, seen.unified, seen.coherent) == (backend, unified, coherent)


@pytest.mark.parametrize(
    ("share", "unified"),
    [(0.39, False), (0.40, True), (0.70, True), (1.05, True), (1.06, False), (3.0, False)],
)
def test_integrated_flag_needs_a_total_like_that_of_the_host(share: float, unified: bool) -> None:
    assert look(cuda_machine(100 * share, 100, integrated=True)).unified is unified


def test_card_mistaken_as_unified_is_disputed() -> None:
    seen = look(machines.RTX_5090_AS_UNIFIED)
    assert seen.is_disputed
    assert Vote("integrated flag", "True", "unified", strong=True) in seen.votes
    assert (
        Vote("total memory", "31.8 GiB, 25% of the host's", "discrete", strong=True) in seen.votes
    )


def test_agreeing_signals_are_not_disputed() -> None:
    assert not look(machines.RTX_5090).is_disputed
    assert not look(machines.GB10).is_disputed


def test_card_as_large_as_the_host_stays_discrete() -> None:
    seen = look(cuda_machine(96, 96, integrated=False, attributes={100: 1}))
    assert not seen.unified


@pytest.mark.parametrize(
    ("total_gib", "attributes", "unified"),
    [
        pytest.param(120, {100: 1}, True, id="same size and host page tables"),
        pytest.param(120, {100: 0}, False, id="same size alone"),
        pytest.param(24, {100: 1}, False, id="host page tables alone"),
        pytest.param(109, {100: 1}, True, id="nine tenths of the host's"),
        pytest.param(108, {100: 1}, False, id="less than that"),
        pytest.param(134, {100: 1}, False, id="far more than the host's"),
    ],
)
def test_two_weak_signals_decide_where_no_strong_one_speaks(
    total_gib: float, attributes: dict[int, int], unified: bool
) -> None:
    assert look(cuda_machine(total_gib, 121, None, attributes=attributes)).unified is unified


def test_driver_attribute_speaks_where_torch_has_no_flag() -> None:
    assert look(cuda_machine(120, 121, None, attributes={18: 1})).unified


@pytest.mark.parametrize(
    ("cards", "unified"),
    [
        pytest.param((AmdgpuMemory(GIB // 2, 62 * GIB, 0),), True, id="tiny carve-out"),
        pytest.param((AmdgpuMemory(16 * GIB, 64 * GIB, 0),), True, id="a quarter"),
        pytest.param((AmdgpuMemory(17 * GIB, 64 * GIB, 0),), False, id="a card of its own"),
        pytest.param((AmdgpuMemory(GIB // 2, 62 * GIB, 0),) * 2, False, id="two cards"),
    ],
)
def test_kernel_counters_are_a_weak_signal_for_amd(
    cards: tuple[AmdgpuMemory, ...], unified: bool
) -> None:
    machine = cuda_machine(62, 64, None, is_hip=True, amdgpu=cards)
    assert look(machine).unified is unified


@pytest.mark.parametrize("machine", [machines.GB10, machines.RTX_5090, machines.DIRECTML])
@pytest.mark.parametrize(("word", "unified"), [("on", True), ("off", False)])
def test_user_beats_all_signals(machine: Machine, word: str, unified: bool) -> None:
    seen = look(machine, unified=word)
    assert seen.unified is unified
    assert not seen.is_disputed
    says = "unified" if unified else "discrete"
    assert seen.votes[-1] == Vote("--unified-memory", word, says, strong=True)


def test_absurd_total_is_replaced_by_the_hosts() -> None:
    seen = look(cuda_machine(1e32 / GIB, 122, integrated=True))
    assert seen.unified
    assert seen.total_bytes == 122 * GIB


def test_unified_total_is_never_above_the_hosts() -> None:
    assert look(cuda_machine(104, 100, integrated=True)).total_bytes == 100 * GIB


def test_product_name_is_never_looked_at() -> None:
    class Properties:
        total_memory = 120 * GIB
        is_integrated = 1

        @property
        def name(self) -> str:
            raise AssertionError("the name was read")

    class Module:
        current_device = staticmethod(lambda: 3)
        get_device_properties = staticmethod(lambda index: Properties())

    torch._register_device_module("xla", Module())
    try:
        told = signals._ask_driver(torch.device("xla"))
    finally:
        del torch.xla, sys.modules["torch.xla"]
    assert told == DriverFacts(3, 120 * GIB, True)


@pytest.mark.parametrize("index", [0, 3])
def test_attributes_are_read_of_the_same_device(index: int) -> None:
    asked: set[int] = set()

    def attribute(number: int, of: int) -> int:
        asked.add(of)
        return 0

    machine = Machine(torch.device("cuda"), 64 * GIB, DriverFacts(index, 24 * GIB, None))
    probe(machine.device, sources=machine.sources(cuda_attribute=attribute))
    assert asked == {index}


def test_signals_are_told_in_words() -> None:
    card = AmdgpuMemory(GIB // 2, 62 * GIB, 0)
    machine = cuda_machine(62, 64, True, is_hip=True, amdgpu=(card,))
    assert look(machine).votes == (
        Vote("integrated flag", "True", "unified", strong=True),
        Vote("total memory", "62.0 GiB, 97% of the host's", "unified", strong=False),
        Vote("amdgpu", "VRAM 0.5 GiB, GTT 62.0 GiB", "unified", strong=False),
    )


def test_device_without_index_is_the_current_one() -> None:
    machine = Machine(torch.device("cuda"), 64 * GIB, DriverFacts(2, 24 * GIB, False))
    assert look(machine).device == torch.device("cuda", 2)


@pytest.mark.parametrize(
    ("machine", "registers"),
    [
        pytest.param(cuda_machine(24, 64, False, attributes={99: 1}), True, id="supported"),
        pytest.param(cuda_machine(24, 64, False, attributes={99: 0}), False, id="refused"),
        pytest.param(cuda_machine(24, 64, False), True, id="driver is silent"),
        pytest.param(cuda_machine(24, 64, False, platform="wsl"), False, id="silent on WSL"),
        pytest.param(machines.STRIX_HALO, True, id="HIP"),
        pytest.param(machines.ARC, False, id="XPU"),
        pytest.param(machines.MAC, False, id="MPS"),
    ],
)
def test_registration_of_host_memory_follows_the_driver(machine: Machine, registers: bool) -> None:
    assert look(machine).registers_host_memory is registers


def test_cpu_is_probed_without_touching_a_driver() -> None:
    sources = machines.GB10.sources(driver=refuse, cuda_attribute=refuse, amdgpu=refuse)
    seen = probe(torch.device("cpu"), unified="on", sources=sources)
    assert (seen.backend, seen.unified, seen.votes) == ("cpu", False, ())
    assert (seen.coherent, seen.registers_host_memory) == (False, False)
    assert seen.total_bytes == machines.GB10.host_total_bytes


@pytest.mark.parametrize("machine", [machines.STRIX_HALO, machines.ARC, machines.MAC])
def test_libcuda_is_asked_for_cuda_devices_only(machine: Machine) -> None:
    probe(machine.device, sources=machine.sources(cuda_attribute=refuse))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_device_is_probed_without_an_error() -> None:
    seen = probe(CUDA)
    assert not seen.unified
    assert not seen.is_known
    assert seen.votes[0].signal == "driver"


def test_missing_nvml_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nvml = look(machines.GB10)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "nvidia_smi", None)
    assert look(machines.GB10) == with_nvml


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this is a Mac")
def test_mac_whose_driver_is_silent_is_still_unified() -> None:
    sources = HardwareSources(host_total_bytes=lambda: 16 * GIB)
    seen = probe(torch.device("mps"), sources=sources)
    assert seen.unified
    assert seen.total_bytes == 16 * GIB


# Torch has one such backend in a process, and the simulated device takes it: these run alone.
_UNNAMED = """
import torch
from comfy.loading.hardware import probe
from support import facts

def look(machine, **wanted):
    return probe(machine.device, sources=machine.sources(), **wanted)
"""


@pytest.mark.parametrize(
    "claim",
    [
        "look(facts.DIRECTML).backend == 'directml'",
        "not look(facts.DIRECTML).unified",
        "not look(facts.DIRECTML, unified='on').is_known",
        "probe(torch.device('privateuseone', 0)).backend == 'other'",
        "not probe(torch.device('privateuseone', 0)).is_known",
    ],
)
def test_backend_without_a_name_is_never_known(claim: str) -> None:
    roots = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    code = f"import sys; sys.path[:0] = {roots}\n{_UNNAMED}\nassert {claim}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_registered_kind_is_probed_by_its_own_function() -> None:
    own = machines.profile("xpu", unified=True)
    register_hardware_probe("ipu", lambda device: own)
    try:
        assert probe(torch.device("ipu", 0)) == own
        assert not probe(torch.device("ipu", 0), unified="off").unified
    finally:
        unregister_hardware_probe("ipu")
    assert probe(torch.device("ipu", 0)).backend == "other"


@pytest.mark.parametrize("kind", ["cpu", "cuda", "xpu", "mps"])
def test_torchs_own_kinds_cannot_be_taken(kind: str) -> None:
    with pytest.raises(ValueError, match=f"'{kind}' are already probed by this package"):
        register_hardware_probe(kind, refuse)


def test_kind_is_registered_by_one_function_only() -> None:
    register_hardware_probe("ipu", refuse)
    try:
        register_hardware_probe("ipu", refuse)
        with pytest.raises(ValueError, match="'ipu' are already probed by <function refuse"):
            register_hardware_probe("ipu", lambda device: machines.profile())
    finally:
        unregister_hardware_probe("ipu")


@pytest.mark.parametrize(
    ("usable", "device"),
    [
        ({"cuda", "xpu"}, torch.device("cuda", 0)),
        ({"xpu"}, torch.device("xpu", 0)),
        ({"mps"}, torch.device("mps")),
        (set(), torch.device("cpu")),
    ],
)
def test_default_device_is_the_first_that_can_be_used(
    usable: set[str], device: torch.device
) -> None:
    assert default_device(is_usable=usable.__contains__) == device


def test_default_device_is_the_cpu_when_forced() -> None:
    assert default_device(force_cpu=True, is_usable=refuse) == torch.device("cpu")


@pytest.mark.parametrize("kind", hardware._ACCELERATORS)
def test_kinds_of_accelerators_can_be_asked_about(kind: str) -> None:
    assert hardware._is_usable(kind) in (True, False)


def test_import_and_probe_of_the_cpu_start_no_accelerator() -> None:
    code = (
        "import pathlib, torch, comfy.loading.hardware as h\n"
        "h.probe(torch.device('cpu')); h.default_device(force_cpu=True)\n"
        "assert not torch.cuda.is_initialized() and not torch.xpu.is_initialized()\n"
        "path = pathlib.Path('/proc/self/maps')\n"
        "maps = path.read_text() if path.exists() else ''\n"
        "assert 'libcuda.so' not in maps and 'libnvidia-ml' not in maps\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_real_card_is_probed() -> None:
    seen = probe(torch.device("cuda", 0))
    free = device_pool(seen, host_pool()).free
    assert seen.is_known
    assert not seen.is_disputed
    assert {"integrated flag", "total memory"} <= {vote.signal for vote in seen.votes}
    assert 0 < free <= seen.total_bytes
