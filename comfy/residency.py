"""Moves the weights of one model home by home: out of their file, onto the device, and back.

To the device each weight comes once, in the order of its file, is patched there by itself, and
becomes the parameter; what stood in the modules before, a tensor without bytes, is kept as its
source. Back is: the source becomes the parameter again. Nothing is copied, and nothing is backed
up that can be read again. A weight that no file has moves from the host to the device and back; it
stays on the host, too, only while it is patched, or if a cast took bits from it. What does not fit stays in the file, and is brought for each forward
pass by a `LayerStream`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from comfy.attributes import get_attr
from comfy.loading.default import default_loader
from comfy.loading.destinations import Want
from comfy.loading.devices import DevicePort
from comfy.loading.errors import NotEnoughMemory, forget_frames
from comfy.loading.file_tensor import FileTensor
from comfy.loading.loader import Loader
from comfy.loading.placing import BATCH_BYTES
from comfy.loading.reader import CancelToken, Progress
from comfy.loading.rings import with_index
from comfy.loading.sources import is_mapped, remember_source
from comfy.residency_layers import LayerSetup, Patcher
from comfy.residency_weights import Patch, Weight, is_in_host_memory, survey

_CPU = torch.device("cpu")


class Residency:
    """Where the weights of one model are; shared by every patcher of the model.

    Attributes:
        weights: All of the model, as of the last load; empty while it is unloaded.
        layers: What was set on layers so that they get weights which stay in their file.
        weight_dtype: That floating weights get when loaded; None keeps each as in its file.
    """

    def __init__(self, loader: Loader | None = None) -> None:
        self.weights: list[Weight] = []
        self.layers = LayerSetup()
        self.weight_dtype: torch.dtype | None = None
        self._own_loader = loader
        self._device = _CPU
        self._by_key: dict[str, Weight] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Residency:
        # A copied model holds weights of its own, wherever they are.
        copied = Residency(self._own_loader)
        copied.weight_dtype = self.weight_dtype
        return copied

    @property
    def _loader(self) -> Loader:
        return default_loader() if self._own_loader is None else self._own_loader

    @property
    def resident_bytes(self) -> int:
        """Bytes of the weights at home on the device."""
        return sum(one.nbytes for one in self.weights if one.is_at(self._device))

    @property
    def buffer_bytes(self) -> int:
        """The most that a forward pass holds for a moment of weights that stay in their file."""
        stream = self.layers.stream
        return 0 if stream is None else stream.buffer_bytes

    def total_bytes(self, model: torch.nn.Module) -> int:
        """Bytes of all weights once loaded, tied ones once."""
        return sum(one.nbytes for one in self._survey(model, self._device)[0])

    def keys(self) -> set[str]:
        """The names of all weights of a loaded model."""
        return {key for weight in self.weights for key in weight.keys}

    def source(self, key: str) -> torch.Tensor | None:
        """The unpatched weight of this name; None if the model is not loaded."""
        if not self._by_key:
            self._by_key = {key: weight for weight in self.weights for key in weight.keys}
        weight = self._by_key.get(key)
        return None if weight is None else weight.source

    def host_bytes(self, model: torch.nn.Module) -> int:
        """Bytes of weights in host memory that are no pages of a file; where they are, and whence."""
        weights, _ = self._survey(model, self._device)
        held = {id(held): held for one in weights for held in (one.current, one.source)}
        return sum(tensor.nbytes for tensor in held.values() if is_in_host_memory(tensor))

    def given_back(self, model: torch.nn.Module, patcher: Patcher) -> int:
        """Bytes of host memory that weights give back, each as it arrives on a device."""
        weights, _ = self._survey(model, self._device)
        return sum(
            one.nbytes
            for one in weights
            if is_in_host_memory(one.current)
            and one.leaves_host
            and (one.has_file or not _patches_of(patcher, one))
        )

    def load(
        self,
        model: torch.nn.Module,
        patcher: Patcher,
        device: torch.device | str,
        *,
        budget: int | None = None,
        force: bool = False,
        cancel: CancelToken | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Bring weights home to a device, patched; idempotent.

        Args:
            model: The model of this residency.
            patcher: Whose patches are to be applied.
            device: Where to.
            budget: Most bytes of weights at home there, with what a forward pass holds of the
                others; None for all. Weights that are at home already stay.
            force: Read patched weights again even if their patches are the same.
            cancel: Stops within one request of reading.
            progress: Told (bytes done, bytes in all) of what comes from files, after each weight.

        Raises:
            LoadError: Of the kind that fits; every weight is then at its source.
        """
        try:
            self._load(model, patcher, with_index(device), budget, force, cancel, progress)
        except BaseException as err:
            # Whoever keeps the error must not keep weights.
            forget_frames(err)
            self.unload(_CPU)
            raise

    def unload(self, offload: torch.device) -> None:
        """Let every weight return to its source, and forget the model.

        Args:
            offload: Where a weight goes that never had a home but a device.
        """
        self.layers.restore()
        for weight in self.weights:
            weight.go_home(offload)
        self.weights, self._by_key = [], {}

    def evict(self, model: torch.nn.Module, patcher: Patcher, nbytes: int) -> int:
        """Let weights return to their source; they are brought for each call from then on.

        The smallest go first: the largest one away decides what a forward pass needs.

        Args:
            model: The model of this residency.
            patcher: Whose patches are applied then.
            nbytes: How much device memory to free.

        Returns:
            Bytes that were freed, less what a forward pass needs more than before.
        """
        before = self.resident_bytes + self.buffer_bytes
        candidates = [one for one in self.weights if one.is_streamable and one.is_at(self._device)]
        freed = 0
        largest = max((one.nbytes for one in self.away()), default=0)
        spent = 2 * largest
        for weight in sorted(candidates, key=lambda one: one.nbytes):
            growth = max(0, 2 * max(largest, weight.nbytes) - spent)
            if freed - growth >= nbytes:
                break
            weight.go_home(_CPU)
            freed += weight.nbytes
            largest = max(largest, weight.nbytes)
        self._set_up(model, patcher)
        return max(0, before - self.resident_bytes - self.buffer_bytes)

    def drop_ahead(self) -> None:
        """Free what was read ahead of a forward pass that will not come."""
        if self.layers.stream is not None:
            self.layers.stream.drop()

    def _survey(
        self, model: torch.nn.Module, device: torch.device
    ) -> tuple[list[Weight], list[Weight]]:
        return survey(model, self.weights, device, self._loader.mover, self.weight_dtype)

    def away(self) -> list[Weight]:
        """The weights that are not at home on the device."""
        return [one for one in self.weights if not one.is_at(self._device)]

    def _load(
        self,
        model: torch.nn.Module,
        patcher: Patcher,
        device: torch.device,
        budget: int | None,
        force: bool,
        cancel: CancelToken | None,
        progress: Progress | None,
    ) -> None:
        if device != self._device:
            self.unload(_CPU)
        self._device = device
        self.weights, gone = self._survey(model, device)
        self._by_key = {}
        for weight in gone:
            weight.go_home(_CPU)
        for weight in self.weights:
            if weight.applied and (
                force or not _same(weight.applied, _patches_of(patcher, weight))
            ):
                weight.go_home(_CPU)
        for weight in self.weights:
            if weight.is_at(device):
                self._patch(model, patcher, weight)
        self._bring(model, patcher, self._chosen(budget), cancel, progress)
        self._set_up(model, patcher)

    def _chosen(self, budget: int | None) -> list[Weight]:
        """Which weights to bring: all, or what must be at home and then the largest that fit."""
        away = self.away()
        if budget is None:
            return away
        chosen = [one for one in away if not one.is_streamable]
        used = self.resident_bytes + sum(one.nbytes for one in chosen)
        rest = sorted(
            (one for one in away if one.is_streamable), key=lambda one: one.nbytes, reverse=True
        )
        largest_left = 0
        for index, weight in enumerate(rest):
            after = rest[index + 1].nbytes if index + 1 < len(rest) else 0
            if used + weight.nbytes + 2 * max(largest_left, after) <= budget:
                chosen.append(weight)
                used += weight.nbytes
            else:
                largest_left = max(largest_left, weight.nbytes)
        return chosen

    def _bring(
        self,
        model: torch.nn.Module,
        patcher: Patcher,
        chosen: Sequence[Weight],
        cancel: CancelToken | None,
        progress: Progress | None,
    ) -> None:
        """Bring weights, each patched when it arrives and before the next does."""
        mover, device = self._loader.mover, self._device
        by_key = {one.keys[0]: one for one in chosen}
        slices = {key: one.slice for key, one in by_key.items() if _is_in_file(one)}
        wants = [
            Want(key, source, by_key[key].dtype)
            for key, source in slices.items()
            if source is not None
        ]
        read = {want.key for want in wants}
        others = [one for key, one in by_key.items() if key not in read]
        mover.admit(device, wants, [one.current for one in others], None)
        done, total = 0, sum(want.source.nbytes for want in wants)
        stream = mover.stream(wants, device, cancel=cancel, watched=True)
        with contextlib.closing(stream) as arriving:
            for want, tensor in arriving:
                weight = by_key[want.key]
                done += want.source.nbytes
                if progress is not None:
                    progress(done, total)
                if device.type == "cpu" and want.dtype == want.source.dtype:
                    remember_source(tensor, want.source)
                weight.put(tensor)
                self._patch(model, patcher, weight)
        self._bring_others(patcher, others, cancel)
        for weight in others:
            self._patch(model, patcher, weight)

    def _bring_others(
        self, patcher: Patcher, others: Iterable[Weight], cancel: CancelToken | None
    ) -> None:
        """Move weights that no file has, or not in one piece; those to be patched stay behind, too."""
        for batch in _batches(others):
            state = {one.keys[0]: one.current for one in batch}
            self._loader.place(state, self._device, dtype=batch[0].dtype, cancel=cancel)
            # The host's tensors of this batch go before the next one is copied.
            for weight in batch:
                weight.put(state[weight.keys[0]])
                if not _patches_of(patcher, weight):
                    weight.leave_host()

    def _patch(self, model: torch.nn.Module, patcher: Patcher, weight: Weight) -> None:
        wanted, port = _patches_of(patcher, weight), self._loader.rings.port(self._device)
        if not wanted or _same(weight.applied, wanted):
            return
        weight.secure(_CPU)
        for key in weight.keys:
            if patcher.weight_patches(key):
                with _named(port, key, weight):
                    patcher.patch_weight_to_device(key, device_to=self._device)
                changed = get_attr(model, key)
                if changed is not weight.current:
                    weight.adopt(changed)
        weight.applied = wanted

    def _set_up(self, model: torch.nn.Module, patcher: Patcher) -> None:
        """Let layers fetch what stays away."""
        mover, device = self._loader.mover, self._device

        def fetch(wants: Sequence[Want]) -> dict[str, torch.Tensor]:
            return {want.key: tensor for want, tensor in mover.stream(wants, device)}

        away = {id(one) for one in self.away()}
        self.layers.apply(model, patcher, self.weights, away, fetch)


