"""The weights of a model as things with a home: which modules hold each, and where it comes from.

A weight's home is its type: a `FileTensor` is in its file, a CPU tensor on the host, any other on
its device.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch

from comfy.loading.destinations import cast_dtype
from comfy.loading.file_tensor import FileTensor
from comfy.loading.homes import Fetcher
from comfy.loading.sources import is_mapped, source_of
from comfy.loading.weight_slice import WeightSlice

# Weights below this size are always at home: fetching one costs more than its bytes.
SMALL_BYTES = 16 * 1024
# The parameters that layers of `comfy.ops` can have brought for one call.
_BROUGHT = ("weight", "bias")

Place = tuple["weakref.ref[torch.nn.Module]", str]
"""A module, weakly, since it holds its weights and not they it, and the name in it."""

Patch = tuple[Any, ...]


class Weight:
    """One distinct parameter or buffer of a model, tied or not.

    Attributes:
        keys: Its names in the model's state dict; several if it is tied.
        places: Every module that holds it.
        source: What the modules hold while the model is unloaded; has no bytes if it is in a file.
        current: What they hold now.
        dtype: That it has once loaded.
        applied: The patches that `current` contains.
    """

    __slots__ = ("applied", "current", "dtype", "keys", "places", "source")

    def __init__(self, current: torch.Tensor, source: torch.Tensor, dtype: torch.dtype) -> None:
        self.keys: list[str] = []
        self.places: list[Place] = []
        self.current = current
        self.source = source
        self.dtype = dtype
        self.applied: tuple[Patch, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size once loaded, in bytes."""
        return self.current.numel() * self.dtype.itemsize

    @property
    def slice(self) -> WeightSlice | None:
        """The range of a file that it can be read from again, or None."""
        return source_of(self.source)

    def modules(self) -> Iterator[tuple[torch.nn.Module, str]]:
        """The modules that hold it and are still alive, with its name in each."""
        for reference, name in self.places:
            module = reference()
            if module is not None:
                yield module, name

    @property
    def is_streamable(self) -> bool:
        """Whether every layer that holds it can have it brought for one call."""
        return self.nbytes > SMALL_BYTES and all(
            name in _BROUGHT and hasattr(module, "comfy_cast_weights")
            for module, name in self.modules()
        )

    def is_at(self, device: torch.device) -> bool:
        """Whether it is at home on a device, as it is to be used there."""
        current = self.current
        if isinstance(current, FileTensor) and current.is_in_file:
            return False
        # A patched weight has the dtype that its patcher gave it.
        if not self.applied and current.dtype != self.dtype:
            return False
        return current.device == device

    def put(self, tensor: torch.Tensor) -> None:
        """Let every module hold `tensor`, so that tied weights stay tied."""
        self.adopt(_as_parameter_like(tensor, self.source))

    def adopt(self, tensor: torch.Tensor) -> None:
        """Let every module hold the very object that somebody made a parameter."""
        for module, name in self.modules():
            held = _holder(module, name)
            # Somebody may have replaced the weight since: theirs stays.
            if held.get(name) is self.current:
                held[name] = tensor
        self.current = tensor

    @property
    def has_file(self) -> bool:
        """Whether its source is in a file, or can be read from one again."""
        return isinstance(self.source, FileTensor) or self.slice is not None

    @property
    def leaves_host(self) -> bool:
        """Whether the host keeps nothing of it once it is at home on a device, unpatched.

        A file brings it back, or else the device itself; a cast has lost bits.
        """
        is_lossless = self.nbytes > SMALL_BYTES and self.dtype == self.source.dtype
        return self.has_file or is_lossless

    def leave_host(self) -> None:
        """Let what came to the device be all there is of an unpatched weight, if that loses nothing."""
        if self.leaves_host and not self.has_file:
            self.source = self.current

    def secure(self, offload: torch.device) -> None:
        """Copy to `offload` the unpatched weight that only the device has: what is there may change."""
        if self.source.device.type not in ("cpu", "meta") and self.source.device != offload:
            self.source = _as_parameter_like(self.source.detach().to(offload), self.source)

    def go_home(self, offload: torch.device) -> None:
        """Return to the source; one whose only home is a device moves to `offload`."""
        self.secure(offload)
        self.put(self.source)
        self.applied = ()


