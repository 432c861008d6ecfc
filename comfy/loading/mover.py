"""The Mover: moves weights home, and reads those that are still in their file.

Owns the staging rings, and remembers how each file is to be read.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Generator, Iterable, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from comfy.loading.destinations import ReadPolicy, Want
from comfy.loading.errors import NotEnoughMemory
from comfy.loading.hardware import HardwareProfile
from comfy.loading.journal import Journal
from comfy.loading.memory import default_reserve, device_pool, host_pool
from comfy.loading.placing import (
    file_wants,
    must_move,
    on_host,
    path_of,
    place_from_files,
    place_from_host,
    sharing,
    target_dtype,
)
from comfy.loading.plan import staging_shape
from comfy.loading.reader import CancelToken, Progress
from comfy.loading.rings import Rings, with_index
from comfy.loading.sources import remember_copy
from comfy.loading.transfer import Transfer
from comfy.loading.usage import Gauge
from comfy.loading.weight_file import FileTable, WeightFile
from comfy.loading.weight_slice import WeightSlice

# A thread costs more than it brings for reads below this size.
_THREADS_FROM_BYTES = 16 * 1024 * 1024


class Mover:
    """Moves state dicts and single weights; the `Fetcher` of FileTensors.

    Attributes:
        rings: Ports and staging rings of all devices.
        staging_bytes: Size of a device's ring, in bytes.
        reserve_bytes: Memory that placing leaves free; None lets hardware decide.
        journal: What became of each file.

    Note:
        All methods may be called from several threads.
    """

    def __init__(
        self,
        staging_bytes: int,
        profile_of: Callable[[torch.device], HardwareProfile],
        files: FileTable,
    ) -> None:
        """Prepare; allocates nothing.

        Args:
            staging_bytes: Size of a device's ring.
            profile_of: Tells the facts about a device.
            files: All that weights come from.
        """
        self.rings = Rings()
        self.journal = Journal(files.bytes_read)
        self.staging_bytes = staging_bytes
        self.reserve_bytes: int | None = None
        self._profile_of = profile_of
        self._policies: weakref.WeakKeyDictionary[WeightFile, ReadPolicy] = (
            weakref.WeakKeyDictionary()
        )

    def place(
        self,
        state_dict: MutableMapping[str, Any],
        device: torch.device | str,
        *,
        dtype: torch.dtype | None = None,
        keys: Iterable[str] | None = None,
        cancel: CancelToken | None = None,
        progress: Progress | None = None,
        staging: tuple[int, int] | None = None,
    ) -> int:
        """Move weights home to a device, dropping the source of each batch before the next.

        Args:
            state_dict: Changed in place; values that are no tensors stay.
            device: Where to.
            dtype: For floating weights; None keeps each as it is.
            keys: Which; all if None.
            cancel: Stops within one request; what has arrived stays, the rest is as before.
            progress: Told (bytes done, bytes in all) of what comes from files.
            staging: Slots of the ring and bytes of each; as configured if None.

        Returns:
            Bytes moved.

        Raises:
            LoadError: Of the kind that fits; each weight is then either moved or where it was.
        """
        target = with_index(device)
        wants, rest = _sort_out(state_dict, keys, target, dtype)
        self.admit(target, wants, [state_dict[key] for key in rest], dtype)
        with self._working(wants, target, watched=True):
            for group in _by_policy(wants, self.policy_of):
                self._place_group(state_dict, *group, target, cancel, progress, staging)
        moved = sum(want.source.nbytes for want in wants)
        if target.type == "cpu":
            for key, others in sharing(state_dict, rest).items():
                moved += state_dict[key].nbytes
                state_dict[key] = on_host(state_dict[key], dtype)
                state_dict.update(dict.fromkeys(others, state_dict[key]))
        elif rest:
            port = self.rings.port(target)
            moved += place_from_host(
                state_dict, rest, port, lambda tensor: target_dtype(tensor, dtype), cancel
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
        staging: tuple[int, int] | None,
    ) -> None:
        if target.type == "cpu":
            place_from_files(state_dict, wants, Transfer(policy, cancel=cancel, progress=progress))
            return
        shape = staging or staging_shape(self.staging_bytes)
        with self.rings.lend(target, *shape) as (port, ring):
            transfer = Transfer(policy, port=port, ring=ring, cancel=cancel, progress=progress)
            place_from_files(state_dict, wants, transfer)

    def stream(
        self,
        wants: Sequence[Want],
        device: torch.device | str,
        *,
        cancel: CancelToken | None = None,
        progress: Progress | None = None,
        watched: bool = False,
    ) -> Generator[tuple[Want, torch.Tensor], None, None]:
        """Move weights from their files to a device, and yield each when it has arrived.

        Args:
            wants: In any order; no admission is asked, see `admit`.
            device: Where to.
            cancel: Stops within one request.
            progress: Told (bytes done, bytes in all) of each group that is read alike.
            watched: Let the journal sample memory; not for what is over in no time.

        Yields:
            The want and its tensor, in about the order of the files.

        Raises:
            LoadError: Of the kind that fits; what was yielded is the caller's.
        """
        target = with_index(device)
        with self._working(wants, target, watched):
            for policy, group in _by_policy(list(wants), self.policy_of):
                if target.type == "cpu":
                    yield from Transfer(policy, cancel=cancel, progress=progress).stream(group)
                    continue
                with self.rings.lend(target, *staging_shape(self.staging_bytes)) as (port, ring):
                    yield from Transfer(
                        policy, port=port, ring=ring, cancel=cancel, progress=progress
                    ).stream(group)

    def admit(
        self,
        target: torch.device,
        wants: Sequence[Want],
        tensors: Sequence[torch.Tensor],
        dtype: torch.dtype | None,
    ) -> None:
        """Refuse before the first byte what the destination's pool cannot hold.

        Args:
            target: The destination, with its index.
            wants: What would come from files.
            tensors: What would come from host memory.
            dtype: Of floating ones among `tensors`.

        Raises:
            NotEnoughMemory: With the numbers.
        """
        from_files = sum(
            want.source.nbytes // want.source.dtype.itemsize * want.dtype.itemsize for want in wants
        )
        sizes = [one.numel() * target_dtype(one, dtype).itemsize for one in tensors]
        profile, pool = self._profile_of(target), host_pool()
        if target.type != "cpu":
            pool = device_pool(profile, pool, self.rings.port(target).free_bytes)
        # On unified memory a host tensor gives back, batch by batch, what its copy takes.
        need = from_files + (max(sizes, default=0) if profile.unified else sum(sizes))
        if need < _THREADS_FROM_BYTES:
            return
        reserve = self.reserve_bytes
        if reserve is None:
            reserve = default_reserve(profile, pool)
        available = max(0, pool.free - reserve)
        if need > available:
            path = wants[0].source.file.path if wants else path_of(tensors[0])
            raise NotEnoughMemory(need, available, pool.name, path=path)

    def gauge(self, device: torch.device) -> Gauge | None:
        """What tells a device's memory in use, in bytes; None where it is the host's."""
        if device.type in ("cpu", "meta") or self._profile_of(device).unified:
            return None
        port = self.rings.port(device)

        def in_use() -> int:
            free, total = port.free_bytes()
            return max(0, total - free)

        return in_use

    def _working(
        self, wants: Sequence[Want], device: torch.device, watched: bool = False
    ) -> contextlib.AbstractContextManager[None]:
        """Let the journal know that these are read."""
        sizes: dict[str, int] = {}
        for want in wants:
            path = want.source.file.path
            sizes[path] = sizes.get(path, 0) + want.source.nbytes
        gauge = self.gauge(device) if watched else None
        return self.journal.working(sizes, gauge, watched=watched)

    def policy_of(self, file: WeightFile) -> ReadPolicy:
        """How a file is read: as the plan of its load said."""
        return self._policies.get(file, ReadPolicy())

    def remember_policy(self, file: WeightFile, policy: ReadPolicy) -> None:
        """Read a file like this from now on."""
        self._policies[file] = policy

    def fetch(self, source: WeightSlice, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """See `comfy.loading.file_tensor.Fetcher`."""
        return self._move_one(Want("", source, dtype), with_index(device))

    def fill(self, source: WeightSlice, destination: torch.Tensor) -> None:
        """See `comfy.loading.file_tensor.Fetcher`."""
        self._move_one(Want("", source, destination.dtype, destination), destination.device)
        if destination.device.type == "cpu" and destination.dtype == source.dtype:
            remember_copy(destination, source)

    def _move_one(self, want: Want, device: torch.device) -> torch.Tensor:
        policy = self.policy_of(want.source.file)
        if want.source.nbytes < _THREADS_FROM_BYTES:
            policy = replace(policy, threads=1)
        with self._working([want], device):
            if device.type == "cpu":
                return Transfer(policy).run([want])[want.key]
            shape = staging_shape(self.staging_bytes)
            with self.rings.lend(device, *shape) as (port, ring):
                return Transfer(policy, port=port, ring=ring).run([want])[want.key]


def _sort_out(
    state_dict: MutableMapping[str, Any],
    keys: Iterable[str] | None,
    target: torch.device,
    dtype: torch.dtype | None,
) -> tuple[list[Want], list[str]]:
    """Tell what comes from files, and which other tensors must move."""
    chosen = [
        key
        for key in (state_dict if keys is None else keys)
        if isinstance(state_dict[key], torch.Tensor)
    ]
    wants = file_wants(state_dict, chosen, lambda tensor: target_dtype(tensor, dtype))
    taken = {want.key for want in wants}
    rest = [key for key in chosen if key not in taken and must_move(state_dict[key], target, dtype)]
    return wants, rest


def _by_policy(
    wants: list[Want], policy_of: Callable[[WeightFile], ReadPolicy]
) -> Iterable[tuple[ReadPolicy, list[Want]]]:
    groups: dict[ReadPolicy, list[Want]] = {}
    for want in wants:
        groups.setdefault(policy_of(want.source.file), []).append(want)
    return groups.items()
