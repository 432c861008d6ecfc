"""A network compiled by torch."""

from __future__ import annotations

from typing import Any

import torch

from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import patch_schema

_KEY = "torch.compile"


class Compiled:
    """Wraps a model's call: its network is the compiled one while the call lasts.

    The module itself stays in its place between calls, so that its weights keep their names.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._network: Any = None
        self._of: Any = None

    def __call__(self, executor: WrapperExecutor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compile at the first call of a network; go on with the other wrappers."""
        model = executor.class_obj
        network = model.diffusion_model
        if self._of is not network:
            self._network = torch.compile(network, backend=self._backend)
            self._of = network
        model.diffusion_model = self._network
        try:
            result: torch.Tensor = executor(*args, **kwargs)
            return result
        finally:
            model.diffusion_model = network


class TorchCompileModel(io.ComfyNode):
    """Compiles a model's network."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        backends = io.Combo.Input("backend", options=["inductor", "cudagraphs"])
        return patch_schema("TorchCompileModel", "_for_testing", [backends], is_experimental=True)

    @classmethod
    def execute(cls, model: Any, backend: str) -> Any:
        """Wrap a clone; compiling is done by its first step, and anew for other shapes."""
        patched = model.clone()
        patched.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, _KEY)
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, _KEY, Compiled(backend))
        return io.NodeOutput(patched)

    patch = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(TorchCompileModel)
