"""What custom nodes import as `comfy.controlnet`: control nets out of files.

Their weights come home as those of any model do, through a `ModelPatcher`; until a run needs them
they stay in their file. Functions are defined here, and called through the module, because packs
replace them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

import comfy.lora
import comfy.model_management
import comfy.ops
import comfy.utils
from comfy import control_files
from comfy.cldm import cldm
from comfy.control_adapter import T2IAdapter
from comfy.controls import (
    ControlBase,
    Residuals,
    StrengthType,
    broadcast_image_to,
    patcher_of,
)
from comfy.file_kinds import UndetectedModel, explain, named_by_path
from comfy.model_building import set_dtypes
from comfy.model_detection import model_config_from_unet_config
from comfy.residency import residency_of
from comfy.state_loading import assign, numbers_from_shapes, origin_of
from comfy.t2i_adapter import adapter

__all__ = [
    "ControlBase",
    "ControlLora",
    "ControlNet",
    "StrengthType",
    "T2IAdapter",
    "broadcast_image_to",
    "load_controlnet",
    "load_controlnet_state_dict",
]

logger = logging.getLogger(__name__)

_SHUFFLE = ("_shuffle", "_shuffle_fp16")
_OUTPUT_SIDE = ("out_channels", "transformer_depth_output", "dtype")
_NETWORK = "diffusion_model."


class ControlNet(ControlBase):
    """A copy of a UNet's input side that is shown a hint.

    Attributes:
        control_model: The network.
        control_model_wrapped: Its patcher; shared by copies.
        load_device: Where it runs.
        manual_cast_dtype: In which it is computed, if not in that of its weights.
        model_sampling_current: Of the controlled model, during a run.
    """

    def __init__(
        self,
        control_model: Any = None,
        global_average_pooling: bool = False,
        compression_ratio: int = 8,
        latent_format: Any = None,
        load_device: torch.device | None = None,
        manual_cast_dtype: torch.dtype | None = None,
        extra_conds: tuple[str, ...] | list[str] = ("y",),
        strength_type: StrengthType = StrengthType.CONSTANT,
        concat_mask: bool = False,
        preprocess_image: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Wrap a network; nothing moves.

        Args:
            control_model: Called as `cldm.ControlNet` is; None for one that is set later.
            global_average_pooling: See `ControlBase`, like all that are not explained here.
            compression_ratio: See there.
            latent_format: See there.
            load_device: See the class.
            manual_cast_dtype: See the class.
            extra_conds: See there.
            strength_type: See there.
            concat_mask: See there.
            preprocess_image: See there.
        """
        super().__init__()
        self.global_average_pooling = global_average_pooling
        self.compression_ratio = compression_ratio
        self.latent_format = latent_format
        self.extra_conds = list(extra_conds)
        self.strength_type = strength_type
        self.concat_mask = concat_mask
        if preprocess_image is not None:
            self.preprocess_image = preprocess_image
        self.load_device = load_device
        self.manual_cast_dtype = manual_cast_dtype
        self.model_sampling_current: Any = None
        self.control_model = control_model
        self.control_model_wrapped: Any = None
        if control_model is not None:
            self.control_model_wrapped = patcher_of(control_model, load_device)

    def copy(self) -> ControlNet:
        """See `ControlBase.copy`."""
        made = ControlNet(load_device=self.load_device, manual_cast_dtype=self.manual_cast_dtype)
        made.control_model = self.control_model
        made.control_model_wrapped = self.control_model_wrapped
        self.copy_to(made)
        return made

    def get_models(self) -> list[Any]:
        """See `ControlBase.get_models`."""
        own = [] if self.control_model_wrapped is None else [self.control_model_wrapped]
        return super().get_models() + own

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """See `ControlBase.pre_run`."""
        super().pre_run(model, percent_to_timestep_function)
        self.model_sampling_current = model.model_sampling

    def cleanup(self) -> None:
        """See `ControlBase.cleanup`."""
        self.model_sampling_current = None
        super().cleanup()

    def _compute_dtype(self) -> torch.dtype:
        kept: torch.dtype | None = self.manual_cast_dtype or self.control_model.dtype
        return next(self.control_model.parameters()).dtype if kept is None else kept

    def residuals(
        self, x_noisy: torch.Tensor, t: torch.Tensor, cond: Mapping[str, Any], batched_number: int
    ) -> Residuals:
        """See `ControlBase.residuals`."""
        place: dict[str, Any] = {"device": x_noisy.device, "dtype": self._compute_dtype()}
        hint = broadcast_image_to(self.resized_hint(x_noisy), x_noisy.shape[0], batched_number)
        context = cond.get("crossattn_controlnet", cond.get("c_crossattn"))
        more = {name: cond[name].to(**place) for name in self.extra_conds if name in cond}
        sampling = self.model_sampling_current
        found: Residuals = self.control_model(
            x=sampling.calculate_input(t, x_noisy).to(**place),
            hint=hint.to(**place),
            timesteps=sampling.timestep(t).float(),
            context=None if context is None else context.to(**place),
            **more,
            **self.extra_args,
        )
        return found


