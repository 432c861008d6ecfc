"""A diffusion model: its network, what the network predicts, and what it is conditioned on."""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch

import comfy.ops
import comfy.utils
from comfy import conds, model_sampling, predictions
from comfy.inpaint_inputs import inpaint_inputs
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from comfy.state_loading import assign
from comfy.unclip import MERGE_AUGMENTATION, NoiseAugmentation, unclip_vector

logger = logging.getLogger(__name__)

# Values of the first level's width that live at once, per position of the latent: the skips of
# all levels take 6 to 7 widths, a resnet on joined features and the gates of a transformer's
# MLP about 20.
_LIVE_WIDTHS = 32
_USUAL_WIDTH = 320


class ModelType(enum.Enum):
    """What a network predicts, and over which noise levels."""

    EPS = 1
    V_PREDICTION = 2
    V_PREDICTION_EDM = 3
    STABLE_CASCADE = 4
    EDM = 5
    FLOW = 6
    V_PREDICTION_CONTINUOUS = 7
    FLUX = 8
    IMG_TO_IMG = 9
    FLOW_COSMOS = 10


# Noise levels, then prediction.
_SAMPLING: Mapping[ModelType, tuple[type, type]] = {
    ModelType.EPS: (model_sampling.ModelSamplingDiscrete, predictions.EPS),
    ModelType.V_PREDICTION: (model_sampling.ModelSamplingDiscrete, predictions.V_PREDICTION),
    ModelType.V_PREDICTION_EDM: (
        model_sampling.ModelSamplingContinuousEDM,
        predictions.V_PREDICTION,
    ),
    ModelType.STABLE_CASCADE: (model_sampling.StableCascadeSampling, predictions.EPS),
    ModelType.EDM: (model_sampling.ModelSamplingContinuousEDM, predictions.EDM),
    ModelType.FLOW: (model_sampling.ModelSamplingDiscreteFlow, predictions.CONST),
    ModelType.V_PREDICTION_CONTINUOUS: (
        model_sampling.ModelSamplingContinuousV,
        predictions.V_PREDICTION,
    ),
    ModelType.FLUX: (model_sampling.ModelSamplingFlux, predictions.CONST),
    ModelType.IMG_TO_IMG: (model_sampling.ModelSamplingDiscrete, predictions.IMG_TO_IMG),
    ModelType.FLOW_COSMOS: (model_sampling.ModelSamplingCosmosRFlow, predictions.COSMOS_RFLOW),
}


def make_model_sampling(model_config: Any, model_type: ModelType) -> Any:
    """Put together the sampling object of a model: noise levels and prediction in one class."""
    levels, prediction = _SAMPLING[model_type]
    combined = type("ModelSampling", (levels, prediction), {})
    return combined(model_config)


