"""Which launch flags to use on a machine, and why. Pure: findings in, sentences out.

Each rule is a function that speaks or stays silent. Most machines need no flag, and then that is
the advice; nothing is recommended on suspicion, only under a condition that the user can check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from comfy.loading.commands.findings import Findings
from comfy.loading.decision_table import WARM_FRACTION
from comfy.loading.errors import NotEnoughMemory
from comfy.loading.hardware import OVERRIDE
from comfy.loading.memory import GIB, MIB
from comfy.loading.options import DEFAULT_STAGING_MB
from comfy.loading.plan import LoadPlan
from comfy.loading.usage import in_words

Kind = Literal["use", "if", "drop", "note"]

_SMALL_MACHINE_BYTES = 4 * GIB
_SMALL_STAGING_MB = 16
# Below this, a machine whose GPU shares its memory may hang instead of failing.
_LEAST_RESERVE_BYTES = GIB
_PARTLY_MAPPABLE = 0.9


@dataclass(frozen=True, slots=True)
class Advice:
    """One piece of advice.

    Attributes:
        kind: "use" these flags; use them "if" the condition holds; "drop" these that were given;
            or "note" something that no flag changes.
        reason: One or two full sentences.
        flags: As one types them.
        condition: For "if": what the user has to know, as the first half of a sentence.
    """

    kind: Kind
    reason: str
    flags: tuple[str, ...] = ()
    condition: str = ""


def recommend(findings: Findings) -> list[Advice]:
    """Give all advice, the most urgent first."""
    given = [advice for rule in _RULES if (advice := rule(findings)) is not None]
    order: tuple[Kind, ...] = ("use", "drop", "if", "note")
    return sorted(given, key=lambda advice: order.index(advice.kind))


def why_none(findings: Findings) -> str:
    """Explain why a machine needs no flags."""
    profile = findings.profile
    if profile.backend == "cpu":
        return (
            "There is no accelerator, so weights stay where the CPU reads them: `auto` reads each "
            "of them once, and maps a file only if it is in memory already or larger than memory."
        )
    if profile.unified:
        return (
            "CPU and GPU share one memory and that was recognised: `auto` brings each weight from "
            f"its file through {in_words(findings.options.staging_bytes)} of staging to its final "
            "place, and leaves nothing of the file in the page cache."
        )
    if profile.is_known:
        return (
            "The card has memory of its own: `auto` reads weights straight into it, and keeps the "
            "page cache as a warm copy as long as host memory is plenty."
        )
    return (
        "Nothing is known about this device's memory: `auto` reads weights into host memory, and "
        "moves them one by one."
    )


def command_line(advices: list[Advice]) -> tuple[str, ...]:
    """The flags that are recommended without a condition."""
    return tuple(flag for advice in advices if advice.kind == "use" for flag in advice.flags)


def environment_twin(flag: str) -> str:
    """Write a flag as the environment variable that does the same."""
    name, _, value = flag.partition("=")
    return f"COMFY_{name.lstrip('-').replace('-', '_').upper()}={value or '1'}"


# -- unified or not ----------------------------------------------------------------------------


def _disputed(findings: Findings) -> Advice | None:
    profile = findings.profile
    if not profile.is_disputed:
        return None
    told = "; ".join(f"{v.signal}: {v.value}" for v in profile.votes if v.strong)
    return Advice(
        "if",
        f"The signals contradict each other ({told}), so the device is treated as a card of its "
        "own, and the smaller of both memories is counted on.",
        ("--unified-memory=on",),
        "you know that CPU and GPU share one memory here",
    )


def _undecided(findings: Findings) -> Advice | None:
    profile = findings.profile
    weak = [vote for vote in profile.votes if vote.says == "unified" and not vote.strong]
    if profile.unified or any(vote.strong for vote in profile.votes) or not weak:
        return None
    told = "; ".join(f"{vote.signal}: {vote.value}" for vote in weak)
    return Advice(
        "if",
        f"The driver does not say, and one sign alone ({told}) is not believed.",
        ("--unified-memory=on",),
        "CPU and GPU share one memory here (an APU, a Jetson, a DGX Spark)",
    )


def _wrong_override(findings: Findings) -> Advice | None:
    chosen = findings.options.unified
    says = [vote for vote in findings.profile.votes if vote.strong and vote.signal != OVERRIDE]
    if chosen == "auto" or not says or findings.detected_unified == (chosen == "on"):
        return None
    told = "; ".join(f"{vote.signal}: {vote.value}" for vote in says)
    if chosen == "off":
        cost = "planning counts the one memory twice, and cached files take it from the weights"
    else:
        cost = "planning counts host memory that the card does not have"
    return Advice(
        "drop",
        f"It contradicts what the driver says ({told}); under it {cost}.",
        (f"--unified-memory={chosen}",),
    )


# -- flags that were given ---------------------------------------------------------------------


def _named_strategy(findings: Findings) -> Advice | None:
    chosen = findings.options.strategy
    if chosen == "auto":
        return None
    best = next((one for one in findings.verdicts if one.strategy is not None), None)
    if best is None or best.strategy == chosen:
        return None
    extra = ""
    if chosen == "mmap" and findings.profile.backend != "cpu":
        extra = " Mapped pages never go to a device copy, so the file is read again from there."
    return Advice(
        "drop",
        f"For this file `auto` takes {best.strategy} (row {best.number}: {best.title}); a named "
        f"strategy is for comparing.{extra}",
        (f"--load-strategy={chosen}",),
    )


def _kept_cache(findings: Findings) -> Advice | None:
    if findings.options.cache != "keep" or not findings.profile.unified:
        return None
    return Advice(
        "drop",
        "Each cached page is taken from the weights, because both live in the same memory.",
        ("--load-cache=keep",),
    )


def _direct(findings: Findings) -> Advice | None:
    if findings.options.direct != "on":
        return None
    storage = findings.decision.facts.storage
    if not storage.direct_block_bytes:
        why = f"This filesystem ({storage.kind}) has no reads around the page cache: every load"
        return Advice("drop", f"{why} from it will be refused.", ("--load-direct=on",))
    if (storage.resident_fraction or 0) < WARM_FRACTION:
        return None
    return Advice(
        "drop",
        f"{storage.resident_fraction or 0:.0%} of the file is in memory, and going around that "
        "reads it from the disk again.",
        ("--load-direct=on",),
    )


def _disable_mmap(findings: Findings) -> Advice | None:
    if findings.options.allow_mmap:
        return None
    if findings.profile.backend == "cpu":
        reason = (
            "--disable-mmap costs speed only for files that are in memory already or larger than "
            "memory: they would be used in place, and are read instead."
        )
    else:
        reason = (
            "--disable-mmap is honoured but changes little: `auto` does not map files for "
            f"{findings.profile.device}."
        )
    return Advice("note", reason)


# -- memory ------------------------------------------------------------------------------------


def _reserve(findings: Findings) -> Advice | None:
    plan, decision = findings.decision.plan, findings.decision
    if findings.path is None or not isinstance(plan, NotEnoughMemory):
        return None
    pool = findings.device if plan.pool == findings.device.name else findings.host
    spare = pool.free - plan.need
    floor = _LEAST_RESERVE_BYTES if findings.profile.unified else 0
    size = in_words(decision.facts.need_bytes)
    if spare < floor:
        return Advice(
            "note",
            f"No flag makes {size} of weights fit: {in_words(plan.need)} of {plan.pool} are needed "
            f"and {in_words(pool.free)} are free. Unload models, close programs, or use a smaller "
            "dtype.",
        )
    return Advice(
        "if",
        f"The file fits only into what is kept in reserve, {in_words(pool.free - plan.available)}.",
        (f"--load-reserve-mb={spare // MIB}",),
        "nothing else will need memory while it is loaded",
    )


def _staging(findings: Findings) -> Advice | None:
    options, profile = findings.options, findings.profile
    is_default = options.staging_bytes == DEFAULT_STAGING_MB * MIB
    if profile.backend == "cpu" or not is_default or findings.device.total >= _SMALL_MACHINE_BYTES:
        return None
    return Advice(
        "use",
        f"Of {in_words(findings.device.total)} even 64 MiB of staging are worth saving.",
        (f"--load-staging-mb={_SMALL_STAGING_MB}",),
    )


def _container(findings: Findings) -> Advice | None:
    if not findings.host.beyond:
        return None
    return Advice(
        "note",
        f"A container's limit binds, not the machine: {findings.host.notes[0]}, and the machine "
        f"has {in_words(findings.host.beyond)} more. Raise the limit where the container is "
        "started (docker: --memory).",
    )


def _mappable_share(findings: Findings) -> Advice | None:
    profile = findings.profile
    if profile.backend != "hip" or not profile.unified or not profile.total_bytes:
        return None
    if profile.total_bytes >= _PARTLY_MAPPABLE * findings.host.total:
        return None
    return Advice(
        "note",
        f"The GPU may map {in_words(profile.total_bytes)} of {in_words(findings.host.total)}. The "
        "kernel parameter ttm.pages_limit sets that limit (in pages of 4 KiB); no flag of ours "
        "can.",
    )


def _wired_limit(findings: Findings) -> Advice | None:
    plan = findings.decision.plan
    if findings.profile.backend != "mps" or not isinstance(plan, NotEnoughMemory):
        return None
    if findings.path is None or plan.need > findings.host.free:
        return None
    return Advice(
        "note",
        "macOS lets the GPU use only a part of memory; `sudo sysctl iogpu.wired_limit_mb=N` raises "
        "that until the next start.",
    )


# -- storage -----------------------------------------------------------------------------------


def _memory_filesystem(findings: Findings) -> Advice | None:
    storage = findings.decision.facts.storage
    if not storage.is_memory or not findings.profile.unified:
        return None
    return Advice(
        "note",
        f"The file lies in memory itself ({storage.kind}), where it stays as a second copy that "
        "nothing can drop. Put models on a disk.",
    )


def _windows_drive(findings: Findings) -> Advice | None:
    storage = findings.decision.facts.storage
    if findings.profile.platform != "wsl" or storage.kind not in ("9p", "drvfs", "virtiofs"):
        return None
    return Advice(
        "note",
        "The models are on a Windows drive, which WSL reaches through a network protocol. On "
        "WSL's own disk they load several times as fast.",
    )


def _turning_disk(findings: Findings) -> Advice | None:
    if not findings.decision.facts.storage.is_rotational:
        return None
    return Advice(
        "note",
        "The disk calls itself a turning one, so one thread reads. If it is an SSD behind an "
        "adapter that hides that, --load-threads=4 is faster.",
    )


# -- software ----------------------------------------------------------------------------------


def _no_accelerator(findings: Findings) -> Advice | None:
    software = findings.software
    if findings.profile.backend != "cpu":
        return None
    if not software.serves:
        return Advice(
            "note",
            f"This build of torch ({software.torch}) has no code for any GPU. If the machine has "
            "one, install the build for it (https://pytorch.org/get-started).",
        )
    return Advice(
        "note",
        f"This build of torch ({software.torch}) has code for {', '.join(software.serves)}, but "
        "the CPU is in use: because --device says so, or because no driver answers.",
    )


Rule = Callable[[Findings], "Advice | None"]

_RULES: tuple[Rule, ...] = (
    _wrong_override,
    _disputed,
    _undecided,
    _named_strategy,
    _kept_cache,
    _direct,
    _reserve,
    _staging,
    _container,
    _mappable_share,
    _wired_limit,
    _memory_filesystem,
    _windows_drive,
    _turning_disk,
    _disable_mmap,
    _no_accelerator,
)


def effect(plan: LoadPlan, device: str | None) -> str:
    """Say in words what a strategy does with the weights.

    Args:
        plan: Of the load.
        device: Where the weights will be; None for host memory.
    """
    if plan.strategy == "file-slice":
        staging = in_words(plan.slots * plan.slot_bytes)
        if device is None:
            return "each weight stays in its file until it is used, and is read then"
        return (
            f"each weight goes from its file through {staging} of staging to {device}; "
            "no copy stays behind"
        )
    moves = "" if device is None else f", and moved to {device} batch by batch"
    if plan.strategy == "readinto":
        return f"each weight is read into private memory{moves}"
    if plan.strategy == "mmap":
        reads = f"; for {device} they are read from the file"
        return (
            f"weights are used where they are, in the page cache{'' if device is None else reads}"
        )
    return "as the plug-in does it"
