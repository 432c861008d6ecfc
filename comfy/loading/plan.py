"""From facts to a plan: which strategy loads a file, how, and why. Pure; the table is next door.

`resolve` walks the rows of `decision_table`. A user who names a strategy gets it or an error that
says why not; never another one.
"""

from __future__ import annotations

import difflib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass

from comfy.loading.decision_table import (
    ROWS,
    TOO_LARGE,
    WARM_FRACTION,
    Case,
    Facts,
    LoadRequest,
    Purpose,
    Row,
    Shortfall,
)
from comfy.loading.errors import NotEnoughMemory, StrategyUnavailable, UnknownStrategy
from comfy.loading.memory import MIB, MemoryNeed
from comfy.loading.page_cache import CacheEffect

__all__ = [
    "Available",
    "Facts",
    "LoadPlan",
    "LoadRequest",
    "Purpose",
    "Verdict",
    "explain",
    "resolve",
    "staging_shape",
]

Available = Mapping[str, "str | None"]
"""Names of strategies, each with None or the reason why it cannot be used."""

ALIASES = {"no-mmap": "readinto"}

_PIECE_BYTES = 8 * MIB
_REMOTE_PIECE_BYTES = 16 * MIB
_LOCAL_THREADS = 4
_REMOTE_THREADS = (8, 16)
_SLOT_BYTES = 16 * MIB
_SMALL_SLOT_BYTES = 4 * MIB
_SLOTS = (2, 4, 64)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How a file will be loaded.

    Attributes:
        strategy: Name of the strategy.
        need: What it takes at its worst moment.
        slots: Pieces of the staging ring.
        slot_bytes: Size of each.
        threads: Reader threads.
        piece_bytes: Most bytes of one read.
        direct: Reads go around the page cache.
        cache: Afterwards the page cache holds what it held before and what was read ("keep"),
            what it held before ("drop"), or nothing of the file ("evict").
        row: Of the decision table; 0 if the user named the strategy.
        reasons: Why, in words.
    """

    strategy: str
    need: MemoryNeed
    slots: int
    slot_bytes: int
    threads: int
    piece_bytes: int
    direct: bool
    cache: CacheEffect
    row: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one row says to a case.

    Attributes:
        number: Of the row.
        title: Of the row.
        matched: Whether all its conditions hold.
        reasons: Why they do; or the first one that does not.
        strategy: What it takes; None if it does not match or nothing it would take can be used.
        unavailable: Each strategy that it would take, and why it cannot be used.
    """

    number: int
    title: str
    matched: bool
    reasons: tuple[str, ...]
    strategy: str | None
    unavailable: Mapping[str, str]


def resolve(request: LoadRequest, facts: Facts, available: Available) -> LoadPlan:
    """Choose how to load.

    Args:
        request: What the caller wants.
        facts: About hardware, storage, memory and the file.
        available: Each registered strategy, and None or the reason why it cannot be used.

    Returns:
        The same plan for the same arguments, with its reasons.

    Raises:
        UnknownStrategy: If the user named one that is not registered.
        StrategyUnavailable: If the named one cannot be used, none can, or direct reads are
            demanded where there are none.
        NotEnoughMemory: If the plan does not fit.
    """
    case = Case(request, facts)
    usable = _usable(case, available)
    _refuse_impossible_direct(case)
    if facts.options.strategy != "auto":
        return _named(case, usable)
    refused: dict[str, str] = {}
    for row in ROWS:
        verdict = _judge(row, case, usable)
        refused.update(verdict.unavailable)
        if row.number == TOO_LARGE and verdict.matched and not _may_stay_in_file(case):
            raise _too_large(case, case.need(_usual(case)))
        if verdict.strategy is not None:
            told = tuple(f"not {name}: {why}" for name, why in refused.items())
            return _plan(case, row, verdict.strategy, row.number, verdict.reasons + told)
    raise StrategyUnavailable(refused, path=request.path)


def explain(request: LoadRequest, facts: Facts, available: Available) -> tuple[Verdict, ...]:
    """Tell of every row whether it matches and why; the first with a strategy is taken.

    Args:
        request: As for `resolve`.
        facts: As for `resolve`.
        available: As for `resolve`.
    """
    case = Case(request, facts)
    usable = _usable(case, available)
    return tuple(_judge(row, case, usable) for row in ROWS)


def staging_shape(staging_bytes: int, page_bytes: int = mmap.PAGESIZE) -> tuple[int, int]:
    """Divide staging memory into slots.

    Args:
        staging_bytes: All of it, at least 1 MiB.
        page_bytes: Slots are whole pages.

    Returns:
        Number of slots and bytes of each; 4 x 16 MiB by default, never fewer than 2. Their
        product is `staging_bytes` if that divides, else the largest that stays below.
    """
    few, usual, many = _SLOTS
    slots = usual if staging_bytes >= usual * _SMALL_SLOT_BYTES else few
    while slots < many and staging_bytes >= 2 * slots * _SLOT_BYTES:
        slots *= 2
    return slots, staging_bytes // slots // page_bytes * page_bytes


def _usable(case: Case, available: Available) -> dict[str, str | None]:
    """What is available under the user's flags."""
    usable = dict(available)
    options = case.facts.options
    if usable.get("mmap", "missing") is None:
        if not options.allow_mmap:
            usable["mmap"] = "--disable-mmap forbids mapping"
        elif options.direct == "on":
            usable["mmap"] = "a mapping cannot go around the page cache (--load-direct=on)"
    return usable


