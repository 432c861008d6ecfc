"""What the simulated device computes: each operator runs on the host over the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

from support.simulated_memory import (
    DEVICE_TYPE,
    adopt,
    allocate,
    host_alias,
    is_device_memory,
)

aten = torch.ops.aten
_CPU = torch.device("cpu")
_HOST_KERNEL = torch._C.DispatchKey.CPU

Handler = Callable[..., Any]
CopyObserver = Callable[[torch.Tensor, torch.Tensor], None]

# As on a GPU, an index may lie on the host.
_TAKES_HOST_INDICES = frozenset(
    {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
)


def is_simulated(value: object) -> bool:
    """Whether `value` is a tensor of the simulated device."""
    return isinstance(value, torch.Tensor) and value.device.type == DEVICE_TYPE


def _index_of(device: torch.device | str | None) -> int:
    device = torch.device(DEVICE_TYPE if device is None else device)
    return device.index or 0


def _shaped(
    raw: torch.Tensor, dtype: torch.dtype, size: list[int], stride: list[int], offset: int = 0
) -> torch.Tensor:
    """See device bytes as a strided tensor."""
    whole = raw[: raw.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
    return whole.as_strided(size, stride, offset)


def empty_strided(
    size: list[int],
    stride: list[int],
    *,
    dtype: torch.dtype | None = None,
    layout: object = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    """Allocate a device tensor, untouched."""
    kind = dtype or torch.get_default_dtype()
    reach = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = 0 if 0 in size else reach
    return _shaped(allocate(count * kind.itemsize, _index_of(device)), kind, size, stride)


def _empty(
    size: list[int],
    *,
    dtype: torch.dtype | None = None,
    layout: object = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    like = torch.empty(size, device="meta", memory_format=memory_format or torch.contiguous_format)
    return empty_strided(list(like.size()), list(like.stride()), dtype=dtype, device=device)


def _resize(
    tensor: torch.Tensor, size: list[int], *, memory_format: torch.memory_format | None = None
) -> torch.Tensor:
    """Give `tensor` another size, and a larger storage if it needs one."""
    like = torch.empty(
        size,
        dtype=tensor.dtype,
        device="meta",
        memory_format=memory_format or torch.contiguous_format,
    )
    storage = tensor.untyped_storage()
    if (tensor.storage_offset() + like.numel()) * tensor.element_size() > storage.nbytes():
        larger = empty_strided(
            list(like.size()), list(like.stride()), dtype=tensor.dtype, device=tensor.device
        )
        kept = min(storage.nbytes(), larger.untyped_storage().nbytes()) // tensor.element_size()
        if kept:
            old = host_alias(tensor).as_strided((kept,), (1,), 0)
            host_alias(larger).as_strided((kept,), (1,), 0).copy_(old)
        storage = larger.untyped_storage()
    return _set(
        tensor, storage, int(tensor.storage_offset()), list(like.size()), list(like.stride())
    )


def _set(
    tensor: torch.Tensor, storage: Any, offset: int, size: list[int], stride: list[int]
) -> torch.Tensor:
    kernel = aten.set_.source_Storage_storage_offset
    result: torch.Tensor = kernel._op_dk(_HOST_KERNEL, tensor, storage, offset, size, stride)
    return result


def _set_storage(tensor: torch.Tensor, storage: Any) -> torch.Tensor:
    return _set(tensor, storage, 0, [storage.nbytes() // tensor.element_size()], [1])


_observers: list[CopyObserver] = []


def observe_copies(observer: CopyObserver) -> None:
    """Call `observer` with source and destination of every synchronous copy."""
    _observers.append(observer)


def _copy_from(
    source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False
) -> torch.Tensor:
    for observer in _observers:
        observer(source, target)
    host_source = host_alias(source) if is_simulated(source) else source
    host_target = host_alias(target) if is_simulated(target) else target
    host_target.copy_(host_source)
    return target


def _copy_from_and_resize(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if source.size() != target.size():
        target.resize_(source.size())
    return _copy_from(source, target)


def _item(tensor: torch.Tensor) -> Any:
    return host_alias(tensor).item()


def _convolution(*args: Any) -> Any:
    return _run_on_host(aten.convolution.default, args, {})


def _fused_sdp_choice(*args: Any, **kwargs: Any) -> int:
    """Attention is computed by the plain formula."""
    return 0


def _metadata_kernel(op: Any) -> Handler:
    """Run the host's kernel on the device tensor itself: it touches sizes and strides only."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return op._op_dk(_HOST_KERNEL, *args, **kwargs)

    return run


