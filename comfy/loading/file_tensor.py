"""FileTensor: a tensor of full shape and dtype whose bytes are still in the file.

It lies in state dicts and modules like any tensor. Shape questions and views cost nothing; an
operation that needs bytes reads them once and keeps nothing; `.to(device)` goes straight there.
A write, or a request for a stable address (`numpy`, `data_ptr`), first moves the tensor's home
from FILE to HOST, once, for all views of it: later reads see the write, the file never does.

Bytes are read by a `homes.Fetcher`, which is handed in.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils._pytree import tree_map

from comfy.loading.errors import FrozenTensor
from comfy.loading.homes import Fetcher, Home, TensorFileSlice
from comfy.loading.pages import empty_of
from comfy.loading.weight_slice import WeightSlice
from comfy.loading.writes import written_arguments

aten = torch.ops.aten
_UPSTREAM_TAG = "_comfy_tensor_file_slice"


class FileTensor(torch.Tensor):
    """A tensor whose home is a file; see the module's text for what it costs and when.

    Attributes:
        file_slice: The range of the file that it is, or None if its home is HOST or the view is
            not contiguous.
    """

    # In __dict__, as torch.utils.swap_tensors demands: it refuses slots.
    _home: Home
    _offset: int

    # torch recommends this value, and its stub types the method otherwise.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(
        cls: type[FileTensor], home: Home, like: torch.Tensor, requires_grad: bool = False
    ) -> FileTensor:
        """Wrap; `like` is a meta tensor that gives dtype, shape, strides and offset."""
        self: FileTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            like.size(),
            strides=like.stride(),
            storage_offset=like.storage_offset(),
            dtype=like.dtype,
            device=torch.device("cpu"),
            requires_grad=requires_grad,
        )
        self._home = home
        self._offset = int(like.storage_offset())
        return self

    @classmethod
    def of(cls, source: WeightSlice, fetcher: Fetcher) -> FileTensor:
        """Make a tensor of a range of a file; reads nothing.

        Args:
            source: The range; the file's descriptor stays open while the home is FILE.
            fetcher: Reads the bytes when they are needed.
        """
        shadow = empty_of(source.shape, source.dtype, "meta")
        with torch.inference_mode(False):
            return cls(Home(source, fetcher), shadow)

    @property
    def is_in_file(self) -> bool:
        """Whether the home is FILE: no byte of it is in memory."""
        return self._home.host is None

    @property
    def file_slice(self) -> WeightSlice | None:
        """The range of the file that this tensor is, or None."""
        if not self.is_in_file or not self.is_contiguous():
            return None
        source, size = self._home.source, self.element_size()
        return replace(
            source,
            offset=source.offset + self._offset * size,
            nbytes=self.numel() * size,
            dtype=self.dtype,
            shape=tuple(self.shape),
        )

    def _shadow(self) -> torch.Tensor:
        """The same geometry on the meta device, over a storage of the whole home's size."""
        items = self._home.source.nbytes // self.element_size()
        whole = torch.empty(items, dtype=self.dtype, device="meta")
        return whole.as_strided(self.size(), self.stride(), self._offset)

    def _on_host(self) -> torch.Tensor:
        """Make the home HOST.

        Returns:
            An ordinary tensor over the home's memory.
        """
        raw = self._home.to_host()
        with torch.no_grad():
            flat = raw.view(self.dtype)
            start = flat.storage_offset() + self._offset
            return flat.as_strided(self.size(), self.stride(), start)

    def _dense(
        self, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Read the bytes that this view spans, keeping nothing; shares memory if the home is HOST.

        Returns:
            An ordinary tensor of this shape, with these strides if no device and dtype are given.
        """
        to_device, to_dtype = device or torch.device("cpu"), dtype or self.dtype
        if self._home.host is not None:
            return self._on_host().to(device=to_device, dtype=to_dtype)
        exact = self.file_slice
        if exact is not None:
            return self._home.fetcher.fetch(exact, to_device, to_dtype)
        if not self.numel():
            return torch.empty_strided(self.size(), self.stride(), dtype=to_dtype, device=to_device)
        span = 1 + sum((n - 1) * step for n, step in zip(self.size(), self.stride(), strict=True))
        size = self.element_size()
        source = replace(
            self._home.source,
            offset=self._home.source.offset + self._offset * size,
            nbytes=span * size,
            dtype=self.dtype,
            shape=(span,),
        )
        flat = self._home.fetcher.fetch(source, to_device, to_dtype)
        return flat.as_strided(self.size(), self.stride())

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # stub
        where = "file" if self.is_in_file else "host"
        file = self._home.source.file.path
        return f"FileTensor({tuple(self.shape)}, {self.dtype}, home={where}, file={file!r})"

    def numpy(self, *, force: bool = False) -> Any:
        """Make the home HOST and share its memory with numpy, as an ordinary tensor does."""
        dense = self._on_host()
        if not force and self.requires_grad:
            dense.requires_grad_(True)
        return dense.numpy(force=force)

    def __array__(self, dtype: Any = None) -> Any:
        dense = self._on_host()
        return dense.__array__() if dtype is None else dense.__array__(dtype)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._on_host().__dlpack__(**kwargs)

    def tolist(self) -> Any:
        """Read, and give Python numbers."""
        return self._dense().tolist()

    def data_ptr(self) -> int:
        """Make the home HOST; its address is stable from then on."""
        return self._on_host().data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        """The home's storage: empty, and with upstream's tag for this view, while the home is FILE."""
        if not self.is_in_file:
            return self._home.to_host().untyped_storage()
        storage: torch.UntypedStorage = torch.Tensor.untyped_storage(self)
        exact = self.file_slice
        if exact is not None:
            tag = TensorFileSlice(exact.file, exact.file.lock, exact.offset, exact.nbytes)
            setattr(storage, _UPSTREAM_TAG, tag)
        return storage

    def share_memory_(self) -> torch.Tensor:
        """Make an ordinary tensor in shared memory; a weight in a file is shared already."""
        shared: torch.Tensor = self._dense().clone().share_memory_()
        return shared

    def pin_memory(self, *args: Any) -> torch.Tensor:
        """Read into page-locked memory."""
        return self._dense().pin_memory(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> FileTensor:
        if id(self) in memo:
            known: FileTensor = memo[id(self)]
            return known
        home = memo.get(id(self._home))
        if home is None:
            # One new home for all views of the old one, so that they stay views of each other.
            home = memo[id(self._home)] = Home(self._home.source, self._home.fetcher)
            if self._home.host is not None:
                home.host = self._home.host.clone()
        with torch.inference_mode(self.is_inference()), torch.no_grad():
            copy = FileTensor(home, self._shadow(), self.requires_grad)
        _mark_parameter(self, copy)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as the ordinary tensor that it stands for: the reader may have no such file."""
        dense = self._dense().detach()
        if getattr(self, "_is_param", False):
            rebuild = torch._utils._rebuild_parameter
            return rebuild, (dense, self.requires_grad, OrderedDict())
        return dense.requires_grad_(self.requires_grad).__reduce_ex__(protocol)

    def _get_data(self) -> torch.Tensor:
        data: torch.Tensor = torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]
        return data

    def _set_data(self, value: torch.Tensor) -> None:
        """Become `value`, as ``p.data = value`` promises, whatever its dtype and device."""
        if isinstance(value, FileTensor) and self._adopt(value):
            return
        is_parameter = getattr(self, "_is_param", False)
        try:
            new = (
                torch.nn.Parameter(value, requires_grad=self.requires_grad)
                if is_parameter
                else value.detach()
            )
            torch.utils.swap_tensors(self, new)
        except RuntimeError as err:
            if not self._adopt_dense(value):
                raise FrozenTensor(
                    f"a weight of {tuple(self.shape)} {self.dtype} in a file cannot become "
                    f"{tuple(value.shape)} {value.dtype} on {value.device} while something else "
                    "refers to it weakly.",
                    path=self._home.source.file.path,
                    tensor=self._home.source.name,
                    hint="Assign a new torch.nn.Parameter to the module instead.",
                ) from err

    data = property(_get_data, _set_data)

    def _adopt(self, other: FileTensor) -> bool:
        same = other.dtype == self.dtype and other.size() == self.size()
        if not same or other.stride() != self.stride():
            return False
        self._home, self._offset = other._home, other._offset
        return True

    def _adopt_dense(self, value: torch.Tensor) -> bool:
        """Share the memory of an equal-shaped CPU tensor as this tensor's HOST home."""
        same = value.dtype == self.dtype and value.size() == self.size() and value.is_cpu
        if not same or not value.is_contiguous() or not self.is_contiguous():
            return False
        home = Home(self._home.source, self._home.fetcher)
        home.host = value.detach().reshape(-1).view(torch.uint8)
        self._home, self._offset = home, 0
        return True

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub has looser types
        cls,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer a view by a view, a copy to a device by one way there, the rest by reading."""
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, FileTensor):
            special = _SPECIAL.get(func)
            if special is not None:
                return special(first, *args[1:], **kwargs)
            if func.is_view and first.is_in_file:
                return _view(func, first, args[1:], kwargs)
        if func is aten.copy_.default and (first is args[1] or _fill(first, args[1])):
            return first
        return _run(func, args, kwargs)


def _for_another_process(tensor: FileTensor) -> tuple[Any, ...]:
    """Send the bytes: shared memory would end with the temporary tensor that this makes."""
    return pickle.loads, (pickle.dumps(tensor),)


ForkingPickler.register(FileTensor, _for_another_process)


def _mark_parameter(source: torch.Tensor, copy: torch.Tensor) -> None:
    if getattr(source, "_is_param", False):
        copy._is_param = True


def _wrap_like(first: FileTensor, like: torch.Tensor) -> FileTensor:
    # A view of a normal tensor must be normal even inside inference mode.
    with torch.inference_mode(first.is_inference()):
        return FileTensor(first._home, like)


def _view(
    func: torch._ops.OpOverload, first: FileTensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Do a view operation on the meta device and dress the result with the same home."""
    # Inference mode hands over `to`, `reshape` and the like whole; they copy if they must.
    if (parts := func.decompose(first, *args, **kwargs)) is not NotImplemented:
        return parts
    return tree_map(lambda out: _wrap_like(first, out), func(first._shadow(), *args, **kwargs))