def residency_of(model: torch.nn.Module) -> Residency:
    """The residency of a model, made when it is first asked for."""
    own: Residency | None = vars(model).get("weight_residency")
    if own is None:
        own = vars(model)["weight_residency"] = Residency()
    return own


def _is_in_file(weight: Weight) -> bool:
    """Whether its bytes come out of its file, and not from memory."""
    return isinstance(weight.current, FileTensor) or is_mapped(weight.current)


def _batches(weights: Iterable[Weight]) -> Iterator[list[Weight]]:
    """Weights of one dtype, so many that a copy of each batch costs little memory."""
    batch: list[Weight] = []
    size = 0
    for weight in sorted(weights, key=lambda one: str(one.dtype)):
        if batch and (size >= BATCH_BYTES or weight.dtype != batch[0].dtype):
            yield batch
            batch, size = [], 0
        batch.append(weight)
        size += weight.nbytes
    if batch:
        yield batch


@contextlib.contextmanager
def _named(port: DevicePort, key: str, weight: Weight) -> Iterator[None]:
    """Say which weight was being patched when the device was full."""
    try:
        yield
    except torch.OutOfMemoryError as err:
        source = weight.slice
        path = None if source is None else source.file.path
        # Patches are computed in four bytes.
        needed, (free, _) = 4 * weight.current.numel(), port.free_bytes()
        pool = f"memory of {port.device}"
        raise NotEnoughMemory(needed, free, pool, path=path, tensor=key) from err


def _patches_of(patcher: Patcher, weight: Weight) -> tuple[Patch, ...]:
    return tuple(patch for key in weight.keys for patch in patcher.weight_patches(key))


def _same(one: Sequence[Patch], other: Sequence[Patch]) -> bool:
    """Whether two lists hold the very same patches; they hold tensors, which cannot be compared."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
