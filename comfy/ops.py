"""Layers that take their weight from wherever its home is.

A weight at home on the device and of the input's dtype is used as it is. Any other is brought for
one call and dropped: out of its file, from the host, from another dtype. The families:

* `disable_weight_init`: torch's layers without initialisation; weights are expected at home.
* `manual_cast`: computes in the input's dtype, whatever dtype the weights are stored in.
* `fp8_ops`: `manual_cast` for weights stored in eight bits.
* `mixed_precision_ops`: layers that may be quantised one by one, as their markers say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import comfy.quant_ops
from comfy.casting import cast_to as cast_to
from comfy.weight_casting import Borrowed, WeightFunction, bring
from comfy.weight_casting import CastWeightBiasOp as CastWeightBiasOp


def scaled_dot_product_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """Attention by torch's fastest kernel for this device; arguments as torch's."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, *args, **kwargs)


def cast_to_input(
    weight: torch.Tensor, input: torch.Tensor, non_blocking: bool = False, copy: bool = True
) -> torch.Tensor:
    """Bring a weight to the device and dtype of an input; see `cast_to`."""
    return weight.to(input.device, input.dtype, non_blocking=non_blocking, copy=copy)


def cast_bias_weight(
    s: Any,
    input: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    bias_dtype: torch.dtype | None = None,
    offloadable: bool = False,
) -> Any:
    """Get a layer's weight and bias as they are to be used in one call.

    Args:
        s: The layer: has ``weight``, and perhaps ``bias`` and `CastWeightBiasOp`'s attributes.
        input: Gives dtype and device where they are None.
        dtype: Of the weight.
        device: Of both.
        bias_dtype: Of the bias; the weight's if None.
        offloadable: Also return a handle, to be given to `uncast_bias_weight` after the call.

    Returns:
        (weight, bias or None), or (weight, bias or None, handle).
    """
    if input is not None:
        dtype = input.dtype if dtype is None else dtype
        device = input.device if device is None else device
    bias_dtype = dtype if bias_dtype is None else bias_dtype
    stream = getattr(s, "weight_stream", None)
    handle = None if stream is None else stream.borrow(s)
    weight = bring(s, "weight", handle, dtype, device)
    bias = bring(s, "bias", handle, bias_dtype, device)
    if offloadable:
        return weight, bias, handle
    if handle is not None:
        handle.release()
    return weight, bias


def uncast_bias_weight(
    s: Any,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    offload_stream: Borrowed | None,
) -> None:
    """Give back what `cast_bias_weight(..., offloadable=True)` handed out.

    Args:
        s: The layer.
        weight: As handed out.
        bias: As handed out.
        offload_stream: The handle; None if nothing was borrowed.
    """
    if offload_stream is not None:
        offload_stream.release()


