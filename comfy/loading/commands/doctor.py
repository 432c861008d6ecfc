"""Tell what this machine is, how a file would be loaded here and why, and which flags to use.

Loads nothing. Without a file it imagines some; in a folder it writes one temporary file of 4 KiB
and removes it. The loading flags may be given, to see what they would change. Exit code 1 means
that the file could not be loaded as things are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from comfy.loading import options
from comfy.loading.commands.advice import (
    Advice,
    command_line,
    effect,
    environment_twin,
    recommend,
    why_none,
)
from comfy.loading.commands.devices import add_device_arguments, chosen_device
from comfy.loading.commands.findings import Decision, Findings, examine
from comfy.loading.commands.tables import INDENT, facts, heading, percent, table, wrapped
from comfy.loading.memory import Pool
from comfy.loading.plan import LoadPlan
from comfy.loading.storage import StorageProfile
from comfy.loading.usage import in_words

_BULLET = f"{INDENT}- "
_UNDER_BULLET = f"{INDENT}  "
_CACHE_WORDS = {
    "keep": "what was read stays, as a warm copy",
    "drop": "what was read is dropped, what was there before stays",
    "evict": "nothing of the file stays, whoever brought it in",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="a checkpoint, or a folder of them (default: ./models, or this folder)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--lowvram",
        action="store_true",
        help="weights are streamed through the device again and again",
    )
    add_device_arguments(parser)
    options.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the report.

    Returns:
        0, or 1 if the file could not be loaded.

    Raises:
        FileNotFoundError: If there is no file.
        LoadError: If it is invalid.
    """
    device = chosen_device(arguments)
    found = examine(
        arguments.file, device, options.from_namespace(arguments), offload=arguments.lowvram
    )
    advices = recommend(found)
    if arguments.json:
        print(json.dumps(_as_json(found, advices), indent=2))
    else:
        print("\n".join(_as_text(found, advices)))
    return 0 if found.path is None or isinstance(found.decision.plan, LoadPlan) else 1


# -- as text -----------------------------------------------------------------------------------


def _as_text(found: Findings, advices: list[Advice]) -> list[str]:
    lines = ["machine", *facts(_machine(found))]
    if found.profile.votes:
        lines += [heading("does the GPU share the CPU's memory?"), *_votes(found)]
    lines += [heading("memory"), *_memory(found)]
    lines += [heading("storage"), *facts(_storage(found))]
    lines += [heading("page cache"), *facts(_cache(found))]
    lines += _decision(found)
    if found.examples:
        lines += [heading("what `auto` does here, by kind of file"), *_examples(found)]
    lines += [heading("strategies"), *_strategies(found)]
    lines += [heading("rows of the decision table, in order"), *_rows(found)]
    lines += [heading("recommended flags"), *_advice(found, advices)]
    return lines


def _machine(found: Findings) -> Iterable[tuple[str, str]]:
    software, profile = found.software, found.profile
    serves = ", ".join(software.serves) or "the CPU only"
    yield "system", f"{software.system}{' (WSL)' if profile.platform == 'wsl' else ''}"
    yield "software", f"Python {software.python}, torch {software.torch} (serves {serves})"
    yield "CPUs", f"{profile.cpu_count} for this process, pages of {in_words(profile.page_bytes)}"
    yield "device", f"{profile.device} ({profile.backend})"
    if profile.backend != "cpu":
        size = in_words(profile.total_bytes) if profile.total_bytes else "unknown size"
        kind = "the CPU's memory (unified)" if profile.unified else "its own (discrete)"
        yield "its memory", f"{size}, {kind}{', coherent page tables' if profile.coherent else ''}"
        can = "yes" if profile.registers_host_memory else "no"
        yield "page-locking", f"{can}: staging {'is' if can == 'yes' else 'is not'} registered"


