"""Nodes that make a GUIDER: a model with its prompts and how they guide it."""

from __future__ import annotations

import math
from typing import Any

import torch

import comfy.samplers
import node_helpers
from comfy_api.latest import io

_CATEGORY = "sampling/custom_sampling/guiders"


def cfg_input(name: str = "cfg") -> Any:
    """The input for a scale of guidance."""
    return io.Float.Input(name, default=8.0, min=0.0, max=100.0, step=0.1, round=0.01)


class Guider_Basic(comfy.samplers.CFGGuider):
    """One prompt, no guidance."""

    def set_conds(self, positive: Any, negative: Any = None) -> None:
        """Set the prompt; a negative one is not looked at."""
        self.inner_set_conds({"positive": positive})


class BasicGuider(io.ComfyNode):
    """One prompt, no guidance: for distilled models."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="BasicGuider",
            category=_CATEGORY,
            inputs=[io.Model.Input("model"), io.Conditioning.Input("conditioning")],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(cls, model: Any, conditioning: Any) -> Any:
        """See `Guider_Basic`."""
        guider = Guider_Basic(model)
        guider.set_conds(conditioning)
        return io.NodeOutput(guider)

    get_guider = execute


class CFGGuider(io.ComfyNode):
    """Classifier-free guidance between two prompts."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="CFGGuider",
            category=_CATEGORY,
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                cfg_input(),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, negative: Any, cfg: float) -> Any:
        """See `comfy.samplers.CFGGuider`."""
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)

    get_guider = execute


class Guider_DualCFG(comfy.samplers.CFGGuider):
    """Two scales between three prompts, as models that edit pictures are guided.

    With D_1, D_2 and D_n of the first, the second and the negative prompt,
    "regular" is D_n + cfg2 (D_2 - D_n) + cfg1 (D_1 - D_2), and
    "nested" is D_n + cfg2 (D_2 + cfg1 (D_1 - D_2) - D_n).

    Source: Brooks et al. 2022, "InstructPix2Pix", equation 3, for "regular".

    Attributes:
        cfg1: Scale from the second prompt to the first.
        cfg2: Scale from the negative prompt to the others.
        nested: The second form.
    """

    cfg1: float
    cfg2: float
    nested: bool = False

    def set_cfg(self, cfg1: float, cfg2: float = 1.0, nested: bool = False) -> None:
        """Set the scales and the form."""
        self.cfg1, self.cfg2, self.nested = cfg1, cfg2, nested

    def set_conds(self, positive: Any, middle: Any, negative: Any) -> None:  # type: ignore[override]  # three prompts
        """Set the prompts; the second one counts as a negative one for the model."""
        middle = node_helpers.conditioning_set_values(middle, {"prompt_type": "negative"})
        self.inner_set_conds({"positive": positive, "middle": middle, "negative": negative})

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
        seed: int | None = None,
    ) -> torch.Tensor:
        """Denoise [B, C, ...] at sigmas [B]; prompts whose weight is 0 are not evaluated."""
        first, second = self.conds.get("positive"), self.conds.get("middle")
        negative = self.conds.get("negative")
        may_skip = not model_options.get("disable_cfg1_optimization", False)
        if may_skip and math.isclose(self.cfg2, 1.0):
            negative = None
            second = None if math.isclose(self.cfg1, 1.0) else second
        conds = [negative, second, first]
        none, low, high = comfy.samplers.calc_cond_batch(
            self.inner_model, conds, x, timestep, model_options
        )

        def guided(to: Any, fro: Any, scale: float, prompts: tuple[Any, Any]) -> torch.Tensor:
            cond, uncond = prompts
            return comfy.samplers.cfg_function(
                *(self.inner_model, to, fro, scale, x, timestep),
                model_options=model_options,
                cond=cond,
                uncond=uncond,
            )

        if self.nested:
            inner = guided(high, low, self.cfg1, (first, second))
            return none + (inner - none) * self.cfg2
        return guided(low, none, self.cfg2, (second, negative)) + (high - low) * self.cfg1


class DualCFGGuider(io.ComfyNode):
    """Guidance with two scales between three prompts."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="DualCFGGuider",
            category=_CATEGORY,
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("cond1"),
                io.Conditioning.Input("cond2"),
                io.Conditioning.Input("negative"),
                cfg_input("cfg_conds"),
                cfg_input("cfg_cond2_negative"),
                io.Combo.Input("style", options=["regular", "nested"]),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        cond1: Any,
        cond2: Any,
        negative: Any,
        cfg_conds: float,
        cfg_cond2_negative: float,
        style: str = "regular",
    ) -> Any:
        """See `Guider_DualCFG`."""
        guider = Guider_DualCFG(model)
        guider.set_conds(cond1, cond2, negative)
        guider.set_cfg(cfg_conds, cfg_cond2_negative, nested=style == "nested")
        return io.NodeOutput(guider)

    get_guider = execute


NODES = [CFGGuider, DualCFGGuider, BasicGuider]
