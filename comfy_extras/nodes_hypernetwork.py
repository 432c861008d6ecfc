"""Hypernetworks: small networks that change what attention takes keys and values from.

A file maps the width of a context to two networks, one for keys and one for values, and says how
its layers are activated. Each is a row of linear layers and norms, whose result is added to the
context (the format of stable-diffusion-webui).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

import comfy.utils
import folder_paths
from comfy_api.latest import io
from comfy_extras.extension import Extension

Activation = Callable[[torch.Tensor], torch.Tensor]

_LAYER = re.compile(r"linear\.?(\d+)\.(weight|bias)")
_ACTIVATIONS: dict[str, Activation] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "leakyrelu": functional.leaky_relu,
    "elu": functional.elu,
    "swish": functional.hardswish,
    "hardswish": functional.hardswish,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softsign": functional.softsign,
    "gelu": functional.gelu,
    "mish": functional.mish,
}


class _Row:
    """A network: its layers in order, each a weight and a bias."""

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], activation: Activation, is_last_activated: bool
    ) -> None:
        layers: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            found = _LAYER.fullmatch(name)
            if found is None:
                raise ValueError(f"it has a tensor '{name}', which is of no layer that is known")
            # A clone: what was trained is small, and is needed at every step.
            layers.setdefault(int(found[1]), {})[found[2]] = tensor.detach().float().clone()
        self._layers = [(layers[n]["weight"], layers[n]["bias"]) for n in sorted(layers)]
        self._activation = activation
        self._is_last_activated = is_last_activated
        self._last = max(
            (index for index, (weight, _) in enumerate(self._layers) if weight.dim() == 2),
            default=-1,
        )

    def to(self, device: torch.device) -> None:
        """Move the layers."""
        self._layers = [(weight.to(device), bias.to(device)) for weight, bias in self._layers]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """What is to be added to (batch, tokens, width); computed in float32."""
        y = x.float()
        for index, (weight, bias) in enumerate(self._layers):
            if weight.dim() == 1:
                y = functional.layer_norm(y, weight.shape, weight, bias)
                continue
            y = functional.linear(y, weight, bias)
            if index != self._last or self._is_last_activated:
                y = self._activation(y)
        return y.to(x.dtype)


class Hypernetwork:
    """A patch of attention; see `ModelPatcher.set_model_attn1_patch`."""

    def __init__(self, rows: Mapping[int, tuple[_Row, _Row]], strength: float) -> None:
        self.rows = rows
        self.strength = strength

    @classmethod
    def of(cls, state: Mapping[Any, Any], strength: float) -> Hypernetwork:
        """Build it from the content of a file.

        Args:
            state: Width of the context to the two networks, and how they are activated.
            strength: Factor of what is added.

        Raises:
            ValueError: If it is no hypernetwork, or of a kind that is not known.
        """
        name = str(state.get("activation_func") or "linear").lower()
        if name not in _ACTIVATIONS:
            raise ValueError(f"its activation '{name}' is not known")
        how = (_ACTIVATIONS[name], bool(state.get("activate_output", False)))
        rows = {
            width: (_Row(networks[0], *how), _Row(networks[1], *how))
            for width, networks in state.items()
            if isinstance(width, int)
        }
        if not rows:
            raise ValueError("it holds no networks by the width of a context")
        return cls(rows, strength)

    def to(self, target: torch.device | torch.dtype) -> Hypernetwork:
        """Follow the model to its device; a dtype changes nothing."""
        if isinstance(target, torch.device):
            for pair in self.rows.values():
                for row in pair:
                    row.to(target)
        return self

    def __call__(
        self, n: torch.Tensor, context: torch.Tensor, value: torch.Tensor, extra_options: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give n as it is, and contexts of keys and values, changed if their width is known."""
        pair = self.rows.get(context.shape[-1])
        if pair is None:
            return n, context, value
        keys = context + pair[0](context) * self.strength
        return n, keys, value + pair[1](value) * self.strength


class HypernetworkLoader(io.ComfyNode):
    """Puts a hypernetwork on a model."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        names = folder_paths.get_filename_list("hypernetworks")
        return io.Schema(
            node_id="HypernetworkLoader",
            category="loaders",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("hypernetwork_name", options=names),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.01),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, hypernetwork_name: str, strength: float) -> Any:
        """Give a patched clone.

        Raises:
            ValueError: If the file holds no hypernetwork that can be used.
        """
        path = folder_paths.get_full_path_or_raise("hypernetworks", hypernetwork_name)
        state = comfy.utils.load_torch_file(path, safe_load=True)
        patched = model.clone()
        try:
            patch = Hypernetwork.of(state, strength)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as err:
            raise ValueError(
                f"{path} is no hypernetwork that can be used: {err}. Take one that was trained for "
                "Stable Diffusion in stable-diffusion-webui."
            ) from err
        patched.set_model_attn1_patch(patch)
        patched.set_model_attn2_patch(patch)
        return io.NodeOutput(patched)

    load_hypernetwork = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(HypernetworkLoader)