def _votes(found: Findings) -> list[str]:
    rows = [
        (v.signal, v.value, v.says, "decides" if v.strong else "hint") for v in found.profile.votes
    ]
    verdict = "yes: one copy for both" if found.profile.unified else "no: two memories"
    if found.profile.is_disputed:
        verdict += "; strong signals contradict each other"
    return [*table(("signal", "value", "says", "weight"), rows), *facts([("verdict", verdict)])]


def _memory(found: Findings) -> list[str]:
    pools = [found.host] if found.device == found.host else [found.host, found.device]
    rows = [(pool.name, in_words(pool.total), in_words(pool.free)) for pool in pools]
    lines = table(("pool", "total", "free"), rows, right="lrr")
    which = "you set it" if found.options.reserve_bytes is not None else "by kind of machine"
    pairs = [("reserve", f"{in_words(found.reserve_bytes)} stay free ({which})")]
    pairs += [("note", note) for pool in pools for note in pool.notes]
    return lines + facts(dict.fromkeys(pairs))


def _storage(found: Findings) -> Iterable[tuple[str, str]]:
    storage = found.decision.facts.storage
    yield "place", found.place
    if found.place_note:
        yield "note", found.place_note
    yield "filesystem", f"{storage.kind}: {_storage_kind(storage)}"
    if found.path is not None:
        yield "in memory", f"{percent(storage.resident_fraction)} of the file (page cache)"


def _storage_kind(storage: StorageProfile) -> str:
    if storage.is_memory:
        return "lives in memory"
    if storage.is_network:
        return "on another machine"
    if storage.is_fuse:
        return "served by a program (FUSE)"
    return "local, a turning disk" if storage.is_rotational else "local"


def _cache(found: Findings) -> Iterable[tuple[str, str]]:
    can = found.abilities
    block = in_words(can.direct_block_bytes)
    direct = (
        f"yes, in blocks of {block}" if can.direct_block_bytes else "no, not on this filesystem"
    )
    yield "reads around it", f"{direct} (O_DIRECT)"
    leaves = "yes" if can.uncached_reads else "no, pages are dropped behind each read instead"
    yield "reads that leave nothing", f"{leaves} (RWF_DONTCACHE)"
    counts = "yes" if can.counts else "no, every file counts as not cached"
    yield "tells what it holds", f"{counts} (cachestat)"
    yield "forgets on request", f"{'yes' if can.drops else 'no'} (posix_fadvise)"


def _decision(found: Findings) -> list[str]:
    decision = found.decision
    size = in_words(decision.facts.need_bytes)
    return [heading(f"how {decision.title} ({size}) is loaded"), *facts(_plan(found, decision))]


def _plan(found: Findings, decision: Decision) -> Iterable[tuple[str, str]]:
    plan = decision.plan
    if not isinstance(plan, LoadPlan):
        yield "refused", f"{plan.message} {plan.hint}"
        return
    why = ", ".join(plan.reasons)
    yield "strategy", f"{plan.strategy} ({f'row {plan.row}: ' if plan.row else ''}{why})"
    device = None if found.profile.backend == "cpu" else str(found.profile.device)
    yield "what happens", effect(plan, device)
    if plan.strategy != "mmap":
        around = "around the page cache" if plan.direct else "through the page cache"
        threads = f"{plan.threads} thread{'s' if plan.threads > 1 else ''}"
        yield "reads", f"{threads}, {in_words(plan.piece_bytes)} at a time, {around}"
    yield "page cache after", _CACHE_WORDS[plan.cache]
    yield "memory it takes", _need(plan, found.device)


def _need(plan: LoadPlan, pool: Pool) -> str:
    need = plan.need
    parts = [
        (need.device, "on the device"),
        (need.host, "on the host"),
        (need.staging, "of staging"),
        (need.cast, "for casts"),
    ]
    told = [f"{in_words(size)} {where}" for size, where in parts if size]
    return f"{', '.join(told) or 'none of its own'}; {in_words(pool.free)} of {pool.name} are free"