def _alias(first: FileTensor) -> FileTensor:
    return _wrap_like(first, first._shadow())


def _clone(first: FileTensor, *, memory_format: torch.memory_format | None = None) -> torch.Tensor:
    dense = first._dense()
    if first.is_in_file and memory_format in (None, torch.preserve_format):
        return dense
    return dense.clone(memory_format=memory_format)


def _empty_like(first: FileTensor, **kwargs: Any) -> torch.Tensor:
    device = kwargs.pop("device", None)
    where = torch.device("cpu") if device is None else device
    empty: torch.Tensor = aten.empty_like.default(first._shadow(), device=where, **kwargs)
    return empty


def _to_copy(
    first: FileTensor,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **other: Any,
) -> torch.Tensor:
    """`.to()` that changes something: straight to the device, cast on the way."""
    target = torch.device(device) if device is not None else torch.device("cpu")
    if target.type == "meta":
        return torch.empty_strided(
            first.size(), first.stride(), dtype=dtype or first.dtype, device=target
        )
    plain = other.get("memory_format") in (None, torch.preserve_format, torch.contiguous_format)
    if plain and not other.get("pin_memory") and first.file_slice is not None:
        return first._dense(target, dtype)
    dense: torch.Tensor = aten._to_copy.default(first._dense(), dtype=dtype, device=device, **other)
    return dense


