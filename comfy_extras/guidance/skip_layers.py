"""Guidance away from what a transformer makes with some of its layers left out.

Source: Hyung et al. 2024, "Spatiotemporal Skip Guidance"; Stability AI's notes on SD 3.5 Medium.
"""

from __future__ import annotations

import re
from typing import Any

import torch

import comfy.samplers
from comfy.model_options import set_model_options_patch_replace
from comfy_api.latest import io
from comfy_extras.guidance.patching import Window, denoised_again, patch_schema, percent_input

_CATEGORY = "advanced/guidance"
_LAYERS = "7, 8, 9"

Layers = list[tuple[str, int]]
"""Kind ("double_block" or "single_block") and number."""


def layers_of(double: str, single: str = "") -> Layers:
    """The layers whose numbers stand in two texts."""
    texts = {"double_block": double, "single_block": single}
    return [(kind, int(n)) for kind, text in texts.items() for n in re.findall(r"\d+", text)]


def without_layers(model_options: dict[str, Any], layers: Layers) -> dict[str, Any]:
    """Options under which layers hand on what they get."""

    def skip(args: dict[str, Any], extra_args: Any) -> dict[str, Any]:
        return args

    options = dict(model_options)
    for kind, number in layers:
        set_model_options_patch_replace(options, skip, "dit", kind, number)
    return options


def with_skip_guidance(
    model: Any, layers: Layers, scale: float, window: Window, rescale: float = 0.0
) -> Any:
    """A clone that is guided by D_skipped: D + scale (D_pos - D_skipped), within a window.

    Args:
        model: A patcher.
        layers: Left out in the further pass.
        scale: 0 or more; at 0 no further pass is made.
        window: Of noise levels.
        rescale: 0 to 1, how much the result is brought to the standard deviation of D_pos.
    """

    def guide(args: dict[str, Any]) -> torch.Tensor:
        result: torch.Tensor = args["denoised"]
        if scale <= 0 or not window.holds(args["sigma"]):
            return result
        options = without_layers(args["model_options"], layers)
        positive = args["cond_denoised"]
        skipped = denoised_again(args, args["cond"], args["input"], options)
        result = result + (positive - skipped) * scale
        if rescale:
            result = result * (rescale * positive.std() / result.std() + (1.0 - rescale))
        return result

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(guide)
    return patched


def _scale() -> Any:
    return io.Float.Input("scale", default=3.0, min=0.0, max=10.0, step=0.1)


class SkipLayerGuidanceSD3(io.ComfyNode):
    """Guidance by skipped layers for SD 3.5."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.String.Input("layers", default=_LAYERS),
            _scale(),
            percent_input("start_percent", 0.01),
            percent_input("end_percent", 0.15),
        ]
        return patch_schema("SkipLayerGuidanceSD3", _CATEGORY, inputs, is_experimental=True)

    @classmethod
    def execute(
        cls, model: Any, layers: str, scale: float, start_percent: float, end_percent: float
    ) -> Any:
        """See `with_skip_guidance`; without layers the model stays as it is."""
        found = layers_of(layers)
        if not found:
            return io.NodeOutput(model)
        window = Window.of(model, start_percent, end_percent)
        return io.NodeOutput(with_skip_guidance(model, found, scale, window))

    skip_guidance_sd3 = execute


class SkipLayerGuidanceDiT(io.ComfyNode):
    """Guidance by skipped layers for transformers with blocks of two kinds."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.String.Input("double_layers", default=_LAYERS),
            io.String.Input("single_layers", default=_LAYERS),
            _scale(),
            percent_input("start_percent", 0.01),
            percent_input("end_percent", 0.15),
            io.Float.Input("rescaling_scale", default=0.0, min=0.0, max=10.0, step=0.01),
        ]
        return patch_schema("SkipLayerGuidanceDiT", _CATEGORY, inputs, is_experimental=True)

    @classmethod
    def execute(
        cls,
        model: Any,
        scale: float,
        start_percent: float,
        end_percent: float,
        double_layers: str = "",
        single_layers: str = "",
        rescaling_scale: float = 0.0,
    ) -> Any:
        """See `with_skip_guidance`; without layers the model stays as it is."""
        found = layers_of(double_layers, single_layers)
        if not found:
            return io.NodeOutput(model)
        window = Window.of(model, start_percent, end_percent)
        return io.NodeOutput(with_skip_guidance(model, found, scale, window, rescaling_scale))

    skip_guidance = execute


class SkipLayerGuidanceDiTSimple(io.ComfyNode):
    """Leaves layers out where the negative prompt is evaluated: no further pass."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.String.Input("double_layers", default=_LAYERS),
            io.String.Input("single_layers", default=_LAYERS),
            percent_input("start_percent", 0.0),
            percent_input("end_percent", 1.0),
        ]
        return patch_schema("SkipLayerGuidanceDiTSimple", _CATEGORY, inputs, is_experimental=True)

    @classmethod
    def execute(
        cls,
        model: Any,
        start_percent: float,
        end_percent: float,
        double_layers: str = "",
        single_layers: str = "",
    ) -> Any:
        """Patch a clone; without layers the model stays as it is."""
        layers = layers_of(double_layers, single_layers)
        if not layers:
            return io.NodeOutput(model)
        window = Window.of(model, start_percent, end_percent)

        def evaluate(args: dict[str, Any]) -> list[torch.Tensor]:
            run, options = (args["input"], args["sigma"]), args["model_options"]
            conds = args["conds"]
            if not window.holds(args["sigma"]) or conds[1] is None:
                return comfy.samplers.calc_cond_batch(args["model"], conds, *run, options)
            skipped = without_layers(options, layers)
            (positive,) = comfy.samplers.calc_cond_batch(args["model"], conds[:1], *run, options)
            (negative,) = comfy.samplers.calc_cond_batch(args["model"], conds[1:], *run, skipped)
            return [positive, negative]

        patched = model.clone()
        patched.set_model_sampler_calc_cond_batch_function(evaluate)
        return io.NodeOutput(patched)

    skip_guidance = execute
