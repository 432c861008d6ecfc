"""The Loader: owner of open files, staging rings, hardware profiles and the strategy registry.

The only holder of state in this package. A process has one by default; tests make their own.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from comfy.loading.contents import (
    Contents,
    nested_tensors,
    read_contents,
    replace_nested,
    restride,
)
from comfy.loading.errors import NotEnoughMemory, forget_frames
from comfy.loading.file_tensor import FileTensor, is_mapped
from comfy.loading.hardware import HardwareProfile, default_device, probe
from comfy.loading.memory import device_pool, host_pool
from comfy.loading.options import LoadOptions, from_environ
from comfy.loading.placing import file_wants, place_from_files, place_from_host
from comfy.loading.plan import Facts, LoadPlan, LoadRequest, resolve, staging_shape
from comfy.loading.reader import CancelToken, Progress
from comfy.loading.registry import OpenContext, StrategyFactory, StrategyRegistry, is_castable
from comfy.loading.rings import Rings, with_index
from comfy.loading.survey import availability, cached_bytes, gather_facts
from comfy.loading.transfer import ReadPolicy, Transfer, Want
from comfy.loading.usage import MemoryReport, PeakSampler, sample
from comfy.loading.weight_file import FileTable, WeightFile, WeightSlice

logger = logging.getLogger(__name__)

# A thread costs more than it brings for reads below this size.
_THREADS_FROM_BYTES = 16 * 1024 * 1024
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """What a load gives.

    Attributes:
        state_dict: Key to tensor; pickled checkpoints may hold other values, too.
        metadata: The header's; None if the format has none.
        plan: How it was done, and why.
        report: What it cost.
    """

    state_dict: dict[str, Any]
    metadata: dict[str, str] | None
    plan: LoadPlan
    report: MemoryReport


class Loader:
    """Opens checkpoints and moves their weights; see the module's text.

    Note:
        All methods may be called from several threads.
    """

    def __init__(
        self,
        options: LoadOptions | None = None,
        *,
        run_device: torch.device | str | None = None,
        registry: StrategyRegistry | None = None,
    ) -> None:
        """Prepare; asks no hardware and opens no file.

        Args:
            options: The user's; taken from the environment if None.
            run_device: Where weights will be executed; found on first use if None.
            registry: Of strategies; the built-in ones and entry points if None.
        """
        self.options = from_environ() if options is None else options
        self.registry = StrategyRegistry() if registry is None else registry
        self.files = FileTable()
        self.rings = Rings()
        self._run_device = None if run_device is None else torch.device(run_device)
        self._profiles: dict[torch.device, HardwareProfile] = {}
        self._policies: weakref.WeakKeyDictionary[WeightFile, ReadPolicy] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.RLock()

    # -- what is known ---------------------------------------------------------------------

    @property
    def run_device(self) -> torch.device:
        """The device for which plans are made when a request names none."""
        with self._lock:
            if self._run_device is None:
                self._run_device = default_device()
            return self._run_device

    @run_device.setter
    def run_device(self, device: torch.device) -> None:
        with self._lock:
            self._run_device = device

    def profile(self, device: torch.device) -> HardwareProfile:
        """Facts about a device, asked once."""
        with self._lock:
            if device not in self._profiles:
                self._profiles[device] = probe(device, unified=self.options.unified)
            return self._profiles[device]

    # -- opening ---------------------------------------------------------------------------

    def open(
        self,
        request: LoadRequest,
        *,
        options: LoadOptions | None = None,
        cancel: CancelToken | None = None,
        progress: Progress | None = None,
    ) -> LoadedFile:
        """Load a checkpoint.

        Args:
            request: What is wanted. Without a device the state dict is as the strategy holds it;
                with an accelerator the weights live there; with the CPU the plan is the CPU's.
            options: Instead of the Loader's own.
            cancel: Stops the load within one request of reading.
            progress: Told (bytes done, bytes in all).

        Returns:
            State dict, metadata, plan and report.

        Raises:
            LoadError: Of the kind that fits; nothing half-loaded is left.
        """
        chosen = self.options if options is None else options
        if request.device is not None:
            request = replace(request, device=with_index(request.device))
        started = time.perf_counter()
        contents = read_contents(request.path, self.files, compat=chosen.compat)
        if request.keys is not None:
            contents.select(request.keys)
        holds = [file.hold() for file in contents.files]
        try:
            cached = cached_bytes(contents)
            facts = self._facts(contents, request, chosen, cached)
            plan = resolve(request, facts, availability(self.registry, facts, request))
            load = _Load(self, contents, request, plan, cancel, progress)
            state, report = load.run(started, cached)
        except BaseException as err:
            forget_frames(err)
            raise
        finally:
            for hold in holds:
                hold.close()
        logger.info("%s", report.line())
        return LoadedFile(state, contents.metadata, plan, report)

    def plan(self, request: LoadRequest, options: LoadOptions | None = None) -> tuple[Facts, Any]:
        """Gather facts and availability for a request, and load nothing; for `doctor`."""
        chosen = self.options if options is None else options
        contents = read_contents(request.path, self.files, compat=chosen.compat)
        facts = self._facts(contents, request, chosen, cached_bytes(contents))
        return facts, availability(self.registry, facts, request)

    def _facts(
        self, contents: Contents, request: LoadRequest, options: LoadOptions, cached: int | None
    ) -> Facts:
        device = request.device if request.device is not None else self.run_device
        resident = None if cached is None else cached / max(contents.size, 1)
        profile, port = self.profile(device), self.rings.port(device)
        return gather_facts(contents, request, options, profile, port, resident)

    # -- moving ----------------------------------------------------------------------------

    def place(
        self,
        state_dict: MutableMapping[str, Any],
        device: torch.device | str,
        *,
        dtype: torch.dtype | None = None,
        keys: Iterable[str] | None = None,
        cancel: CancelToken | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Move weights home to a device, dropping the source of each batch before the next.

        Args:
            state_dict: Changed in place; values that are no tensors stay.
            device: Where to.
            dtype: For floating weights; None keeps each as it is.
            keys: Which; all if None.
            cancel: Stops within one request; what has arrived stays, the rest is as before.
            progress: Told (bytes done, bytes in all) of what comes from files.

        Returns:
            Bytes moved.

        Raises:
            LoadError: Of the kind that fits; each weight is then either moved or where it was.
        """
        target = with_index(device)
        chosen = [k for k in (state_dict if keys is None else keys) if _is_tensor(state_dict[k])]
        wants = file_wants(state_dict, chosen, lambda tensor: _target(tensor, dtype))
        taken = {want.key for want in wants}
        rest = [
            key for key in chosen if key not in taken and _must_move(state_dict[key], target, dtype)
        ]
        self._admit(target, wants, [state_dict[key] for key in rest], dtype)
        moved = sum(want.source.nbytes for want in wants)
        for group in _by_policy(wants, self.policy_of):
            self._place_group(state_dict, *group, target, cancel, progress)
        if target.type == "cpu":
            for key in rest:
                moved += state_dict[key].nbytes
                state_dict[key] = state_dict[key].to(target, _target(state_dict[key], dtype))
        elif rest:
            port = self.rings.port(target)
            moved += place_from_host(
                state_dict, rest, port, lambda tensor: _target(tensor, dtype), cancel
            )
        return moved

    def _place_group(
        self,
        state_dict: MutableMapping[str, Any],
        policy: ReadPolicy,
        wants: list[Want],
        target: torch.device,
        cancel: CancelToken | None,
        progress: Progress | None,
    ) -> None:
        if target.type == "cpu":
            place_from_files(state_dict, wants, Transfer(policy, cancel=cancel, progress=progress))
            return
        with self.rings.lend(target, *staging_shape(self.options.staging_bytes)) as (port, ring):
            transfer = Transfer(policy, port=port, ring=ring, cancel=cancel, progress=progress)
            place_from_files(state_dict, wants, transfer)

    def _admit(
        self,
        target: torch.device,
        wants: list[Want],
        tensors: list[torch.Tensor],
        dtype: torch.dtype | None,
    ) -> None:
        """Refuse before the first byte what the destination's pool cannot hold."""
        need = sum(
            want.source.nbytes // want.source.dtype.itemsize * want.dtype.itemsize for want in wants
        )
        need += sum(one.numel() * _target(one, dtype).itemsize for one in tensors)
        if need < _THREADS_FROM_BYTES:
            return
        pool = host_pool()
        if target.type != "cpu":
            pool = device_pool(self.profile(target), pool, self.rings.port(target).free_bytes)
        if need > pool.free:
            path = wants[0].source.file.path if wants else None
            raise NotEnoughMemory(need, pool.free, pool.name, path=path)

    def policy_of(self, file: WeightFile) -> ReadPolicy:
        """How a file is read: as the plan of its load said."""
        return self._policies.get(file, ReadPolicy())

    def remember_policy(self, file: WeightFile, policy: ReadPolicy) -> None:
        """Read a file like this from now on."""
        self._policies[file] = policy

    # -- the Fetcher of FileTensors ----------------------------------------------------------

    def fetch(self, source: WeightSlice, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """See `comfy.loading.file_tensor.Fetcher`."""
        return self._move_one(Want("", source, dtype), with_index(device))

    def fill(self, source: WeightSlice, destination: torch.Tensor) -> None:
        """See `comfy.loading.file_tensor.Fetcher`."""
        self._move_one(Want("", source, destination.dtype, destination), destination.device)

    def _move_one(self, want: Want, device: torch.device) -> torch.Tensor:
        policy = self.policy_of(want.source.file)
        if want.source.nbytes < _THREADS_FROM_BYTES:
            policy = replace(policy, threads=1)
        if device.type == "cpu":
            return Transfer(policy).run([want])[want.key]
        with self.rings.lend(device, *staging_shape(self.options.staging_bytes)) as (port, ring):
            return Transfer(policy, port=port, ring=ring).run([want])[want.key]

    def close(self) -> None:
        """Free the staging of all devices; it comes back on the next use."""
        self.rings.close()


class _Load:
    """One call of `Loader.open` after the plan is made."""

    def __init__(
        self,
        loader: Loader,
        contents: Contents,
        request: LoadRequest,
        plan: LoadPlan,
        cancel: CancelToken | None,
        progress: Progress | None,
    ) -> None:
        self._loader = loader
        self._contents = contents
        self._request = request
        self._plan = plan
        self._cancel = cancel
        self._progress = progress
        self._policy = ReadPolicy(plan.threads, plan.piece_bytes, plan.direct, plan.cache)

    def run(self, started: float, cached: int | None) -> tuple[dict[str, Any], MemoryReport]:
        """Open, place, and account for it."""
        contents, loader = self._contents, self._loader
        for file in contents.files:
            loader.remember_policy(file, self._policy)
        read_before = sum(file.bytes_read for file in contents.files)
        before = sample()
        uploaded = 0
        with PeakSampler() as sampler:
            state = self._open()
            device = self._request.device
            if device is not None and device.type not in ("cpu", "meta"):
                uploaded = loader.place(
                    state,
                    device,
                    dtype=self._request.dtype,
                    cancel=self._cancel,
                    progress=self._progress,
                )
            for file in contents.files:
                file.check_identity()
        report = MemoryReport(
            path=contents.path,
            strategy=self._plan.strategy,
            row=self._plan.row,
            reasons=self._plan.reasons,
            before=before,
            peak=sampler.peak,
            after=sample(),
            bytes_read=sum(file.bytes_read for file in contents.files) - read_before,
            bytes_uploaded=uploaded,
            seconds=time.perf_counter() - started,
            file_bytes=contents.size,
            cached_before=cached,
            cached_after=cached_bytes(contents),
        )
        return state, report

    def _open(self) -> dict[str, Any]:
        contents, request = self._contents, self._request
        on_host = request.device is None or request.device.type == "cpu"
        context = OpenContext(
            # A device casts by itself, on the way: no cast copy is made on the host.
            dtype=request.dtype if on_host else None,
            policy=self._policy,
            fetcher=self._loader,
            cancel=self._cancel,
            progress=self._progress,
        )
        strategy = self._loader.registry.get(self._plan.strategy)
        opened = strategy.open(contents.slices, self._plan, context)
        for key, like in contents.strided.items():
            opened[key] = restride(opened[key], like)
        others = self._load_nested()
        return {key: opened[key] if key in opened else others[key] for key in contents.order}

    def _load_nested(self) -> Mapping[str, Any]:
        """Load the tensors inside values that are containers."""
        found = {id(one): one for one in nested_tensors(self._contents.others)}
        if not found:
            return self._contents.others
        wants = [Want(str(number), one.slice, one.slice.dtype) for number, one in found.items()]
        moved = Transfer(self._policy, cancel=self._cancel).run(wants)
        loaded = {number: restride(moved[str(number)], one) for number, one in found.items()}
        return {key: replace_nested(value, loaded) for key, value in self._contents.others.items()}


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _target(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and is_castable(tensor.dtype) else tensor.dtype


def _must_move(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None) -> bool:
    if isinstance(tensor, FileTensor) or is_mapped(tensor):
        return True
    return tensor.device != device or _target(tensor, dtype) != tensor.dtype


def _by_policy(
    wants: list[Want], policy_of: Callable[[WeightFile], ReadPolicy]
) -> Iterable[tuple[ReadPolicy, list[Want]]]:
    groups: dict[ReadPolicy, list[Want]] = {}
    for want in wants:
        groups.setdefault(policy_of(want.source.file), []).append(want)
    return groups.items()


_default: Loader | None = None
_default_lock = threading.Lock()


def default_loader() -> Loader:
    """The process's Loader, made on first use from flags or environment."""
    global _default  # noqa: PLW0603 - the one default instance of this package
    with _default_lock:
        if _default is None:
            _default = Loader()
        return _default


def configure(options: LoadOptions, run_device: torch.device | str | None = None) -> Loader:
    """Set what the default Loader does from now on.

    Args:
        options: Of the parsed flags.
        run_device: Where weights will be executed; unchanged if None.
    """
    loader = default_loader()
    loader.options = options
    if run_device is not None:
        loader.run_device = torch.device(run_device)
    return loader


def load(
    path: str,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    keys: Iterable[str] | None = None,
    options: LoadOptions | None = None,
    strategy: str | None = None,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
) -> LoadedFile:
    """Load a checkpoint with the default Loader.

    Args:
        path: A safetensors file, the index of a sharded one, or a pickled checkpoint.
        device: Where the weights shall live; None leaves them as the strategy holds them.
        dtype: For floating weights; None keeps each as it is in the file.
        keys: Which tensors; all if None.
        options: Instead of the flags.
        strategy: Instead of the options' strategy.
        cancel: Stops the load within one request of reading.
        progress: Told (bytes done, bytes in all).

    Raises:
        LoadError: Of the kind that fits; see `comfy.loading.errors`.
    """
    loader = default_loader()
    chosen = loader.options if options is None else options
    if strategy is not None:
        chosen = replace(chosen, strategy=strategy)
    request = LoadRequest(
        path=str(path),
        device=None if device is None else torch.device(device),
        dtype=dtype,
        keys=None if keys is None else frozenset(keys),
    )
    return loader.open(request, options=chosen, cancel=cancel, progress=progress)


def register_load_strategy(name: str, factory: StrategyFactory | str) -> None:
    """Add a strategy to the default Loader; see `StrategyRegistry.register`."""
    default_loader().registry.register(name, factory)


def load_strategies() -> Mapping[str, StrategyFactory | str]:
    """The default Loader's strategies by name, read-only."""
    return default_loader().registry.names()