class BaseModel(torch.nn.Module):
    """A network as samplers see it: noisy latent in, denoised latent out.

    Attributes:
        diffusion_model: The network; its parameters have the checkpoint's names.
        model_config: The numbers and names of its family.
        model_sampling: What its output means; see `comfy.model_sampling`.
        latent_format: How its latents differ from the VAE's.
        manual_cast_dtype: In which it is computed, if not in that of its weights.
        adm_channels: Width of the vector y; 0 without.
        concat_keys: What is joined to the latent's channels.
        memory_usage_factor: See `memory_required`.
        device: Where the patcher put it.
        current_patcher: Who has it loaded.
    """

    def __init__(
        self,
        model_config: Any,
        model_type: ModelType = ModelType.EPS,
        device: torch.device | str | None = None,
        unet_model: Any = UNetModel,
    ) -> None:
        """Build the network.

        Args:
            model_config: Of `comfy.supported_models`.
            model_type: What the network predicts.
            device: Of its parameters; `meta` for one that `load_model_weights` fills.
            unet_model: Its class.
        """
        super().__init__()
        config: dict[str, Any] = dict(model_config.unet_config)
        self.model_config = model_config
        self.latent_format = model_config.latent_format
        self.manual_cast_dtype = model_config.manual_cast_dtype
        self.device = device
        self.current_patcher: Any = None
        operations = model_config.custom_operations or comfy.ops.pick_operations(
            config.get("dtype"),
            self.manual_cast_dtype,
            fp8_optimizations=model_config.optimizations.get("fp8", False),
            model_config=model_config,
        )
        self.diffusion_model = unet_model(**config, device=device, operations=operations)
        self.diffusion_model.eval()
        self.model_type = model_type
        self.model_sampling = make_model_sampling(model_config, model_type)
        self.adm_channels: int = config.get("adm_in_channels") or 0
        self.concat_keys: tuple[str, ...] = ()
        self.memory_usage_factor: float = model_config.memory_usage_factor
        logger.info("model type %s", model_type.name)

    # -- one step --------------------------------------------------------------------------------

    def apply_model(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Estimate the denoised latent.

        Args:
            x: Noisy latent, [B, C, H, W].
            t: Noise level sigma of each, [B].
            c_concat: Joined to the latent's channels.
            c_crossattn: Tokens, [B, tokens, width].
            control: Residuals of ControlNets.
            transformer_options: Patches, wrappers and facts of this call.
            **kwargs: What else `extra_conds` named.

        Returns:
            Shape of `x`, float32.
        """
        options = {} if transformer_options is None else transformer_options
        executor = WrapperExecutor.new_class_executor(
            self._apply_model, self, get_all_wrappers(WrappersMP.APPLY_MODEL, options)
        )
        denoised: torch.Tensor = executor.execute(
            x, t, c_concat, c_crossattn, control, options, **kwargs
        )
        return denoised

    def _apply_model(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        dtype = self.get_dtype_inference()
        inputs = self.model_sampling.calculate_input(t, x)
        if c_concat is not None:
            inputs = torch.cat([inputs, c_concat.to(inputs)], dim=1)
        time = self.process_timestep(self.model_sampling.timestep(t).float(), x=x, **kwargs)
        others = {name: _cast(value, x.device, dtype) for name, value in kwargs.items()}
        output = self.diffusion_model(
            inputs.to(dtype),
            time,
            context=_cast(c_crossattn, x.device, dtype),
            control=control,
            transformer_options=transformer_options,
            **others,
        )
        denoised: torch.Tensor = self.model_sampling.calculate_denoised(t, output.float(), x)
        return denoised

    def process_timestep(self, timestep: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Change what the network is told of the time; [B], float32."""
        return timestep

    def get_dtype(self) -> torch.dtype:
        """In which dtype the weights are kept."""
        dtype: torch.dtype | None = self.diffusion_model.dtype
        return next(self.diffusion_model.parameters()).dtype if dtype is None else dtype

    def get_dtype_inference(self) -> torch.dtype:
        """In which dtype the network is computed."""
        return self.manual_cast_dtype or self.get_dtype()

    # -- conditioning ----------------------------------------------------------------------------

    def encode_adm(self, **kwargs: Any) -> torch.Tensor | None:
        """Make the vector y, [B, adm_channels]; None if the network takes none."""
        return None

    def set_inpaint(self) -> None:
        """Give the network mask and picture from now on, as inpainting models want."""
        self.concat_keys = ("mask", "masked_image")

    def concat_cond(self, **kwargs: Any) -> torch.Tensor | None:
        """Make what is joined to the latent's channels, [B, channels, H, W]; None if nothing is."""
        if not self.concat_keys:
            return None
        return inpaint_inputs(kwargs, self.process_latent_in)

    def extra_conds(self, **kwargs: Any) -> dict[str, conds.CONDRegular]:
        """Turn an entry of CONDITIONING into arguments of the network.

        Args:
            **kwargs: The entry's keys, and ``device``, ``noise`` [B, C, H, W], ``width``,
                ``height`` (of the picture), ``latent_image``, ``denoise_mask``, ``seed``.

        Returns:
            Argument of `apply_model` to value.
        """
        found: dict[str, conds.CONDRegular] = {}
        concat = self.concat_cond(**kwargs)
        if concat is not None:
            found["c_concat"] = conds.CONDNoiseShape(concat)
        vector = self.encode_adm(**kwargs)
        if vector is not None:
            found["y"] = conds.CONDRegular(vector)
        tokens = kwargs.get("cross_attn")
        if tokens is not None:
            found["c_crossattn"] = conds.CONDCrossAttn(tokens)
        for_control = kwargs.get("cross_attn_controlnet")
        if for_control is not None:
            found["crossattn_controlnet"] = conds.CONDCrossAttn(for_control)
        return found

    def extra_conds_shapes(self, **kwargs: Any) -> dict[str, list[int]]:
        """Shapes of what `extra_conds` will make, where they cost memory besides."""
        return {}

    # -- latents ---------------------------------------------------------------------------------

    def process_latent_in(self, latent: torch.Tensor) -> torch.Tensor:
        """From the VAE's scale to the network's."""
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent: torch.Tensor) -> torch.Tensor:
        """From the network's scale to the VAE's."""
        return self.latent_format.process_out(latent)

    def scale_latent_inpaint(
        self, sigma: torch.Tensor, noise: torch.Tensor, latent_image: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """Noise the kept part of a picture to the level at which the rest is."""
        return self.model_sampling.noise_scaling(sigma, noise, latent_image)

    def memory_required(
        self,
        input_shape: Sequence[int],
        cond_shapes: Mapping[str, Sequence[Sequence[int]]] | None = None,
    ) -> float:
        """Estimate the bytes of activations of one forward pass.

        Args:
            input_shape: Of the noisy latent.
            cond_shapes: Shapes of conditions by argument; in a UNet they cost next to nothing.
        """
        positions = input_shape[0] * math.prod(input_shape[2:])
        width = self.model_config.unet_config.get("model_channels", _USUAL_WIDTH)
        itemsize = self.get_dtype_inference().itemsize
        return positions * width * itemsize * _LIVE_WIDTHS * self.memory_usage_factor

    # -- weights ---------------------------------------------------------------------------------

    def load_model_weights(
        self,
        sd: MutableMapping[str, torch.Tensor],
        unet_prefix: str = "",
        what: str = "the diffusion model",
    ) -> BaseModel:
        """Take the network's weights out of a state dict; none is read or copied.

        Args:
            sd: The entries under `unet_prefix` are removed from it.
            unet_prefix: Of the network.
            what: Of the file, for messages.

        Raises:
            IncompleteModel: If a weight is missing or of another shape.
        """
        own = comfy.utils.state_dict_prefix_replace(sd, {unet_prefix: ""}, filter_keys=True)
        assign(self.diffusion_model, self.model_config.process_unet_state_dict(own), what)
        return self

    def state_dict_for_saving(
        self,
        unet_state_dict: Any,
        clip_state_dict: Any = None,
        vae_state_dict: Any = None,
        clip_vision_state_dict: Any = None,
    ) -> dict[str, torch.Tensor]:
        """Join what is given to one state dict, under a checkpoint's names."""
        config = self.model_config
        parts = (
            (unet_state_dict, config.process_unet_state_dict_for_saving),
            (clip_state_dict, config.process_clip_state_dict_for_saving),
            (vae_state_dict, config.process_vae_state_dict_for_saving),
            (clip_vision_state_dict, config.process_clip_vision_state_dict_for_saving),
        )
        joined: dict[str, torch.Tensor] = {}
        for tensors, named in parts:
            if tensors is not None:
                joined.update(named(tensors))
        return joined


def _cast(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Bring floats to where and in what the network is computed; leave the rest."""
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, list):
        return [_cast(one, device, dtype) for one in value]
    return value


def _sinusoids(numbers: Sequence[float], dim: int = 256) -> torch.Tensor:
    """Embed numbers one after the other: [1, len(numbers) * dim]."""
    return timestep_embedding(torch.tensor(numbers, dtype=torch.float32), dim).reshape(1, -1)


class SDXL(BaseModel):
    """y = the pooled text (of bigG), and sizes of the picture.

    Source: Podell et al. 2023, "SDXL", section 2.2.
    """

    def _sizes(self, **kwargs: Any) -> list[float]:
        """Height, width, top and left of the crop, height and width of the target, in pixels."""
        width, height = kwargs.get("width", 768), kwargs.get("height", 768)
        return [
            height,
            width,
            kwargs.get("crop_h", 0),
            kwargs.get("crop_w", 0),
            kwargs.get("target_height", height),
            kwargs.get("target_width", width),
        ]

    def encode_adm(self, **kwargs: Any) -> torch.Tensor:
        """See `BaseModel.encode_adm`.

        Raises:
            ValueError: If the conditioning has no pooled text, or one of another width.
        """
        pooled = kwargs.get("pooled_output")
        sizes = _sinusoids(self._sizes(**kwargs))
        wanted = self.adm_channels - sizes.shape[1]
        if pooled is None or pooled.shape[-1] != wanted:
            got = "none" if pooled is None else f"one of width {pooled.shape[-1]}"
            raise ValueError(
                f"{type(self).__name__} needs a pooled text of width {wanted}, the conditioning has "
                f"{got}: use the text encoder that belongs to the model."
            )
        sizes = sizes.to(pooled).expand(pooled.shape[0], -1)
        return torch.cat([pooled, sizes], dim=1)


class SDXLRefiner(SDXL):
    """As SDXL, with an aesthetic score in place of the target's size."""

    def _sizes(self, **kwargs: Any) -> list[float]:
        """Height, width, crop, and the score: by default 6, for the negative prompt 2.5."""
        is_negative = kwargs.get("prompt_type") == "negative"
        score = kwargs.get("aesthetic_score", 2.5 if is_negative else 6.0)
        return [*super()._sizes(**kwargs)[:4], score]


class SD21UNCLIP(BaseModel):
    """y = the pictures in ``unclip_conditioning``; see `comfy.unclip`."""

    noise_augmentor: NoiseAugmentation

    def encode_adm(self, **kwargs: Any) -> torch.Tensor:
        """See `BaseModel.encode_adm`; ``unclip_noise_augment_merge`` noises sums of pictures."""
        return unclip_vector(
            self.noise_augmentor,
            kwargs.get("unclip_conditioning") or (),
            kwargs.get("seed"),
            kwargs.get("unclip_noise_augment_merge", MERGE_AUGMENTATION),
        )
