"""Plans: what fits, what the user says, threads and staging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from comfy.loading.errors import NotEnoughMemory, StrategyUnavailable, UnknownStrategy
from comfy.loading.memory import MemoryNeed
from comfy.loading.plan import LoadPlan, resolve, staging_shape
from support.facts import EVERYTHING, GIB, MIB, facts, pool, profile, request, storage

CPU = profile("cpu")
SPARK = profile(unified=True, total_bytes=120 * GIB)
CARD = profile()
DIRECTML = profile("directml")

NVME = storage()
HALF_CACHED = storage(hot=0.5)
HOT = storage(hot=0.9)
TMPFS = storage("tmpfs")
NFS = storage("nfs4")
SSHFS = storage("fuse.sshfs")

SCARCE = pool(8 * GIB, 16 * GIB)
LOWVRAM = request(offload=True)


def choose(
    available: Mapping[str, str | None] = EVERYTHING, *, ask: Any = None, **changes: Any
) -> LoadPlan:
    return resolve(ask or request(), facts(**changes), available)


# -- size against memory -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "pool_name"),
    [
        pytest.param({"profile": CPU, "casts": True}, "host memory", id="CPU with a cast"),
        pytest.param({"profile": SPARK}, "host memory", id="unified"),
        pytest.param({}, "cuda:0 memory", id="discrete"),
        pytest.param({"profile": DIRECTML}, "host memory", id="unknown"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], pool_name: str) -> None:
    with pytest.raises(NotEnoughMemory) as caught:
        choose(file_bytes=70 * GIB, **changes)
    error = caught.value
    assert error.pool == pool_name
    assert error.need >= 70 * GIB
    assert error.available < error.need
    assert error.path == "model.safetensors"


def test_refusal_tells_what_would_fit() -> None:
    host = pool(20 * GIB, 120 * GIB)
    with pytest.raises(NotEnoughMemory) as caught:
        choose(profile=SPARK, host=host, file_bytes=18 * GIB)
    error = caught.value
    assert error.need == 18 * GIB + 64 * MIB
    assert error.available == 14 * GIB
    assert error.hint == (
        "Weights of at most 14,272 MiB would fit now: 20,480 MiB are free, 6,144 MiB of them stay "
        "in reserve. Free 4,160 MiB by unloading models or closing programs, use a dtype of half "
        "the size, which would fit, or lower the reserve with --load-reserve-mb=1984."
    )


def test_refusal_proposes_only_what_would_help() -> None:
    with pytest.raises(NotEnoughMemory) as caught:
        choose(file_bytes=70 * GIB)
    assert "half the size" not in caught.value.hint
    assert "--load-reserve-mb" not in caught.value.hint


def test_proposed_reserve_is_enough() -> None:
    host = pool(20 * GIB, 120 * GIB)
    plan = choose(
        profile=SPARK, host=host, file_bytes=18 * GIB, options={"reserve_bytes": 1984 * MIB}
    )
    assert plan.row == 7


def test_refusal_tells_of_a_container() -> None:
    host = pool(8 * GIB, 10 * GIB, notes=("the limit of 10,240 MiB on /app leaves 8,192 MiB",))
    with pytest.raises(NotEnoughMemory, match="the limit of 10,240 MiB"):
        choose(profile=SPARK, host=host, file_bytes=12 * GIB)


@pytest.mark.parametrize(
    ("size_mib", "fits"), [(8192 - 64, True), (8192 - 63, False)], ids=["to the last MiB", "over"]
)
def test_weights_staging_and_reserve_must_fit(size_mib: int, fits: bool) -> None:
    known = {
        "profile": SPARK,
        "host": pool(10 * GIB, 120 * GIB),
        "options": {"reserve_bytes": 2 * GIB},
        "file_bytes": size_mib * MIB,
    }
    if fits:
        assert choose(**known).row == 7
        return
    with pytest.raises(NotEnoughMemory):
        choose(**known)


def test_cast_counts_at_the_wanted_size_with_its_temporary() -> None:
    plan = choose(profile=SPARK, need_bytes=12 * GIB, largest_cast_bytes=16 * MIB, casts=True)
    assert plan.need == MemoryNeed(
        file=6 * GIB, host=0, device=12 * GIB, staging=64 * MIB, cast=16 * MIB
    )
    assert plan.need.unified_total() == 12 * GIB + 80 * MIB


@pytest.mark.parametrize(
    ("device", "free_mib"), [(CPU, 6144 + 16), (SPARK, 6144 + 64 + 16), (CARD, 6144 + 16)]
)
@pytest.mark.parametrize("missing", [0, 1])
def test_temporary_of_a_cast_must_fit(device: Any, free_mib: int, missing: int) -> None:
    home = pool(free_mib * MIB - missing)
    known: dict[str, Any] = {"device": home} if device is CARD else {"host": home}
    known |= {"profile": device, "largest_cast_bytes": 16 * MIB, "casts": True}
    if not missing:
        assert choose(options={"reserve_bytes": 0}, **known).need.cast == 16 * MIB
        return
    with pytest.raises(NotEnoughMemory):
        choose(options={"reserve_bytes": 0}, **known)


def test_discrete_card_may_hold_more_than_the_host() -> None:
    assert choose(host=pool(2 * GIB), file_bytes=20 * GIB).row == 15


def test_staging_must_fit_into_the_host() -> None:
    with pytest.raises(NotEnoughMemory, match="host memory"):
        choose(host=pool(60 * MIB))


def test_weights_that_stay_in_the_file_need_only_staging() -> None:
    plan = choose(
        profile=SPARK, file_bytes=100 * GIB, host=pool(20 * GIB, 120 * GIB), places_now=False
    )
    assert (plan.row, plan.strategy) == (7, "file-slice")
    assert (plan.need.device, plan.need.host, plan.need.staging) == (0, 0, 64 * MIB)


def test_cpu_needs_neither_staging_nor_device() -> None:
    assert choose(profile=CPU).need == MemoryNeed(6 * GIB, 6 * GIB, 0, 0, 0)


def test_mapped_weights_need_no_memory() -> None:
    plan = choose(profile=CPU, storage=TMPFS, file_bytes=500 * GIB)
    assert (plan.strategy, plan.need.host) == ("mmap", 0)


def test_what_stays_in_the_file_needs_its_working_set() -> None:
    plan = choose(ask=request(partial=True), file_bytes=40 * GIB, largest_bytes=GIB)
    assert plan.need.device == 2 * GIB


def test_even_a_working_set_can_be_too_large() -> None:
    with pytest.raises(NotEnoughMemory):
        choose(ask=request(partial=True), file_bytes=40 * GIB, largest_bytes=30 * GIB)


def test_streaming_does_not_need_the_whole_card() -> None:
    plan = choose(ask=LOWVRAM, file_bytes=40 * GIB)
    assert (plan.row, plan.need.host, plan.need.device) == (12, 40 * GIB, 600 * MIB)


def test_streaming_on_unified_memory_leaves_weights_in_the_file() -> None:
    plan = choose(ask=LOWVRAM, profile=SPARK, host=pool(20 * GIB, 120 * GIB), file_bytes=40 * GIB)
    assert (plan.row, plan.strategy, plan.cache) == (2, "file-slice", "evict")


@pytest.mark.parametrize(
    ("changes", "host_gib", "device_gib"),
    [
        pytest.param({"profile": SPARK}, 0.25, 6, id="unified: tensors leave one by one"),
        pytest.param({"profile": SPARK, "need_bytes": 12 * GIB}, 0.25, 12, id="unified, grows"),
        pytest.param({"profile": SPARK, "need_bytes": 3 * GIB}, 0.25, 6, id="unified, shrinks"),
        pytest.param({}, 6, 6, id="discrete: both at once"),
        pytest.param({"need_bytes": 12 * GIB}, 6, 12, id="discrete, cast on the device"),
        pytest.param({"need_bytes": 12 * GIB, "places_now": False}, 12, 0, id="stays on the host"),
    ],
)
def test_readinto_then_upload_is_counted(
    changes: dict[str, Any], host_gib: float, device_gib: float
) -> None:
    plan = choose(options={"strategy": "readinto"}, largest_bytes=GIB // 4, **changes)
    assert (plan.need.host, plan.need.device) == (host_gib * GIB, device_gib * GIB)


def test_strategys_own_estimate_counts() -> None:
    own = MemoryNeed(file=1, host=2, device=3, staging=4, cast=5)
    plan = choose(
        {**EVERYTHING, "plug-in": None},
        options={"strategy": "plug-in"},
        estimates={"plug-in": own},
    )
    assert plan.need == own


# -- the user's word -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mmap", "readinto", "file-slice"])
def test_named_strategy_is_taken(name: str) -> None:
    plan = choose(options={"strategy": name})
    assert (plan.strategy, plan.row) == (name, 0)
    assert plan.reasons == (f"--load-strategy={name}",)


def test_alias_means_readinto() -> None:
    plan = choose(options={"strategy": "no-mmap"})
    assert (plan.strategy, plan.reasons) == ("readinto", ("--load-strategy=no-mmap",))


@pytest.mark.parametrize(
    ("changes", "cache", "direct", "threads"),
    [
        ({"profile": SPARK}, "evict", True, 4),
        ({"profile": SPARK, "storage": HALF_CACHED}, "evict", False, 4),
        ({}, "keep", False, 4),
        ({"storage": NFS, "host": SCARCE}, "drop", False, 16),
    ],
)
def test_named_strategy_still_follows_the_facts(
    changes: dict[str, Any], cache: str, direct: bool, threads: int
) -> None:
    plan = choose(options={"strategy": "readinto"}, **changes)
    assert (plan.cache, plan.direct, plan.threads) == (cache, direct, threads)


def test_named_mmap_never_reads_directly() -> None:
    assert not choose(profile=SPARK, options={"strategy": "mmap"}).direct


def test_named_strategy_that_cannot_run_is_an_error() -> None:
    with pytest.raises(StrategyUnavailable, match="needs a local file") as caught:
        choose({**EVERYTHING, "mmap": "needs a local file"}, options={"strategy": "mmap"})
    assert not isinstance(caught.value, UnknownStrategy)


def test_misspelt_strategy_gets_a_suggestion() -> None:
    with pytest.raises(UnknownStrategy, match="Did you mean 'file-slice'"):
        choose(options={"strategy": "fileslice"})


def test_unheard_of_strategy_gets_the_list() -> None:
    with pytest.raises(UnknownStrategy, match="file-slice, mmap, readinto") as caught:
        choose(options={"strategy": "zzz"})
    assert "Did you mean" not in str(caught.value)


def test_named_strategy_that_does_not_fit_is_refused() -> None:
    with pytest.raises(NotEnoughMemory):
        choose(options={"strategy": "file-slice"}, file_bytes=40 * GIB)


@pytest.mark.parametrize("changes", [{"storage": TMPFS}, {"storage": HOT}])
def test_disable_mmap_takes_the_next_row_and_says_why(changes: dict[str, Any]) -> None:
    plan = choose(profile=CPU, options={"allow_mmap": False}, **changes)
    assert (plan.row, plan.strategy) == (4, "readinto")
    assert "not mmap: --disable-mmap forbids mapping" in plan.reasons


def test_disable_mmap_refuses_what_only_a_mapping_could_hold() -> None:
    with pytest.raises(NotEnoughMemory):
        choose(profile=CPU, options={"allow_mmap": False}, file_bytes=80 * GIB)


def test_disable_mmap_leaves_no_last_resort() -> None:
    with pytest.raises(StrategyUnavailable, match="--disable-mmap"):
        choose({"mmap": None}, options={"allow_mmap": False})


@pytest.mark.parametrize("strategy", ["auto", "readinto", "file-slice"])
def test_direct_reads_are_never_promised_in_vain(strategy: str) -> None:
    with pytest.raises(StrategyUnavailable, match="do not work on this tmpfs filesystem"):
        choose(storage=TMPFS, options={"strategy": strategy, "direct": "on"})


def test_direct_reads_on_demand_beat_the_table() -> None:
    plan = choose(storage=HALF_CACHED, options={"direct": "on"})
    assert (plan.row, plan.direct) == (14, True)


def test_direct_reads_on_demand_rule_a_mapping_out() -> None:
    plan = choose(profile=CPU, storage=HOT, options={"direct": "on"})
    assert (plan.strategy, plan.direct) == ("readinto", True)


def test_direct_reads_can_be_forbidden() -> None:
    assert not choose(profile=SPARK, options={"direct": "off"}).direct


@pytest.mark.parametrize(("word", "direct"), [("keep", False), ("drop", True)])
def test_cache_policy_of_the_user_beats_the_table(word: str, direct: bool) -> None:
    plan = choose(profile=SPARK, options={"cache": word})
    assert (plan.cache, plan.direct) == (word, direct)


def test_reserve_of_the_user_beats_the_default() -> None:
    known = {"profile": SPARK, "host": pool(7 * GIB, 120 * GIB)}
    assert choose(options={"reserve_bytes": 0}, **known).row == 7
    with pytest.raises(NotEnoughMemory):
        choose(**known)


# -- threads, pieces, slots ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus", "disk", "threads"),
    [
        pytest.param(16, NVME, 4, id="SSD"),
        pytest.param(2, NVME, 2, id="two cores"),
        pytest.param(1, NVME, 1, id="one core"),
        pytest.param(16, storage(rotational=True), 1, id="turning disk"),
        pytest.param(2, NFS, 8, id="network, two cores"),
        pytest.param(12, NFS, 12, id="network, twelve cores"),
        pytest.param(64, SSHFS, 16, id="FUSE, many cores"),
    ],
)
def test_threads_follow_disk_and_cores(cpus: int, disk: Any, threads: int) -> None:
    assert choose(profile=profile(cpu_count=cpus), storage=disk).threads == threads


def test_direct_reads_take_more_threads_than_cores() -> None:
    plan = choose(profile=profile(cpu_count=2), storage=NVME, options={"cache": "drop"})
    assert plan.direct
    assert plan.threads == 4


def test_small_file_is_read_by_one_thread() -> None:
    assert choose(file_bytes=MIB).threads == 1


@pytest.mark.parametrize("size", [MIB, 6 * GIB])
def test_threads_of_the_user_win(size: int) -> None:
    assert choose(file_bytes=size, options={"threads": 7}).threads == 7


@pytest.mark.parametrize(
    ("disk", "staging_mib", "piece_mib"), [(NVME, 64, 8), (NFS, 64, 16), (NFS, 8, 4)]
)
def test_pieces_fit_into_slots(disk: Any, staging_mib: int, piece_mib: int) -> None:
    plan = choose(storage=disk, options={"staging_bytes": staging_mib * MIB})
    assert plan.piece_bytes == piece_mib * MIB
    assert plan.piece_bytes <= plan.slot_bytes


@pytest.mark.parametrize(
    ("staging_mib", "slots", "slot_mib"),
    [
        (1, 2, 0.5), (2, 2, 1), (8, 2, 4), (16, 4, 4), (32, 4, 8), (64, 4, 16), (100, 4, 25),
        (128, 8, 16), (1024, 64, 16), (16384, 64, 256),
    ],
)  # fmt: skip
def test_staging_is_divided_into_slots(staging_mib: int, slots: int, slot_mib: float) -> None:
    assert staging_shape(staging_mib * MIB, 4096) == (slots, int(slot_mib * MIB))
    assert slots * slot_mib == staging_mib


@pytest.mark.parametrize("page", [4096, 16384, 65536])
@pytest.mark.parametrize("staging", [MIB, MIB + 1, 3 * MIB + 5000, 37 * MIB])
def test_slots_are_whole_pages_inside_staging(page: int, staging: int) -> None:
    slots, slot = staging_shape(staging, page)
    assert slots >= 2
    assert slot >= 64 * 1024
    assert slot % page == 0
    assert slots * slot <= staging


def test_plan_carries_the_slots() -> None:
    plan = choose(profile=SPARK)
    assert (plan.slots, plan.slot_bytes, plan.need.staging) == (4, 16 * MIB, 64 * MIB)