class _Layer(CastWeightBiasOp):
    """Mixed into a torch layer: no initialisation, and a second way of calling it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Packs append to these: each layer needs its own.
        self.weight_function: list[WeightFunction] = []
        self.bias_function: list[WeightFunction] = []

    def reset_parameters(self) -> None:
        """Leave the memory as it is: a checkpoint's weights take its place."""
        return

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute as torch's layer does; weights are brought first if they must be."""
        if self.comfy_cast_weights or self.weight_function or self.bias_function:
            return self.forward_comfy_cast_weights(*args, **kwargs)
        return super().forward(*args, **kwargs)  # type: ignore[misc]  # of the torch layer

    def forward_comfy_cast_weights(self, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Compute with weights brought to the input's device and dtype."""
        if self._is_at_home(input):
            return super().forward(input, *args, **kwargs)  # type: ignore[misc]  # the torch layer
        weight, bias, handle = cast_bias_weight(self, input, offloadable=True)
        result = self.compute(input, weight, bias, *args, **kwargs)
        uncast_bias_weight(self, weight, bias, handle)
        return result

    def _is_at_home(self, input: torch.Tensor) -> bool:
        """Whether nothing has to be done to the weights: the usual case, so it must be cheap."""
        if self.weight_function or self.bias_function or self.weight_stream is not None:
            return False
        dtype, device = input.dtype, input.device
        parameters: Any = self._parameters  # type: ignore[attr-defined]  # of the torch layer
        for one in parameters.values():
            if one is not None and (one.dtype != dtype or one.device != device):
                return False
        return True

    def compute(self, input: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
        """The layer's formula with given weights."""
        raise NotImplementedError


class _Convolution(_Layer):
    def compute(self, input: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
        result: torch.Tensor = self._conv_forward(input, weight, bias)  # type: ignore[attr-defined]
        return result


class _TransposedConvolution(_Layer):
    def compute(
        self, input: torch.Tensor, weight: Any, bias: Any, output_size: list[int] | None = None
    ) -> torch.Tensor:
        layer: Any = self
        dims = weight.dim() - 2
        padding = layer._output_padding(
            input, output_size, layer.stride, layer.padding, layer.kernel_size, dims, layer.dilation
        )
        function = getattr(torch.nn.functional, f"conv_transpose{dims}d")
        result: torch.Tensor = function(
            input, weight, bias, layer.stride, layer.padding, padding, layer.groups, layer.dilation
        )
        return result


class disable_weight_init:
    """torch's layers without initialisation."""

    class Linear(_Layer, torch.nn.Linear):
        """See `torch.nn.Linear`."""

        def compute(self, input: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
            return torch.nn.functional.linear(input, weight, bias)

    class Conv1d(_Convolution, torch.nn.Conv1d):
        """See `torch.nn.Conv1d`."""

    class Conv2d(_Convolution, torch.nn.Conv2d):
        """See `torch.nn.Conv2d`."""

    class Conv3d(_Convolution, torch.nn.Conv3d):
        """See `torch.nn.Conv3d`."""

    class ConvTranspose1d(_TransposedConvolution, torch.nn.ConvTranspose1d):
        """See `torch.nn.ConvTranspose1d`."""

    class ConvTranspose2d(_TransposedConvolution, torch.nn.ConvTranspose2d):
        """See `torch.nn.ConvTranspose2d`."""

    class GroupNorm(_Layer, torch.nn.GroupNorm):
        """See `torch.nn.GroupNorm`."""

        def compute(self, input: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
            return torch.nn.functional.group_norm(input, self.num_groups, weight, bias, self.eps)

    class LayerNorm(_Layer, torch.nn.LayerNorm):
        """See `torch.nn.LayerNorm`."""

        def compute(self, input: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
            shape = list(self.normalized_shape)
            return torch.nn.functional.layer_norm(input, shape, weight, bias, self.eps)

    class RMSNorm(_Layer, torch.nn.RMSNorm):
        """See `torch.nn.RMSNorm`."""

        def compute(self, input: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
            shape = list(self.normalized_shape)
            return torch.nn.functional.rms_norm(input, shape, weight, self.eps)

    class Embedding(_Layer, torch.nn.Embedding):
        """See `torch.nn.Embedding`."""

        def forward(self, input: torch.Tensor, out_dtype: torch.dtype | None = None) -> Any:
            """Look up rows.

            Args:
                input: Indices, any shape, integers.
                out_dtype: Of the result; the table's if None.

            Returns:
                Shape (*input.shape, embedding_dim).
            """
            if self.comfy_cast_weights or self.weight_function or self.weight_stream:
                return self.forward_comfy_cast_weights(input, out_dtype=out_dtype)
            return torch.nn.Embedding.forward(self, input).to(dtype=out_dtype)

        def forward_comfy_cast_weights(
            self, input: torch.Tensor, out_dtype: torch.dtype | None = None
        ) -> Any:
            """Look up rows of a table that is brought first; only the rows are cast."""
            weight, _, handle = cast_bias_weight(self, device=input.device, offloadable=True)
            rows = torch.nn.functional.embedding(
                input,
                weight,
                self.padding_idx,
                self.max_norm,
                self.norm_type,
                self.scale_grad_by_freq,
                self.sparse,
            )
            uncast_bias_weight(self, weight, None, handle)
            return rows.to(dtype=out_dtype)

    @classmethod
    def conv_nd(cls, dims: int, *args: Any, **kwargs: Any) -> Any:
        """Make a convolution over 1, 2 or 3 dimensions; other arguments as torch's."""
        classes = {1: cls.Conv1d, 2: cls.Conv2d, 3: cls.Conv3d}
        if dims not in classes:
            raise ValueError(f"no convolution over {dims} dimensions: 1, 2 or 3")
        return classes[dims](*args, **kwargs)


class manual_cast(disable_weight_init):
    """Layers that compute in the dtype and on the device of their input."""

    class Linear(disable_weight_init.Linear):
        comfy_cast_weights = True

    class Conv1d(disable_weight_init.Conv1d):
        comfy_cast_weights = True

    class Conv2d(disable_weight_init.Conv2d):
        comfy_cast_weights = True

    class Conv3d(disable_weight_init.Conv3d):
        comfy_cast_weights = True

    class ConvTranspose1d(disable_weight_init.ConvTranspose1d):
        comfy_cast_weights = True

    class ConvTranspose2d(disable_weight_init.ConvTranspose2d):
        comfy_cast_weights = True

    class GroupNorm(disable_weight_init.GroupNorm):
        comfy_cast_weights = True

    class LayerNorm(disable_weight_init.LayerNorm):
        comfy_cast_weights = True

    class RMSNorm(disable_weight_init.RMSNorm):
        comfy_cast_weights = True

    class Embedding(disable_weight_init.Embedding):
        comfy_cast_weights = True


class fp8_ops(manual_cast):
    """Weights in eight bits, computed in the input's wider dtype."""

    class Linear(manual_cast.Linear):
        """See `torch.nn.Linear`."""


def mixed_precision_ops(
    quant_config: dict[str, Any] | None = None,
    compute_dtype: torch.dtype = torch.bfloat16,
    full_precision_mm: bool = False,
    disabled: Sequence[str] = (),
) -> type[manual_cast]:
    """Make layers that may be quantised one by one.

    Args:
        quant_config: Of `comfy.quant_markers.detect_layer_quantization`.
        compute_dtype: Of weights once dequantised, where the input names none.
        full_precision_mm: Accepted; products are always computed in the input's dtype.
        disabled: Formats that this device cannot hold; their weights are widened when loaded.

    Returns:
        A family like `manual_cast` whose Linear reads ``comfy_quant`` and ``weight_scale``.
    """

    class MixedPrecision(manual_cast):
        class Linear(comfy.quant_ops.QuantizedLinear, manual_cast.Linear):
            default_compute_dtype = compute_dtype
            disabled_formats = frozenset(disabled)

    return MixedPrecision


def pick_operations(
    weight_dtype: torch.dtype | None,
    compute_dtype: torch.dtype | None,
    load_device: torch.device | None = None,
    disable_fast_fp8: bool = False,
    fp8_optimizations: bool = False,
    model_config: Any = None,
) -> type[disable_weight_init]:
    """Choose the family of layers for a model.

    Args:
        weight_dtype: In which the weights are stored.
        compute_dtype: In which to compute; None means as stored.
        load_device: Where the model will run.
        disable_fast_fp8: Accepted; products are always computed in the input's dtype.
        fp8_optimizations: The model asks for layers made for eight bits.
        model_config: Its ``quant_config``, if not None, asks for layers quantised one by one.

    Returns:
        One of this module's families.
    """
    quant_config = getattr(model_config, "quant_config", None)
    if quant_config:
        return mixed_precision_ops(quant_config, compute_dtype or torch.bfloat16)
    if compute_dtype is None or weight_dtype == compute_dtype:
        return disable_weight_init
    if fp8_optimizations and weight_dtype in comfy.quant_ops.FLOAT8_TYPES:
        return fp8_ops
    return manual_cast
