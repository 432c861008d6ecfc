"""The names that a pickled checkpoint may use, and what each of them means here.

torch's rebuild functions become descriptions of ranges, never tensors with bytes. Names that
torch's own ``weights_only`` loader knows how to build, and that have no range in a file (sparse,
quantised, nested tensors; whatever the user has allowed), raise `NeedsTorch`.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from comfy.loading.pickle_machine import (
    Buildable,
    Constructor,
    Inert,
    PickleProblem,
    UnsafeName,
    call,
    set_items,
)

_MAX_ELEMENTS = (1 << 63) - 1
_MAX_AXES = 256


class NeedsTorch(Exception):
    """The pickle uses a name that only torch's own loader can build.

    Attributes:
        name: Module and name, with a dot.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


@dataclass(frozen=True, slots=True)
class StorageType:
    """A class of torch storages, which says the dtype of what it stores."""

    name: str
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a tensor's elements are in its storage.

    Attributes:
        dtype: Of one element.
        size: Shape.
        stride: Distance of neighbours along each axis, in elements.
        begin: First element's place in the storage, in bytes.
        nbytes: From the first byte to behind the last that is used; 0 for an empty tensor.
    """

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    begin: int
    nbytes: int


Rebuild = Callable[[Any, Layout], object]
"""Makes the value of a tensor from its storage (as `persistent` gave it) and its layout."""


def layout(
    storage_bytes: int, dtype: torch.dtype, offset: object, size: object, stride: object
) -> Layout:
    """Check the numbers of a pickled tensor against its storage.

    Args:
        storage_bytes: Length of the storage.
        dtype: Of the elements.
        offset: Of the first element, in elements.
        size: Shape, as pickled.
        stride: As pickled, in elements.

    Raises:
        PickleProblem: If they are not numbers, or reach beyond the storage.
    """
    sizes, strides = _numbers(size), _numbers(stride)
    (first,) = _numbers((offset,))
    if len(sizes) != len(strides):
        raise PickleProblem(f"a tensor has {len(sizes)} axes and {len(strides)} strides")
    if len(sizes) > _MAX_AXES or math.prod(n or 1 for n in sizes) > _MAX_ELEMENTS:
        raise PickleProblem(f"a tensor of {len(sizes)} axes has more elements than can be counted")
    if 0 in sizes:
        return Layout(dtype, sizes, strides, 0, 0)
    used = 1 + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if (first + used) * dtype.itemsize > storage_bytes:
        raise PickleProblem(
            f"a tensor of shape {list(sizes)} needs {(first + used) * dtype.itemsize:,} bytes of a"
            f" storage that has {storage_bytes:,}"
        )
    return Layout(dtype, sizes, strides, first * dtype.itemsize, used * dtype.itemsize)


def _numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list, torch.Size)):
        raise PickleProblem("a tensor's shape or stride is not a tuple")
    for value in values:
        if type(value) is not int or not 0 <= value <= _MAX_ELEMENTS:
            raise PickleProblem(f"{value!r:.40} is not a size, stride or offset of a tensor")
    return tuple(values)


class Names:
    """What each name means while one file is read.

    Args:
        rebuild: Makes the value of a tensor.
        storage_form: Gives dtype and length in bytes of what `persistent` gave, or refuses.
    """

    def __init__(
        self, rebuild: Rebuild, storage_form: Callable[[object], tuple[torch.dtype, int]]
    ) -> None:
        self._rebuild = rebuild
        self._form = storage_form
        functions: dict[str, Callable[..., object]] = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._typed_tensor,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
            "torch._tensor._rebuild_from_type_v2": _rebuilt_from_type,
        }
        own = {name: Constructor(name, function) for name, function in functions.items()}
        self._known: Mapping[str, object] = {**_COMMON, **own}

    def find(self, module: str, name: str) -> object:
        """Tell what a name means.

        Raises:
            UnsafeName: If it is not known.
            NeedsTorch: If torch's own loader knows it.
        """
        full = f"{_MODULE_NAMES.get(module, module)}.{name}"
        if full in self._known:
            return self._known[full]
        if full in _TORCH_ONLY or full in _allowed_by_user():
            raise NeedsTorch(full)
        raise UnsafeName(full)

    def _tensor(
        self,
        storage: object,
        offset: object,
        size: object,
        stride: object,
        requires_grad: object = False,
        hooks: object = None,
        metadata: object = None,
    ) -> object:
        dtype, nbytes = self._form(storage)
        if metadata:  # a lazily conjugated or negated view: its bytes are not its values
            raise NeedsTorch("torch._utils._rebuild_tensor_v2")
        return self._rebuild(storage, layout(nbytes, dtype, offset, size, stride))

    def _typed_tensor(
        self,
        storage: object,
        offset: object,
        size: object,
        stride: object,
        requires_grad: object,
        hooks: object,
        dtype: object,
        metadata: object = None,
    ) -> object:
        if not isinstance(dtype, torch.dtype):
            raise PickleProblem("the dtype of a tensor is not a dtype")
        if metadata:
            raise NeedsTorch("torch._utils._rebuild_tensor_v3")
        return self._rebuild(storage, layout(self._form(storage)[1], dtype, offset, size, stride))


def _first(data: object, *_: object) -> object:
    return data


def _rebuilt_from_type(function: object, kind: object, arguments: object, state: object) -> object:
    if not isinstance(kind, Inert):
        raise PickleProblem("the type of a tensor is not a type")
    return call(function, arguments)


def _ordered_dict(pairs: object = ()) -> OrderedDict[Any, Any]:
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    ):
        raise PickleProblem("the pairs of a dictionary are not pairs")
    made: OrderedDict[Any, Any] = OrderedDict()
    set_items(made, pairs)
    return made


def _counter(counts: object = None) -> Counter[Any]:
    if counts is not None and not isinstance(counts, dict):
        raise PickleProblem("the counts of a counter are not a dictionary")
    return Counter(counts)


def _size(numbers: object = ()) -> torch.Size:
    return torch.Size(_numbers(numbers))


def _device(kind: object, index: object = None) -> torch.device:
    if not isinstance(kind, str) or type(index) not in (int, type(None)):
        raise PickleProblem("a device is not a name and a number")
    return torch.device(kind if index is None else f"{kind}:{index}")


def _encode(text: object, encoding: object = "utf-8") -> bytes:
    # How protocol 2 writes bytes; other codecs could do anything.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise PickleProblem(f"{encoding!r:.40} is not an encoding of bytes")
    return text.encode(str(encoding))


def _bytes(data: object = b"") -> bytes:
    if not isinstance(data, bytes):
        raise PickleProblem("bytes are made of something else")
    return data


def _bytearray(data: object = b"") -> bytearray:
    return bytearray(_bytes(data))


def _set(items: object = ()) -> set[Any]:
    if not isinstance(items, (list, tuple)):
        raise PickleProblem("the items of a set are not a list")
    unique: dict[Any, None] = {}
    set_items(unique, ((item, None) for item in items))
    return set(unique)


def _complex(real: object, imaginary: object = 0.0) -> complex:
    if not isinstance(real, (int, float)) or not isinstance(imaginary, (int, float)):
        raise PickleProblem("the parts of a complex number are not numbers")
    return complex(real, imaginary)


class _NumpyDtype(Buildable):
    """A plain numeric dtype of numpy."""

    def __init__(self, code: object, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[biufc](1|2|4|8|16)", code):
            raise PickleProblem(f"numpy's dtype {code!r:.40} is not a plain number")
        self.dtype = np.dtype(code)

    def build(self, state: object) -> None:
        """Take the byte order, the only part of the state that a number has."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise PickleProblem("the state of a numpy dtype is not a byte order")
        self.dtype = self.dtype.newbyteorder("=" if order == "|" else order)