def _fill(destination: object, source: object) -> bool:
    """``dense.copy_(file_tensor)`` without a temporary; False if it is not that simple."""
    if not isinstance(source, FileTensor) or isinstance(destination, FileTensor):
        return False
    exact = source.file_slice
    if exact is None or not isinstance(destination, torch.Tensor):
        return False
    if destination.size() != source.size() or not destination.is_contiguous():
        return False
    source._home.fetcher.fill(exact, destination)
    return True


_SPECIAL: dict[torch._ops.OpOverload, Callable[..., Any]] = {
    aten.detach.default: _alias,
    aten.alias.default: _alias,
    aten.clone.default: _clone,
    aten._to_copy.default: _to_copy,
    aten.empty_like.default: _empty_like,
}


def _run(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run any other operation on real bytes; what it writes to becomes HOST first."""
    written = written_arguments(func, args, kwargs, FileTensor)
    if written and torch.Tag.inplace_view in func.tags and func is not aten.detach_.default:
        tensor = written[0]
        raise FrozenTensor(
            f"{func.name()} would change the shape of a weight in a file.",
            path=tensor._home.source.file.path,
            tensor=tensor._home.source.name,
            hint="Clone it first.",
        )
    dense: dict[int, torch.Tensor] = {id(tensor): tensor._on_host() for tensor in written}
    wrappers = {id(dense[id(tensor)]): tensor for tensor in written}

    def unwrap(value: Any) -> Any:
        if not isinstance(value, FileTensor):
            return value
        if id(value) not in dense:
            dense[id(value)] = value._dense()
        return dense[id(value)]

    result = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    return tree_map(lambda out: wrappers.get(id(out), out), result) if wrappers else result
