"""Sampling that leaves steps out while little changes; see `comfy_extras.guidance.step_cache`."""

from __future__ import annotations

import logging
from typing import Any

import torch

from comfy.model_sampling import reshape_sigma
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import Window, patch_schema, percent_input
from comfy_extras.guidance.step_cache import StepCache

_log = logging.getLogger(__name__)

_OPTIONS_PLACE = 5
"""Of transformer_options among the arguments of a network."""


def _schema(name: str) -> Any:
    inputs = [
        io.Float.Input("reuse_threshold", default=0.2, min=0.0, max=3.0, step=0.01),
        percent_input("start_percent", 0.15, step=0.01),
        percent_input("end_percent", 0.95, step=0.01),
        io.Boolean.Input("verbose", default=False),
    ]
    return patch_schema(name, "advanced/debug/model", inputs, is_experimental=True)


def _for_each_run(patched: Any, name: str, cache: StepCache, verbose: bool) -> None:
    """Let a model forget what was kept when a run begins and when it ends."""

    def run(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> torch.Tensor:
        cache.clear()
        try:
            result: torch.Tensor = executor(*args, **kwargs)
            if verbose:
                _log.info("%s: %d of %d steps were left out.", name, cache.reused, cache.steps)
            return result
        finally:
            cache.clear()

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, name, run)


class EasyCache(io.ComfyNode):
    """Leaves out passes of the network."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return _schema("EasyCache")

    @classmethod
    def execute(
        cls,
        model: Any,
        reuse_threshold: float,
        start_percent: float,
        end_percent: float,
        verbose: bool,
    ) -> Any:
        """Wrap the network of a clone.

        Args:
            reuse_threshold: The largest estimated change, relative to the output; 0 for none.
            start_percent: The part of the model's time before which all steps are computed.
            end_percent: The part after which they are.
            verbose: Log how many steps were left out.
        """
        window = Window.of(model, start_percent, end_percent)
        cache = StepCache(reuse_threshold, window)
        channels = model.model.latent_format.latent_channels

        def network(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> torch.Tensor:
            given = args[_OPTIONS_PLACE] if len(args) > _OPTIONS_PLACE else None
            options = kwargs.get("transformer_options", given) or {}
            sigma = options.get("sigmas")
            # Behind the latent there may be a picture and a mask, which the output has not.
            x = args[0][:, :channels]
            if sigma is None:
                plain: torch.Tensor = executor(*args, **kwargs)
                return plain
            name = tuple(options.get("uuids", options.get("cond_or_uncond", ())))
            return cache.run(name, x, sigma, lambda: executor(*args, **kwargs))

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "EasyCache", network)
        _for_each_run(patched, "EasyCache", cache, verbose)
        return io.NodeOutput(patched)


class LazyCache(io.ComfyNode):
    """Leaves out whole steps, guidance and all; works with every kind of network."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return _schema("LazyCache")

    @classmethod
    def execute(
        cls,
        model: Any,
        reuse_threshold: float,
        start_percent: float,
        end_percent: float,
        verbose: bool,
    ) -> Any:
        """Wrap the estimates of a clone, written as F = (x - D) / sigma; see `EasyCache`."""
        window = Window.of(model, start_percent, end_percent)
        cache = StepCache(reuse_threshold, window)
        sampling = model.get_model_object("model_sampling")

        def estimate(
            executor: WrapperExecutor,
            x: torch.Tensor,
            timestep: torch.Tensor,
            *rest: Any,
            **kw: Any,
        ) -> torch.Tensor:
            sigma = reshape_sigma(timestep, x.ndim)

            def compute() -> torch.Tensor:
                noise: torch.Tensor = (x - executor(x, timestep, *rest, **kw)) / sigma
                return noise

            seen = sampling.calculate_input(timestep, x)
            return x - cache.run("step", seen, timestep, compute) * sigma

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "LazyCache", estimate)
        _for_each_run(patched, "LazyCache", cache, verbose)
        return io.NodeOutput(patched)


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(EasyCache, LazyCache)
