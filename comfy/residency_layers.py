"""What is set on the layers of a loaded model, and taken back: how they get weights that are away."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch

from comfy.loading.destinations import Want, cast_bytes
from comfy.residency_stream import Fetch, LayerStream, StreamedLayer
from comfy.residency_weights import Patch, Weight
from comfy.weight_casting import WeightFunction

_ATTRIBUTES = ("comfy_cast_weights", "weight_stream", "weight_function", "bias_function")


class Patcher(Protocol):
    """What is asked of the `ModelPatcher` whose patches are applied."""

    weight_wrapper_patches: Mapping[str, Sequence[WeightFunction]]
    force_cast_weights: bool

    def weight_patches(self, key: str) -> Sequence[Patch]:
        """The patches that apply now to the weight of this name."""

    def patch_weight_to_device(self, key: str, device_to: torch.device | None = None) -> Any:
        """Replace the weight of this name by the patched one."""

    def on_the_fly(self, key: str) -> WeightFunction:
        """Make the function that patches the weight of this name for one call."""


class LayerSetup:
    """The changed layers of one model, and what each had of its own before.

    Attributes:
        stream: Brings weights that stay in their file; None if all are at home.
    """

    def __init__(self) -> None:
        self.stream: LayerStream | None = None
        self._before: dict[int, tuple[weakref.ref[torch.nn.Module], dict[str, Any]]] = {}

    def apply(
        self,
        model: torch.nn.Module,
        patcher: Patcher,
        weights: Iterable[Weight],
        away: Collection[int],
        fetch: Fetch,
    ) -> None:
        """Set the layers up anew.

        Args:
            model: Whose layers.
            patcher: Whose patches and wrappers of weights apply.
            weights: All of the model.
            away: The ``id`` of each weight that is not at home.
            fetch: Brings weights to the device.
        """
        self.restore()
        layers: dict[int, list[Want]] = {}
        modules: dict[int, torch.nn.Module] = {}
        for weight in weights:
            is_away, source = id(weight) in away, weight.slice
            functions = _functions(patcher, weight, is_away)
            if not functions and not is_away:
                continue
            for module, name in weight.modules():
                self._change(module, name, functions)
                if is_away and source is not None:
                    modules[id(module)] = module
                    layers.setdefault(id(module), []).append(Want(name, source, weight.dtype))
        if patcher.force_cast_weights:
            for module in model.modules():
                if hasattr(module, "comfy_cast_weights"):
                    self._change(module, "", ())
        if layers:
            self.stream = LayerStream({key: _streamed(layers[key]) for key in layers}, fetch)
            for module in modules.values():
                vars(module)["weight_stream"] = self.stream

    def restore(self) -> None:
        """Give every layer back the attributes that it had of its own; end the stream."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        for reference, before in self._before.values():
            module = reference()
            if module is None:
                continue
            own = vars(module)
            for key in _ATTRIBUTES:
                own.pop(key, None)
            own.update(before)
        self._before = {}

    def _change(
        self, module: torch.nn.Module, name: str, functions: Sequence[WeightFunction]
    ) -> None:
        """Let a layer cast, with more functions for one of its weights."""
        own = vars(module)
        if id(module) not in self._before:
            before = {key: own[key] for key in _ATTRIBUTES if key in own}
            self._before[id(module)] = weakref.ref(module), before
        own["comfy_cast_weights"] = True
        if functions:
            attribute = f"{name}_function"
            own[attribute] = [*getattr(module, attribute, ()), *functions]


def _functions(patcher: Patcher, weight: Weight, is_away: bool) -> list[WeightFunction]:
    """What a call is to do to a weight: patch it if that was not done before, then wrap it."""
    functions: list[WeightFunction] = []
    if is_away:
        functions += [patcher.on_the_fly(key) for key in weight.keys if patcher.weight_patches(key)]
    for key in weight.keys:
        functions += patcher.weight_wrapper_patches.get(key, ())
    return functions


def _streamed(wants: Sequence[Want]) -> StreamedLayer:
    return StreamedLayer(tuple(wants), sum(cast_bytes(one.source, one.dtype) for one in wants))