class ControlLora(ControlNet):
    """Changes of low rank that make a control net of whichever UNet is controlled.

    The net is built when a run begins: each of its weights is the UNet's, at home in the UNet's
    file, with the change as a patch of it; what a UNet has not got is in this file.
    """

    def __init__(
        self,
        control_weights: Mapping[str, torch.Tensor],
        global_average_pooling: bool = False,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the file's state dict; nothing is read.

        Args:
            control_weights: ``NAME.up`` and ``NAME.down`` where NAME.weight is changed.
            global_average_pooling: See `ControlBase`.
            model_options: As `load_controlnet`'s.
        """
        super().__init__(global_average_pooling=global_average_pooling)
        self.control_weights = dict(control_weights)
        self.model_options = dict(model_options or {})

    def copy(self) -> ControlLora:
        """See `ControlBase.copy`."""
        made = ControlLora(self.control_weights, model_options=self.model_options)
        self.copy_to(made)
        return made

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """See `ControlBase.pre_run`; builds the network, and loads it, once for all prompts."""
        is_ready = (
            self.control_model is not None and self.model_sampling_current is model.model_sampling
        )
        super().pre_run(model, percent_to_timestep_function)
        if not is_ready:
            self._build(model)

    def _build(self, model: Any) -> None:
        state, changes = _without_ranks(self.control_weights)
        numbers = {**model.model_config.unet_config, **control_files.hint_config(state)}
        self.manual_cast_dtype = model.manual_cast_dtype
        operations = self.model_options.get(
            "custom_operations",
            comfy.ops.pick_operations(model.get_dtype(), model.manual_cast_dtype),
        )
        network = _network(numbers, model.get_dtype(), operations)
        sources = model.current_patcher.get_key_patches(_NETWORK)
        inherited = {}
        for key in network.state_dict():
            source = sources.get(_NETWORK + key)
            if key not in state and source is not None:
                # Another object: moving this one home must not move the UNet's.
                state[key] = source[0][0].detach()
                inherited[key] = source[1:]
        assign(network, state, f"{origin_of(self.control_weights)}: Control-LoRA")
        residency_of(network).weight_dtype = residency_of(model).weight_dtype
        self.control_model = network
        self.control_model_wrapped = patcher_of(network, model.current_patcher.load_device)
        self.control_model_wrapped.patches.update(
            {key: list(patches) for key, patches in inherited.items() if patches}
        )
        self.control_model_wrapped.add_patches(changes)
        comfy.model_management.load_models_gpu([model.current_patcher, self.control_model_wrapped])

    def cleanup(self) -> None:
        """See `ControlBase.cleanup`; lets the network go."""
        if self.control_model_wrapped is not None:
            self.control_model_wrapped.detach()
        self.control_model = self.control_model_wrapped = None
        super().cleanup()


def _without_ranks(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Part a Control-LoRA's tensors in whole ones, and patches made of the others."""
    whole: dict[str, torch.Tensor] = {}
    ranks: dict[str, torch.Tensor] = {}
    targets: dict[str, str] = {}
    for key, tensor in weights.items():
        layer, _, kind = key.rpartition(".")
        if kind in ("up", "down"):
            ranks[f"{layer}.lora_{kind}.weight"] = tensor
            targets[layer] = f"{layer}.weight"
        elif layer:
            whole[key] = tensor
    return whole, comfy.lora.load_lora(ranks, targets)


# -- files ---------------------------------------------------------------------------------------


def _network(numbers: Mapping[str, Any], dtype: Any, operations: Any) -> cldm.ControlNet:
    kept = {key: value for key, value in numbers.items() if key not in _OUTPUT_SIDE}
    return cldm.ControlNet(**kept, dtype=dtype, device="meta", operations=operations).eval()


def load_controlnet(
    ckpt_path: str, model: Any = None, model_options: Mapping[str, Any] | None = None
) -> ControlBase | None:
    """Load a control net; no weight is read.

    Args:
        ckpt_path: A ControlNet of the Stable Diffusion families, a Control-LoRA or a T2I-Adapter.
            One whose name ends in ``_shuffle`` replaces the channels of its residuals by their
            means.
        model: Patcher of the model to which a net of differences is to be added.
        model_options: ``dtype``, ``custom_operations``, ``global_average_pooling``.

    Returns:
        None if the file holds none; an error in the log says what it holds.

    Raises:
        RuntimeError: If it holds one of a kind that cannot be run yet, or an incomplete one.
        LoadError: If the file is damaged.
    """
    options = dict(model_options or {})
    stem = os.path.splitext(os.path.basename(ckpt_path))[0]
    options.setdefault("global_average_pooling", stem.endswith(_SHUFFLE))
    sd = comfy.utils.load_torch_file(ckpt_path, safe_load=True)
    with named_by_path(ckpt_path):
        net = load_controlnet_state_dict(sd, model=model, model_options=options)
    if net is None:
        logger.error("%s", explain(sd, ckpt_path, "a ControlNet"))
    return net


def load_controlnet_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    model: Any = None,
    model_options: Mapping[str, Any] | None = None,
) -> ControlBase | None:
    """Load a control net's state dict; see `load_controlnet`."""
    options = dict(model_options or {})
    pools = bool(options.get("global_average_pooling", False))
    if control_files.is_control_lora(state_dict):
        return ControlLora(state_dict, global_average_pooling=pools, model_options=options)
    with numbers_from_shapes("a ControlNet", UndetectedModel):
        found = control_files.recognise(state_dict)
    if found is None:
        return _load_adapter(state_dict)
    config = model_config_from_unet_config(found.config, found.state)
    if config is None:
        return None
    cast = set_dtypes(config, found.state, "", options)
    dtype = config.unet_config["dtype"]
    operations = config.custom_operations or comfy.ops.pick_operations(
        dtype, config.manual_cast_dtype
    )
    origin = origin_of(state_dict)
    what = f"{origin}: ControlNet"
    with numbers_from_shapes(what):
        network = _network(config.unet_config, dtype, operations)
    assign(network, found.state, what)
    residency_of(network).weight_dtype = cast
    net = ControlNet(
        network, global_average_pooling=pools, manual_cast_dtype=config.manual_cast_dtype
    )
    if found.is_difference:
        _add_model(net, model, origin)
    return net


def _add_model(net: ControlNet, model: Any, origin: str) -> None:
    """Patch a net of differences with the weights, patches included, that it differs from."""
    if model is None:
        logger.warning(
            "%s holds differences to a model's weights: load it with DiffControlNetLoader, which "
            "takes the model; without them it will not do what it was trained for",
            origin,
        )
        return
    sources = model.get_key_patches(_NETWORK)
    net.control_model_wrapped.add_patches(
        {key.removeprefix(_NETWORK): value for key, value in sources.items()}
    )


def _load_adapter(sd: Mapping[str, torch.Tensor]) -> T2IAdapter | None:
    what = f"{origin_of(sd)}: T2I-Adapter"
    with numbers_from_shapes(what):
        found = adapter.recognise(sd)
        if found is None:
            return None
        dtype = comfy.utils.weight_dtype(found.state)
        network = found.build(dtype=dtype, device="meta", operations=comfy.ops.disable_weight_init)
    assign(network, found.state, what)
    net = T2IAdapter(network.eval(), found.channels_in, 8, "nearest-exact")
    net.hint_multiple = found.fold
    return net
