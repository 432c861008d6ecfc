"""What trainers call a module: for each weight of a model, the names under which LoRA files know it.

One function for each naming school; each yields pairs (name in the file, target). A target is a key
of the model's state dict, or ``(key, (axis, start, length))`` for rows of a fused weight, or
``(key, rows or None, function)`` where values are rearranged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from comfy import key_maps

Names = Iterator[tuple[str, Any]]

UNET_PREFIX = "diffusion_model."
_WEIGHT = ".weight"

LORA_CLIP_MAP = {
    name: name.replace(".", "_")
    for name in (
        "mlp.fc1",
        "mlp.fc2",
        "self_attn.k_proj",
        "self_attn.q_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
    )
}
"""Modules of a CLIP layer that LoRAs train, and their names in kohya's files."""


def _underscored(module: str) -> str:
    return module.replace(".", "_")


# -- diffusion models ----------------------------------------------------------------------------


def native_names(keys: Iterable[str]) -> Names:
    """The model's own names: ``diffusion_model.a.b`` and kohya's ``lora_unet_a_b``."""
    for key in keys:
        if not key.startswith(UNET_PREFIX):
            continue
        if not key.endswith(_WEIGHT):
            yield key, key
            continue
        module = key.removesuffix(_WEIGHT)
        yield module, key
        yield f"lora_unet_{_underscored(module.removeprefix(UNET_PREFIX))}", key


def old_processor_name(module: str) -> str:
    """Name a module as diffusers' attention processors once did.

    ``attn1.to_q`` is ``attn1.processor.to_q``, ``attn1.to_out.0`` is ``attn1.processor.to_out``.
    """
    return module.replace(".to_", ".processor.to_").removesuffix(".0")


def unet_diffusers_names(keys: Collection[str], places: Mapping[str, str]) -> Names:
    """Names after diffusers' modules of a UNet.

    Args:
        keys: Of the model's state dict.
        places: Diffusers key to native key, as `comfy.utils.unet_to_diffusers` gives.
    """
    for diffusers, native in places.items():
        key = UNET_PREFIX + native
        if not diffusers.endswith(_WEIGHT) or key not in keys:
            continue
        module = diffusers.removesuffix(_WEIGHT)
        for prefix in ("lora_unet_", "lycoris_"):
            yield prefix + _underscored(module), key
        for prefix in ("unet.", "base_model.model.", ""):
            yield prefix + module, key
        if ".to_" in module:
            for prefix in ("unet.", ""):
                yield prefix + old_processor_name(module), key


# Value of "image_model" in a network's configuration -> its map from diffusers' keys.
_TRANSFORMERS: dict[str, Callable[[Mapping[str, Any], str], key_maps.KeyMap]] = {
    "flux": key_maps.flux_to_diffusers,
    "chroma": key_maps.flux_to_diffusers,
}


def transformer_names(keys: Collection[str], config: Mapping[str, Any]) -> Names:
    """Names after diffusers' modules of a transformer; none for kinds without a map."""
    kind = config.get("image_model")
    if kind not in _TRANSFORMERS:
        return
    for diffusers, place in _TRANSFORMERS[kind](config, UNET_PREFIX).items():
        key = place if isinstance(place, str) else place[0]
        if not diffusers.endswith(_WEIGHT) or key not in keys:
            continue
        module = diffusers.removesuffix(_WEIGHT)
        for prefix in ("transformer.", "base_model.model.", UNET_PREFIX):
            yield prefix + module, place
        for prefix in ("lora_transformer_", "lycoris_"):
            yield prefix + _underscored(module), place


# -- text encoders -------------------------------------------------------------------------------


def _towers(keys: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Text encoder to pairs (module, key), the module without ``<encoder>.transformer.``."""
    towers: dict[str, list[tuple[str, str]]] = {}
    for key in keys:
        name, _, rest = key.partition(".transformer.")
        if rest.endswith(_WEIGHT):
            towers.setdefault(name, []).append((rest.removesuffix(_WEIGHT), key))
    return towers


def _numbers(tower: str, towers: Collection[str]) -> tuple[list[str], list[str]]:
    """What kohya and diffusers call an encoder, given those beside it: (``te`` forms, prefixes)."""
    if tower in ("clip_l", "clip_h"):
        return ["te", "te1"], ["text_encoder"]
    if tower == "clip_g":
        return (["te2"], ["text_encoder_2"]) if "clip_l" in towers else (["te"], ["text_encoder"])
    if tower == "t5xxl":
        place = 1 + sum(clip in towers for clip in ("clip_l", "clip_g"))
        # Trainers of Flux, where T5 is the second, count it as the third, too.
        kohya = ["te2", "te3"] if place == 2 else [f"te{place}"]
        return kohya, [f"text_encoder_{place}" if place > 1 else "text_encoder"]
    return [], []


def text_encoder_names(keys: Iterable[str]) -> Names:
    """All names of the modules of text encoders.

    Args:
        keys: Of a CLIP's state dict, ``clip_l.transformer.text_model...`` for example.
    """
    keys = list(keys)
    for key in keys:
        if key.endswith(_WEIGHT):
            yield f"text_encoders.{key.removesuffix(_WEIGHT)}", key
    towers = _towers(keys)
    for tower, modules in towers.items():
        kohya, diffusers = _numbers(tower, towers)
        for module, key in modules:
            for number in kohya:
                yield f"lora_{number}_{_underscored(module)}", key
            for prefix in diffusers:
                yield f"{prefix}.{module}", key
