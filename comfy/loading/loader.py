"""The Loader: owner of open files, staging rings, hardware profiles and the strategy registry.

The only holder of state in this package. A process has one by default; tests make their own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from comfy.loading.contents import (
    Contents,
    distinct,
    nested_tensors,
    read_contents,
    replace_nested,
    restride,
)
from comfy.loading.destinations import ReadPolicy, Want
from comfy.loading.errors import LoadError, forget_frames
from comfy.loading.hardware import HardwareProfile, default_device, probe
from comfy.loading.journal import Journal
from comfy.loading.mover import Mover
from comfy.loading.options import LoadOptions, Switch, from_environ
from comfy.loading.placing import target_dtype
from comfy.loading.plan import Available, Facts, LoadPlan, LoadRequest, resolve
from comfy.loading.reader import CancelToken, Progress
from comfy.loading.registry import OpenContext, StrategyRegistry
from comfy.loading.rings import Rings, with_index
from comfy.loading.survey import availability, cached_bytes, gather_facts, with_own_estimate
from comfy.loading.transfer import Transfer
from comfy.loading.usage import MemoryReport, PeakSampler, sample
from comfy.loading.weight_file import FileTable

logger = logging.getLogger(__name__)


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
        options = from_environ() if options is None else options
        self.registry = StrategyRegistry() if registry is None else registry
        self.files = FileTable()
        self.mover = Mover(options.staging_bytes, self.profile, self.files)
        self.configure(options)
        self._run_device = None if run_device is None else torch.device(run_device)
        self._profiles: dict[tuple[torch.device, Switch], HardwareProfile] = {}
        self._lock = threading.RLock()

    @property
    def rings(self) -> Rings:
        """Ports and staging rings of all devices."""
        return self.mover.rings

    @property
    def journal(self) -> Journal:
        """What became of each file, for pages and metrics."""
        return self.mover.journal

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

    def profile(self, device: torch.device, unified: Switch | None = None) -> HardwareProfile:
        """Facts about a device, asked once.

        Args:
            device: With its index.
            unified: Overrides the options' override of the detection.
        """
        key = (device, self.options.unified if unified is None else unified)
        with self._lock:
            if key not in self._profiles:
                self._profiles[key] = probe(device, unified=key[1])
            return self._profiles[key]

    def configure(self, options: LoadOptions) -> None:
        """Set what is done from now on."""
        self.options = options
        self.mover.staging_bytes = options.staging_bytes
        self.mover.reserve_bytes = options.reserve_bytes

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
        if request.device is not None and request.device.type == "meta":
            return self._describe(request, chosen)
        if request.device is not None:
            request = replace(request, device=with_index(request.device))
        try:
            loaded = self._open(request, chosen, cancel, progress)
        except LoadError as err:
            self.journal.note_failure(request.path, err)
            raise
        logger.info("%s", loaded.report.line())
        return loaded

    def _open(
        self,
        request: LoadRequest,
        chosen: LoadOptions,
        cancel: CancelToken | None,
        progress: Progress | None,
    ) -> LoadedFile:
        started = time.perf_counter()
        contents = read_contents(request.path, self.files, compat=chosen.compat)
        if request.keys is not None:
            contents.select(request.keys)
        holds = [file.hold() for file in contents.files]
        try:
            cached = cached_bytes(contents)
            facts, available = self._look_around(contents, request, chosen, cached)
            plan = resolve(request, facts, available)
            load = _Load(self, contents, request, plan, cancel, progress)
            with self.journal.working({file.path: 0 for file in contents.files}):
                state, report = load.run(started, cached)
        except BaseException as err:
            forget_frames(err)
            raise
        finally:
            holds.clear()
        self.journal.note_load(report, [file.path for file in contents.files])
        return LoadedFile(state, contents.metadata, plan, report)

    def _describe(self, request: LoadRequest, options: LoadOptions) -> LoadedFile:
        """Load onto the meta device: shapes and dtypes, and no weight byte."""
        slices = replace(options, strategy="file-slice")
        loaded = self.open(replace(request, device=None, dtype=None), options=slices)
        state = {
            key: value.to("meta", target_dtype(value, request.dtype))
            if isinstance(value, torch.Tensor)
            else value
            for key, value in loaded.state_dict.items()
        }
        return replace(loaded, state_dict=state)

    def plan(
        self, request: LoadRequest, options: LoadOptions | None = None
    ) -> tuple[Facts, Available]:
        """Gather facts and availability for a request, and load nothing; for `doctor`."""
        chosen = self.options if options is None else options
        contents = read_contents(request.path, self.files, compat=chosen.compat)
        return self._look_around(contents, request, chosen, cached_bytes(contents))

    def _look_around(
        self, contents: Contents, request: LoadRequest, options: LoadOptions, cached: int | None
    ) -> tuple[Facts, Available]:
        device = request.device if request.device is not None else self.run_device
        resident = None if cached is None else cached / max(contents.size, 1)
        profile, port = self.profile(device, options.unified), self.rings.port(device)
        facts = gather_facts(contents, request, options, profile, port, resident)
        available = availability(self.registry, facts, request)
        return with_own_estimate(facts, self.registry, available, contents, request), available

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
        """Move weights home to a device; see `Mover.place`."""
        return self.mover.place(
            state_dict, device, dtype=dtype, keys=keys, cancel=cancel, progress=progress
        )

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
            loader.mover.remember_policy(file, self._policy)
        read_before = sum(file.bytes_read for file in contents.files)
        device = self._request.device
        gauge = None if device is None else loader.mover.gauge(device)
        before = sample(gauge)
        uploaded = 0
        with PeakSampler(device_bytes=gauge) as sampler:
            state = self._open()
            if device is not None and device.type not in ("cpu", "meta"):
                uploaded = loader.mover.place(
                    state,
                    device,
                    dtype=self._request.dtype,
                    staging=(self._plan.slots, self._plan.slot_bytes),
                    cancel=self._cancel,
                    progress=self._tell,
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
            after=sample(gauge),
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
            fetcher=self._loader.mover,
            cancel=self._cancel,
            progress=self._tell,
        )
        strategy = self._loader.registry.get(self._plan.strategy)
        unique, twins = distinct(contents.slices)
        opened = strategy.open(unique, self._plan, context)
        for key, original in twins.items():
            opened[key] = opened[original].view(contents.slices[key].shape)
        for key, like in contents.strided.items():
            opened[key] = restride(opened[key], like)
        others = self._load_nested()
        return {key: opened[key] if key in opened else others[key] for key in contents.order}

    def _tell(self, done: int, total: int) -> None:
        """Tell whoever waits, and the journal, how many bytes there are."""
        if len(self._contents.files) == 1:
            self._loader.journal.expect(self._contents.files[0].path, total)
        if self._progress is not None:
            self._progress(done, total)

    def _load_nested(self) -> Mapping[str, Any]:
        """Load the tensors inside values that are containers."""
        found = {id(one): one for one in nested_tensors(self._contents.others)}
        if not found:
            return self._contents.others
        wants = [Want(str(number), one.slice, one.slice.dtype) for number, one in found.items()]
        moved = Transfer(self._policy, cancel=self._cancel).run(wants)
        loaded = {number: restride(moved[str(number)], one) for number, one in found.items()}
        return {key: replace_nested(value, loaded) for key, value in self._contents.others.items()}