HANDLERS: dict[Any, Handler] = {
    aten.empty.memory_format: _empty,
    aten.empty_strided.default: empty_strided,
    aten.resize_.default: _resize,
    aten.set_.source_Storage: _set_storage,
    aten._copy_from.default: _copy_from,
    aten._copy_from_and_resize.default: _copy_from_and_resize,
    aten._local_scalar_dense.default: _item,
    aten._fused_sdp_choice.default: _fused_sdp_choice,
}
# Torch has a kernel of its own for these, which refuses; only a direct registration replaces it.
KERNELS: dict[str, Handler] = {"convolution_overrideable": _convolution}
for _op in (
    aten.as_strided.default,
    aten.view.default,
    aten._reshape_alias.default,
    aten.unfold.default,
    aten.set_.source_Storage_storage_offset,
):
    HANDLERS[_op] = _metadata_kernel(_op)


class _Call:
    """One operator call on its way to the host and back."""

    def __init__(self, op: Any) -> None:
        self.op = op
        self.index: int | None = None
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.host_tensors: list[torch.Tensor] = []

    def to_host(self, value: Any) -> Any:
        """Replace device tensors and devices by the host's."""
        if isinstance(value, torch.device) and value.type == DEVICE_TYPE:
            self._use(value)
            return _CPU
        if not isinstance(value, torch.Tensor):
            return value
        if not is_simulated(value):
            self.host_tensors.append(value)
            return value
        self._use(value.device)
        alias = host_alias(value)
        self.pairs.append((alias, value))
        return alias

    def _use(self, device: torch.device) -> None:
        index = _index_of(device)
        if self.index not in (None, index):
            raise self._mixed(f"{DEVICE_TYPE}:{self.index}", f"{DEVICE_TYPE}:{index}")
        self.index = index

    def check(self) -> None:
        """Refuse host tensors among device tensors, as every real device does."""
        if not self.pairs or self.op.overloadpacket in _TAKES_HOST_INDICES:
            return
        for tensor in self.host_tensors:
            if tensor.dim():
                raise self._mixed(f"{DEVICE_TYPE}:{self.index}", str(tensor.device))

    def _mixed(self, one: str, other: str) -> RuntimeError:
        return RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{one} and {other}! (when running {self.op})"
        )

    def to_device(self, value: Any) -> Any:
        """Replace the host's result: by the argument it is, by a view of one, or by new memory."""
        if not isinstance(value, torch.Tensor):
            return value
        for alias, original in self.pairs:
            if value is alias:
                return self._written(alias, original)
        size, stride = list(value.size()), list(value.stride())
        if value.numel() and is_device_memory(value.untyped_storage().data_ptr()):
            pointer = value.untyped_storage().data_ptr()
            for alias, original in self.pairs:
                if alias.numel() and alias.untyped_storage().data_ptr() == pointer:
                    return original.view(value.dtype).as_strided(
                        size, stride, value.storage_offset()
                    )
        raw = adopt(value, self.index or 0)
        return _shaped(raw, value.dtype, size, stride, int(value.storage_offset()))

    def _written(self, alias: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        """Let an ``out=`` argument follow if the host's kernel had to make it larger."""
        if alias.size() != original.size():
            original.resize_(alias.size())
            if alias.numel():
                host_alias(original).copy_(alias)
        return original


def _with_tensors(op: Any, args: tuple[Any, ...]) -> list[Any]:
    """Undo torch's unwrapping of ``x & 1``: it hands over a number where the operator wants 0-d."""
    declared = op._schema.arguments
    return [
        torch.tensor(value, device=_CPU)
        if isinstance(value, (bool, int, float, complex)) and str(argument.type) == "Tensor"
        else value
        for value, argument in zip(args, declared, strict=False)
    ]


def _run_on_host(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = _Call(op)
    host_args = tree_map(call.to_host, _with_tensors(op, args))
    host_kwargs = tree_map(call.to_host, kwargs)
    call.check()
    return tree_map(call.to_device, op(*host_args, **host_kwargs))


def run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run one operator whose tensors are on the simulated device; torch calls this."""
    handler = HANDLERS.get(op)
    if handler is not None:
        return handler(*args, **kwargs)
    return _run_on_host(op, args, kwargs)