def _examples(found: Findings) -> list[str]:
    rows = []
    for example in found.examples:
        plan, size = example.plan, in_words(example.facts.need_bytes)
        if isinstance(plan, LoadPlan):
            rows.append((example.title, size, plan.strategy, str(plan.row or "-"), str(plan.cache)))
        else:
            rows.append((example.title, size, f"refused: {type(plan).__name__}", "-", "-"))
    return table(("file", "size", "strategy", "row", "cache"), rows, right="lrlrl")


def _strategies(found: Findings) -> list[str]:
    rows = [
        (name, "available" if why is None else f"not available: {why}")
        for name, why in found.available.items()
    ]
    return facts(rows)


def _rows(found: Findings) -> list[str]:
    rows, is_taken = [], found.options.strategy != "auto"
    for verdict in found.verdicts:
        why = ", ".join(verdict.reasons)
        if not verdict.matched:
            mark, why = "no", f"but: {why}"
        elif verdict.strategy is None:
            mark = "no"
            why = "; ".join(f"{name}: {reason}" for name, reason in verdict.unavailable.items())
        else:
            mark = "would" if is_taken else "TAKEN"
            is_taken = True
        rows.append((str(verdict.number), mark, verdict.title, why))
    return table(("row", "", "for", "because"), rows, right="rlll")


def _advice(found: Findings, advices: list[Advice]) -> list[str]:
    flags = command_line(advices)
    lines = []
    if flags:
        lines += wrapped("Start like this:")
        lines += ["", f"{INDENT}    python main.py {' '.join(flags)}", ""]
        lines += wrapped(f"Or set {' '.join(map(environment_twin, flags))} in the environment.")
    else:
        lines += wrapped(f"None. {why_none(found)}")
        lines += ["", f"{INDENT}    python main.py"]
    for advice in advices:
        lines += ["", *wrapped(_sentence(advice), _BULLET, _UNDER_BULLET)]
    return lines


def _sentence(advice: Advice) -> str:
    flags = " ".join(advice.flags)
    if advice.kind == "use":
        return f"{flags}: {advice.reason}"
    if advice.kind == "drop":
        return f"Leave {flags} away. {advice.reason}"
    if advice.kind == "if":
        return f"If {advice.condition}, add {flags}. {advice.reason}"
    return advice.reason


# -- as JSON -----------------------------------------------------------------------------------


def _as_json(found: Findings, advices: list[Advice]) -> dict[str, Any]:
    profile = {**asdict(found.profile), "device": str(found.profile.device)}
    return {
        "software": asdict(found.software),
        "hardware": profile,
        "detected_unified": found.detected_unified,
        "memory": {
            "host": asdict(found.host),
            "device": asdict(found.device),
            "reserve_bytes": found.reserve_bytes,
        },
        "path": found.path,
        "place": found.place,
        "place_note": found.place_note,
        "storage": asdict(found.decision.facts.storage),
        "page_cache": asdict(found.abilities),
        "decision": _decision_json(found.decision),
        "examples": [_decision_json(example) for example in found.examples],
        "strategies": dict(found.available),
        "rows": [
            {
                "row": one.number,
                "title": one.title,
                "matched": one.matched,
                "reasons": list(one.reasons),
                "strategy": one.strategy,
                "unavailable": dict(one.unavailable),
            }
            for one in found.verdicts
        ],
        "recommended_flags": list(command_line(advices)),
        "recommended_environment": [environment_twin(one) for one in command_line(advices)],
        "advice": [asdict(advice) for advice in advices],
        "why_no_flags": None if command_line(advices) else why_none(found),
    }


def _decision_json(decision: Decision) -> dict[str, Any]:
    plan = decision.plan
    told: dict[str, Any] = {"title": decision.title, "weight_bytes": decision.facts.need_bytes}
    if isinstance(plan, LoadPlan):
        return {**told, "plan": {**asdict(plan), "reasons": list(plan.reasons)}, "refused": None}
    return {**told, "plan": None, "refused": {"error": type(plan).__name__, "message": str(plan)}}