def is_in_host_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor's bytes are in host memory, and are no pages of a file."""
    if isinstance(tensor, FileTensor) and tensor.is_in_file:
        return False
    return tensor.is_cpu and not is_mapped(tensor)


def _holder(module: torch.nn.Module, name: str) -> dict[str, Any]:
    """Where a module keeps the parameter or buffer of this name."""
    parameters: dict[str, Any] = module._parameters
    return parameters if name in parameters else module._buffers


def _as_parameter(tensor: torch.Tensor, requires_grad: bool) -> torch.Tensor:
    if isinstance(tensor, torch.nn.Parameter):
        return tensor
    can_require = tensor.dtype.is_floating_point or tensor.dtype.is_complex
    return torch.nn.Parameter(tensor, requires_grad=requires_grad and can_require)


def _as_parameter_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if isinstance(like, torch.nn.Parameter):
        return _as_parameter(tensor, like.requires_grad)
    return tensor


def _identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for one tensor in two places, and for two views of the same range of a file."""
    if isinstance(tensor, FileTensor):
        source = tensor.file_slice
        if source is not None:
            return (id(source.file), source.offset, source.dtype, source.shape)
    return (id(tensor),)


def _source_of_new(tensor: torch.Tensor, device: torch.device, fetcher: Fetcher) -> torch.Tensor:
    """What a weight that was found in a model is to become when the model is unloaded."""
    if isinstance(tensor, FileTensor):
        return tensor
    source = source_of(tensor)
    if source is None or (is_mapped(tensor) and device.type == "cpu"):
        return tensor
    return _as_parameter_like(FileTensor.of(source, fetcher), tensor)


def _held_by(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, str, torch.Tensor]]:
    """Every place of every parameter and buffer, with its name in the state dict."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is not None:
                yield f"{prefix}.{name}" if prefix else name, module, name, tensor


def survey(
    model: torch.nn.Module,
    known: Iterable[Weight],
    device: torch.device,
    fetcher: Fetcher,
    dtype: torch.dtype | None = None,
) -> tuple[list[Weight], list[Weight]]:
    """Find the weights of a model as it is now.

    Args:
        model: Perhaps changed since the last survey.
        known: The weights of the last survey; those still there are kept.
        device: Where the model is to run.
        fetcher: Reads weights from files.
        dtype: That floating weights get when loaded; None keeps each as it is in its file.

    Returns:
        All weights, in the order of the modules, and those that are no longer in the model.
    """
    by_identity = {_identity(weight.current): weight for weight in known}
    found: dict[tuple[object, ...], Weight] = {}
    seen: dict[int, set[tuple[int, str]]] = {}
    for key, module, name, tensor in _held_by(model):
        identity = _identity(tensor)
        weight = found.get(identity)
        if weight is None:
            weight = by_identity.pop(identity, None)
            if weight is None:
                source = _source_of_new(tensor, device, fetcher)
                # Buffers are tables of numbers: nothing is saved, and much is lost, by a cast.
                wanted = dtype if isinstance(tensor, torch.nn.Parameter) else None
                weight = Weight(tensor, source, cast_dtype(tensor.dtype, wanted))
            weight.keys, weight.places = [], []
            found[identity] = weight
        weight.keys.append(key)
        places = seen.setdefault(id(weight), set())
        if (id(module), name) not in places:
            places.add((id(module), name))
            weight.places.append((weakref.ref(module), name))
            _tie(module, name, tensor, weight)
    return list(found.values()), list(by_identity.values())


def _tie(module: torch.nn.Module, name: str, tensor: torch.Tensor, weight: Weight) -> None:
    """Let a place hold the very tensor that the others hold."""
    if tensor is not weight.current:
        _holder(module, name)[name] = weight.current