def _refuse_impossible_direct(case: Case) -> None:
    storage = case.facts.storage
    if case.facts.options.direct == "on" and not storage.direct_block_bytes:
        why = f"reads around the page cache do not work on this {storage.kind} filesystem"
        raise StrategyUnavailable({"--load-direct=on": why}, path=case.request.path)


def _judge(row: Row, case: Case, usable: Available) -> Verdict:
    matched, reasons = row.judge(case)
    chosen, refused = None, {}
    for name in row.strategies if matched else ():
        why = usable.get(name, "it is not registered")
        if why is None:
            chosen = name
            break
        refused[name] = why
    return Verdict(row.number, row.title, matched, reasons, chosen, refused)


def _named(case: Case, usable: Available) -> LoadPlan:
    """The strategy that the user named; cache, threads and direct reads still follow the facts."""
    given = case.facts.options.strategy
    name = given if given in usable else ALIASES.get(given, given)
    if name not in usable:
        closest = difflib.get_close_matches(given, [*usable, *ALIASES], n=1)
        raise UnknownStrategy(given, sorted(usable), closest[0] if closest else None)
    why = usable[name]
    if why is not None:
        raise StrategyUnavailable({name: why}, path=case.request.path)
    matching = (row for row in ROWS if row.number != TOO_LARGE and row.judge(case)[0])
    return _plan(case, next(matching), name, 0, (f"--load-strategy={given}",))


def _plan(case: Case, row: Row, name: str, number: int, reasons: tuple[str, ...]) -> LoadPlan:
    facts = case.facts
    may_wait = name == "file-slice" and _may_stay_in_file(case)
    need = case.need(name)
    if may_wait and case.shortfall(need) is not None:
        need = case.need(name, on_demand=True)
    if case.shortfall(need) is not None:
        raise _too_large(case, need)
    cache = _cache(case, row)
    direct = name != "mmap" and _direct(case, row, cache)
    slots, slot_bytes = staging_shape(facts.options.staging_bytes, facts.profile.page_bytes)
    piece = _REMOTE_PIECE_BYTES if case.is_remote else _PIECE_BYTES
    return LoadPlan(
        strategy=name,
        need=need,
        slots=slots,
        slot_bytes=slot_bytes,
        threads=_threads(case, row, direct),
        piece_bytes=piece if case.on_cpu else min(piece, slot_bytes),
        direct=direct,
        cache=cache,
        row=number,
        reasons=reasons,
    )


def _cache(case: Case, row: Row) -> CacheEffect:
    chosen = case.facts.options.cache
    if chosen != "auto":
        return chosen
    if case.facts.storage.is_memory:
        return "keep"
    if case.is_unified:
        # Whoever brought the pages in: they are taken from the weights.
        return "evict"
    if row.cache == "room":
        return "keep" if case.host_has_room else "drop"
    return row.cache


def _direct(case: Case, row: Row, cache: CacheEffect) -> bool:
    chosen, storage = case.facts.options.direct, case.facts.storage
    if chosen != "auto":
        return chosen == "on"
    if row.direct == "off" or cache == "keep" or (row.direct == "fuse" and not storage.is_fuse):
        return False
    return storage.direct_block_bytes > 0 and case.hot < WARM_FRACTION


def _threads(case: Case, row: Row, direct: bool) -> int:
    facts = case.facts
    if facts.options.threads:
        return facts.options.threads
    if row.threads:
        return row.threads
    cpus = facts.profile.cpu_count
    if case.is_remote:
        low, high = _REMOTE_THREADS
        return min(high, max(low, cpus))
    if facts.storage.is_rotational:
        return 1
    # Around the cache a thread waits for the disk, and the others fill memory meanwhile: four are
    # faster than two on two cores, too (docs/experiments.md).
    return _LOCAL_THREADS if direct else min(_LOCAL_THREADS, max(1, cpus))


def _usual(case: Case) -> str:
    return "readinto" if case.on_cpu else "file-slice"


def _may_stay_in_file(case: Case) -> bool:
    return case.request.partial or case.request.offload


def _too_large(case: Case, need: MemoryNeed) -> NotEnoughMemory:
    short = case.shortfall(need)
    assert short is not None
    return NotEnoughMemory(
        short.nbytes,
        short.available,
        short.pool.name,
        path=case.request.path,
        hint=_what_would_fit(case, short),
    )


def _what_would_fit(case: Case, short: Shortfall) -> str:
    """Advice with numbers: which size would fit, and what stands in the way of this one."""
    weights = case.facts.need_bytes
    besides = max(0, short.nbytes - weights)
    room = max(0, short.available - besides)
    reserve = short.pool.free - short.available
    hint = (
        f"Weights of at most {room / MIB:,.0f} MiB would fit now: {short.pool.free / MIB:,.0f} MiB "
        f"are free, {reserve / MIB:,.0f} MiB of them stay in reserve. "
        f"Free {(short.nbytes - short.available) / MIB:,.0f} MiB by unloading models or closing "
        "programs"
    )
    if weights and room >= weights // 2:
        hint += ", use a dtype of half the size, which would fit"
    if reserve and short.nbytes <= short.pool.free:
        spare = (short.pool.free - short.nbytes) // MIB
        hint += f", or lower the reserve with --load-reserve-mb={spare}"
    notes = f" ({'; '.join(short.pool.notes)})" if short.pool.notes else ""
    return f"{hint}.{notes}"
