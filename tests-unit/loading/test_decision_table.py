"""The decision table, row by row, on usual and on odd machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from comfy.loading.decision_table import ROWS
from comfy.loading.errors import NotEnoughMemory, StrategyUnavailable
from comfy.loading.hardware import probe
from comfy.loading.memory import device_pool
from comfy.loading.plan import LoadPlan, explain, resolve
from support import facts as machines
from support.facts import EVERYTHING, GIB, MIB, facts, pool, profile, request, storage

CPU = profile("cpu")
SPARK = profile(unified=True, total_bytes=120 * GIB)
APU = profile("hip", unified=True, total_bytes=120 * GIB)
IGPU = profile("xpu", unified=True, total_bytes=60 * GIB)
MAC = profile("mps", total_bytes=48 * GIB)
GRACE_HOPPER = profile(coherent=True, total_bytes=94 * GIB)
CARD = profile()
AMD_CARD = profile("hip")
ARC = profile("xpu")
WINDOWS_CARD = profile(platform="win32")
DIRECTML = profile("directml")
UNKNOWN = profile("other")

HALF_CACHED = storage(hot=0.5)
HOT = storage(hot=0.9)
TMPFS = storage("tmpfs")
NFS = storage("nfs4")
SSHFS = storage("fuse.sshfs")

PLENTY = pool(60 * GIB, 64 * GIB)
SCARCE = pool(8 * GIB, 16 * GIB)
LOWVRAM = request(offload=True)


def choose(
    available: Mapping[str, str | None] = EVERYTHING, *, ask: Any = None, **changes: Any
) -> LoadPlan:
    return resolve(ask or request(), facts(**changes), available)


@pytest.mark.parametrize(
    ("row", "changes", "ask", "strategy", "cache", "direct"),
    [
        pytest.param(
            1, {"profile": CPU, "storage": TMPFS}, None, "mmap", "keep", False,
            id="1: CPU, file in memory",
        ),
        pytest.param(
            1, {"profile": CPU, "storage": HOT}, None, "mmap", "keep", False,
            id="1: CPU, file cached",
        ),
        pytest.param(
            1, {"profile": CPU, "file_bytes": 80 * GIB}, None, "mmap", "keep", False,
            id="1: CPU, file larger than memory",
        ),
        pytest.param(
            2, {"file_bytes": 40 * GIB}, request(partial=True), "file-slice", "drop", True,
            id="2: too large, but may stay in the file",
        ),
        pytest.param(
            3, {"file_bytes": 63 * MIB}, None, "readinto", "keep", False, id="3: small",
        ),
        pytest.param(
            3, {"file_bytes": 63 * MIB, "profile": SPARK}, None, "readinto", "evict", False,
            id="3: small on unified memory",
        ),
        pytest.param(
            4, {"profile": CPU}, None, "readinto", "drop", True, id="4: CPU, cold",
        ),
        pytest.param(
            4, {"profile": CPU, "storage": HOT, "casts": True}, None, "readinto", "drop", False,
            id="4: CPU, cached but cast",
        ),
        pytest.param(
            5, {"profile": SPARK, "storage": NFS}, None, "file-slice", "evict", False,
            id="5: unified, network",
        ),
        pytest.param(
            5, {"profile": APU, "storage": SSHFS}, None, "file-slice", "evict", True,
            id="5: unified, FUSE that takes direct reads",
        ),
        pytest.param(
            6, {"profile": SPARK, "storage": HALF_CACHED}, None, "file-slice", "evict", False,
            id="6: unified, half cached",
        ),
        pytest.param(
            6, {"profile": IGPU, "storage": TMPFS}, None, "file-slice", "keep", False,
            id="6: unified, file in memory: nothing to evict",
        ),
        pytest.param(
            7, {"profile": SPARK}, None, "file-slice", "evict", True, id="7: unified, cold",
        ),
        pytest.param(
            7, {"profile": IGPU, "storage": storage(direct=0)}, None, "file-slice", "evict", False,
            id="7: unified, cold, no direct reads",
        ),
        pytest.param(
            7, {"profile": APU, "storage": storage(hot=None)}, None, "file-slice", "evict", True,
            id="7: unified, residency unknown",
        ),
        pytest.param(8, {"profile": MAC}, None, "file-slice", "evict", True, id="8: MPS"),
        pytest.param(
            8, {"profile": MAC, "storage": NFS}, None, "file-slice", "evict", False,
            id="8: MPS, network",
        ),
        pytest.param(
            9, {"profile": GRACE_HOPPER}, None, "file-slice", "drop", True, id="9: Grace Hopper",
        ),
        pytest.param(
            9, {"profile": GRACE_HOPPER, "storage": NFS}, None, "file-slice", "drop", False,
            id="9: Grace Hopper, network",
        ),
        pytest.param(
            10, {"storage": NFS}, None, "file-slice", "keep", False, id="10: discrete, network",
        ),
        pytest.param(
            10, {"storage": SSHFS, "host": SCARCE}, None, "file-slice", "drop", True,
            id="10: discrete, FUSE, little memory",
        ),
        pytest.param(
            11, {"profile": WINDOWS_CARD}, None, "file-slice", "keep", False, id="11: Windows",
        ),
        pytest.param(
            12, {}, LOWVRAM, "readinto", "drop", True, id="12: streamed from host memory",
        ),
        pytest.param(
            13, {"host": pool(4 * GIB)}, LOWVRAM, "file-slice", "drop", False,
            id="13: streamed, host short",
        ),
        pytest.param(14, {}, None, "file-slice", "keep", False, id="14: discrete, roomy host"),
        pytest.param(
            14, {"profile": AMD_CARD}, None, "file-slice", "keep", False, id="14: HIP",
        ),
        pytest.param(14, {"profile": ARC}, None, "file-slice", "keep", False, id="14: XPU"),
        pytest.param(
            14, {"options": {"cache": "drop"}}, None, "file-slice", "drop", True,
            id="14: direct when the user wants no cache",
        ),
        pytest.param(
            15, {"host": SCARCE}, None, "file-slice", "drop", True, id="15: discrete, poor host",
        ),
        pytest.param(
            15, {"host": SCARCE, "storage": HALF_CACHED}, None, "file-slice", "drop", False,
            id="15: discrete, poor host, half cached",
        ),
        pytest.param(16, {"profile": DIRECTML}, None, "readinto", "keep", False, id="16: DirectML"),
        pytest.param(
            16, {"profile": UNKNOWN, "host": SCARCE}, None, "readinto", "drop", False,
            id="16: unknown backend, little memory",
        ),
        pytest.param(
            17, {"profile": UNKNOWN, "host": pool(6500 * MIB)}, None, "readinto", "keep", False,
            id="17: unknown backend, just enough memory",
        ),
    ],
)  # fmt: skip
def test_row(
    row: int, changes: dict[str, Any], ask: Any, strategy: str, cache: str, direct: bool
) -> None:
    plan = choose(ask=ask, **changes)
    assert (plan.row, plan.strategy, plan.cache, plan.direct) == (row, strategy, cache, direct)
    assert plan.reasons or row == 17


# The reserve of these hosts is set to nothing, so that limits can be met to the byte.
EXACT = {"reserve_bytes": 0}


@pytest.mark.parametrize(
    ("changes", "ask", "row"),
    [
        pytest.param({"profile": CPU, "storage": storage(hot=0.8)}, None, 4, id="not yet hot"),
        pytest.param(
            {"profile": CPU, "host": pool(6 * GIB)}, None, 4, id="file as large as memory"
        ),
        pytest.param({"profile": CPU, "host": pool(6 * GIB - 1)}, None, 1, id="one byte larger"),
        pytest.param({"file_bytes": 64 * MIB - 1}, None, 3, id="still small"),
        pytest.param({"file_bytes": 64 * MIB}, None, 14, id="no longer small"),
        pytest.param({"profile": SPARK, "storage": storage(hot=0.2)}, None, 6, id="just warm"),
        pytest.param({"profile": SPARK, "storage": storage(hot=0.19)}, None, 7, id="just cold"),
        pytest.param({"host": pool(9 * GIB)}, None, 14, id="room for 1.5 files"),
        pytest.param({"host": pool(9 * GIB - 1)}, None, 15, id="one byte less"),
        pytest.param({"host": pool(6 * GIB + 64 * MIB)}, LOWVRAM, 12, id="host holds the file"),
        pytest.param({"host": pool(6 * GIB + 64 * MIB - 1)}, LOWVRAM, 13, id="all but one byte"),
        pytest.param({"profile": DIRECTML, "host": pool(6444 * MIB)}, None, 16, id="twice one"),
        pytest.param({"profile": DIRECTML, "host": pool(6443 * MIB)}, None, 17, id="not quite"),
    ],
)
def test_boundary_of_a_row(changes: dict[str, Any], ask: Any, row: int) -> None:
    assert choose(ask=ask, options=EXACT, **changes).row == row


def test_cpu_may_execute_beside_an_accelerator() -> None:
    plan = choose(profile=SPARK, executes_on_cpu=True)
    assert (plan.row, plan.strategy) == (4, "readinto")
    assert (plan.need.host, plan.need.device, plan.need.staging) == (6 * GIB, 0, 0)


def test_rows_are_numbered_in_order() -> None:
    assert [row.number for row in ROWS] == list(range(1, 18))


def test_reasons_are_those_of_the_row() -> None:
    assert choose(profile=SPARK).reasons == ("unified memory", "local disk", "cold")


def test_same_arguments_give_the_same_plan() -> None:
    asked, known = request(), facts(profile=SPARK)
    assert resolve(asked, known, EVERYTHING) == resolve(asked, known, EVERYTHING)


def test_failed_self_test_of_staging_falls_through_to_the_last_row() -> None:
    available = {**EVERYTHING, "file-slice": "the staging self-test failed"}
    plan = choose(available)
    assert (plan.row, plan.strategy, plan.cache) == (17, "readinto", "keep")
    assert "not file-slice: the staging self-test failed" in plan.reasons


def test_mmap_is_the_last_resort() -> None:
    assert choose({"mmap": None}).strategy == "mmap"


def test_nothing_usable_is_an_error_with_every_reason() -> None:
    available = {"mmap": "no mappings here", "readinto": "no reads here"}
    with pytest.raises(StrategyUnavailable) as caught:
        choose(available)
    assert caught.value.reasons == {
        "file-slice": "it is not registered",
        "mmap": "no mappings here",
        "readinto": "no reads here",
    }


# -- odd machines, from their drivers' reports to the plan ---------------------------------


def plan_for(machine: machines.Machine, told: tuple[float, float], host: Any) -> LoadPlan:
    seen = probe(machine.device, sources=machine.sources())
    memory = device_pool(seen, host, lambda: told, reusable=lambda: 0)  # type: ignore[arg-type, return-value]
    return resolve(request(), facts(profile=seen, host=host, device=memory), EVERYTHING)


@pytest.mark.parametrize(
    ("machine", "told", "row"),
    [
        pytest.param(machines.GB10, (2 * GIB, 121 * GIB), 7, id="GB10 whose cache is full"),
        pytest.param(machines.JETSON_ORIN, (1e32, 1e32), 7, id="1e32 on Jetson"),
        pytest.param(machines.STRIX_HALO, (120 * GIB, 62 * GIB), 7, id="APU, free above total"),
        pytest.param(machines.N1X, (40 * GIB, 45 * GIB), 7, id="N1X"),
        pytest.param(machines.N1X_CARVE_OUT, (7.5 * GIB, 8 * GIB), 11, id="N1X carve-out"),
        pytest.param(machines.RTX_5090_AS_UNIFIED, (31 * GIB, 31 * GIB), 14, id="5090 as unified"),
        pytest.param(machines.RTX_5090, (1e32, 1e32), 14, id="1e32 on a card"),
        pytest.param(machines.GH200, (90 * GIB, 94 * GIB), 9, id="GH200"),
        pytest.param(machines.MAC, (40 * GIB, 48 * GIB), 8, id="Apple"),
    ],
)
def test_odd_machine_gets_its_row(
    machine: machines.Machine, told: tuple[float, float], row: int
) -> None:
    assert plan_for(machine, told, pool(50 * GIB, 64 * GIB)).row == row


def test_card_mistaken_as_unified_does_not_get_the_hosts_memory() -> None:
    with pytest.raises(NotEnoughMemory, match="cuda:0 memory"):
        plan_for(machines.RTX_5090_AS_UNIFIED, (4 * GIB, 31 * GIB), pool(100 * GIB, 128 * GIB))


def test_driver_that_raises_does_not_stop_a_load() -> None:
    def fail() -> tuple[int, int]:
        raise RuntimeError("device busy")

    seen = probe(machines.RTX_5090.device, sources=machines.RTX_5090.sources())
    memory = device_pool(seen, PLENTY, fail, reusable=lambda: 0)
    assert resolve(request(), facts(profile=seen, device=memory), EVERYTHING).row == 14


def test_container_on_unified_memory_is_the_limit() -> None:
    # 1.15 W: what an unlimited reserve would refuse, and a mapped copy would not survive.
    limited = pool(int(2.3 * GIB), int(2.5 * GIB), beyond=20 * GIB)
    assert choose(profile=SPARK, host=limited, file_bytes=2 * GIB).row == 7
    with pytest.raises(NotEnoughMemory):
        choose(profile=SPARK, host=limited, file_bytes=int(2.3 * GIB))


# -- explanations --------------------------------------------------------------------------


def test_every_row_explains_itself() -> None:
    verdicts = explain(request(), facts(profile=SPARK), EVERYTHING)
    by_number = {verdict.number: verdict for verdict in verdicts}
    assert list(by_number) == list(range(1, 18))
    assert by_number[1].reasons == ("cuda:0 executes",)
    assert by_number[2].reasons == ("the weights fit",)
    assert by_number[3].reasons == ("6.00 GiB",)
    assert by_number[6].reasons == ("cold (0%)",)
    assert by_number[7].matched
    assert by_number[7].strategy == "file-slice"
    assert by_number[10].reasons == ("unified memory",)
    assert by_number[17].matched


def test_rows_for_devices_say_that_the_cpu_executes() -> None:
    verdicts = explain(request(), facts(profile=CPU), EVERYTHING)
    assert not verdicts[9].matched
    assert verdicts[9].reasons == ("the CPU executes",)


def test_first_row_with_a_strategy_is_the_one_taken() -> None:
    known = facts(profile=CPU, storage=HOT, options={"allow_mmap": False})
    verdicts = explain(request(), known, EVERYTHING)
    taken = next(verdict for verdict in verdicts if verdict.strategy is not None)
    assert taken.number == resolve(request(), known, EVERYTHING).row
    assert verdicts[0].matched
    assert verdicts[0].unavailable == {"mmap": "--disable-mmap forbids mapping"}


def test_what_does_not_fit_is_explained_with_numbers() -> None:
    verdicts = explain(request(), facts(file_bytes=40 * GIB), EVERYTHING)
    assert verdicts[1].matched
    assert verdicts[1].reasons == ("40.00 GiB needed of cuda:0 memory, 22.75 GiB available",)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
@pytest.mark.parametrize("device", [CPU, SPARK, MAC, GRACE_HOPPER, CARD, DIRECTML, UNKNOWN])
def test_every_row_can_judge_every_machine(row: Any, device: Any) -> None:
    from_row = explain(request(device=torch.device("cpu")), facts(profile=device), EVERYTHING)
    verdict = from_row[row.number - 1]
    assert verdict.title
    assert verdict.reasons or row.number == 17
