"""Weights of attention's projections, multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import patch_schema

_CATEGORY = "_for_testing/attention_experiments"
_TEMPORAL = ".time_stack."


def multiply(target: Any, keys: Iterable[str], factor_of: Callable[[str], float | None]) -> None:
    """Let a patcher, or a CLIP, multiply weights.

    Args:
        target: Gets the patches.
        keys: Of its weights.
        factor_of: Tells the factor of a key, None for those that stay.
    """
    for key in keys:
        factor = factor_of(key)
        if factor is not None and factor != 1.0:
            # No change but the factor of the weight itself.
            target.add_patches({key: (None,)}, 0.0, factor)


def _by_suffix(factors: Mapping[str, float]) -> Callable[[str], float | None]:
    """The factor of the layer whose name a key ends with, its weight or its bias."""
    named = {f".{layer}.{part}": f for layer, f in factors.items() for part in ("weight", "bias")}

    def factor_of(key: str) -> float | None:
        return next((factor for suffix, factor in named.items() if key.endswith(suffix)), None)

    return factor_of


def _factor(name: str) -> Any:
    return io.Float.Input(name, default=1.0, min=0.0, max=10.0, step=0.01)


def _projections() -> list[Any]:
    return [_factor(name) for name in ("q", "k", "v", "out")]


def _multiplied(model: Any, factor_of: Callable[[str], float | None]) -> Any:
    patched = model.clone()
    multiply(patched, patched.model.state_dict(), factor_of)
    return io.NodeOutput(patched)


class _UNetAttentionMultiply(io.ComfyNode):
    """Multiplies the weights of one kind of attention in a UNet.

    Attributes:
        NODE: The node's id.
        KIND: Of the attention, as weights name it.
    """

    NODE = ""
    KIND = ""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return patch_schema(cls.NODE, _CATEGORY, _projections(), is_experimental=True)

    @classmethod
    def execute(cls, model: Any, q: float, k: float, v: float, out: float) -> Any:
        """Patch a clone."""
        layers = {"to_q": q, "to_k": k, "to_v": v, "to_out.0": out}
        factors = {f"{cls.KIND}.{layer}": factor for layer, factor in layers.items()}
        return _multiplied(model, _by_suffix(factors))


class UNetSelfAttentionMultiply(_UNetAttentionMultiply):
    """Multiplies the weights of a UNet's self-attention."""

    NODE = "UNetSelfAttentionMultiply"
    KIND = "attn1"


class UNetCrossAttentionMultiply(_UNetAttentionMultiply):
    """Multiplies the weights of a UNet's cross-attention."""

    NODE = "UNetCrossAttentionMultiply"
    KIND = "attn2"


class CLIPAttentionMultiply(io.ComfyNode):
    """Multiplies the weights of a text encoder's self-attention."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="CLIPAttentionMultiply",
            category=_CATEGORY,
            inputs=[io.Clip.Input("clip"), *_projections()],
            outputs=[io.Clip.Output()],
            is_experimental=True,
        )

    @classmethod
    def execute(cls, clip: Any, q: float, k: float, v: float, out: float) -> Any:
        """Patch a clone."""
        layers = {"q_proj": q, "k_proj": k, "v_proj": v, "out_proj": out}
        factors = {f"self_attn.{layer}": factor for layer, factor in layers.items()}
        patched = clip.clone()
        multiply(patched, patched.cond_stage_model.state_dict(), _by_suffix(factors))
        return io.NodeOutput(patched)


class UNetTemporalAttentionMultiply(io.ComfyNode):
    """Multiplies results of attention in a video UNet, between places and between frames."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        names = ("self_structural", "self_temporal", "cross_structural", "cross_temporal")
        return patch_schema(
            *("UNetTemporalAttentionMultiply", _CATEGORY, [_factor(name) for name in names]),
            is_experimental=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        self_structural: float,
        self_temporal: float,
        cross_structural: float,
        cross_temporal: float,
    ) -> Any:
        """Patch a clone; without frames only the structural ones count."""
        structural = _by_suffix(
            {"attn1.to_out.0": self_structural, "attn2.to_out.0": cross_structural}
        )
        temporal = _by_suffix({"attn1.to_out.0": self_temporal, "attn2.to_out.0": cross_temporal})
        return _multiplied(
            model, lambda key: temporal(key) if _TEMPORAL in key else structural(key)
        )


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(
        UNetSelfAttentionMultiply,
        UNetCrossAttentionMultiply,
        CLIPAttentionMultiply,
        UNetTemporalAttentionMultiply,
    )