def _numpy_scalar(kind: object, data: object = b"") -> object:
    if not isinstance(kind, _NumpyDtype) or not isinstance(data, bytes):
        raise PickleProblem("a numpy number is not a dtype and bytes")
    if len(data) != kind.dtype.itemsize:
        raise PickleProblem(f"a numpy number has {len(data)} bytes, not {kind.dtype.itemsize}")
    return np.frombuffer(data, kind.dtype)[0]


_MODULE_NAMES = {
    "__builtin__": "builtins",
    "torch.tensor": "torch._tensor",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "torch.cuda": "torch",
}

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
    "storage.UntypedStorage": torch.uint8,
}

_FUNCTIONS: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "torch.Size": _size,
    "torch.device": _device,
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.set": _set,
    "builtins.complex": _complex,
    "numpy.dtype": _NumpyDtype,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}

_INERT = (
    "torch.Tensor",
    "torch._tensor.Tensor",
    "torch.nn.Parameter",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    # A key in the "callbacks" of the first Stable Diffusion checkpoints.
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
)


def _common() -> Mapping[str, object]:
    table: dict[str, object] = {
        f"torch.{name}": value
        for name, value in vars(torch).items()
        # A quantised dtype alone says nothing: scale and zero point come by another way.
        if type(value) is torch.dtype and not str(value).startswith("torch.q")
    }
    table.update({f"torch.{name}": StorageType(name, dtype) for name, dtype in _STORAGES.items()})
    table.update({name: Constructor(name, function) for name, function in _FUNCTIONS.items()})
    table.update({name: Inert(name) for name in _INERT})
    return table


_COMMON = _common()

# Names that torch's ``weights_only`` loader builds, and for which there is no range of a file.
_TORCH_ONLY = frozenset(
    {
        "torch.serialization._get_layout",
        "torch.QInt8Storage",
        "torch.QInt32Storage",
        "torch.QUInt8Storage",
        "torch.QUInt4x2Storage",
        "torch.QUInt2x4Storage",
        "torch.per_tensor_affine",
        "torch.per_channel_affine",
        "torch.per_channel_affine_float_qparams",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_nested_tensor",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    }
)


def _allowed_by_user() -> frozenset[str]:
    """Names that this process has allowed with ``torch.serialization.add_safe_globals``."""
    allowed = torch.serialization.get_safe_globals()
    return frozenset(
        item[1] if isinstance(item, tuple) else f"{item.__module__}.{item.__qualname__}"
        for item in allowed
    )
