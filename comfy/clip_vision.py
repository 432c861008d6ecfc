"""CLIP's picture encoder: what custom nodes import as `comfy.clip_vision`.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
section 2.4. Weights have the names of the transformers library's
``CLIPVisionModelWithProjection``; sizes are told by their shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch.nn import functional

import comfy.model_management
import comfy.ops
import comfy.utils
from comfy.clip_model import CLIPEncoder
from comfy.file_kinds import UndetectedModel, explain
from comfy.model_patcher import ModelPatcher
from comfy.open_clip_keys import VISION_NAMES
from comfy.state_loading import assign, numbers_from_shapes, origin_of
from comfy.unet_detection import count_blocks

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_PATCHES = "vision_model.embeddings.patch_embedding.weight"
_POSITIONS = "vision_model.embeddings.position_embedding.weight"
_MLP = "vision_model.encoder.layers.0.mlp.fc1.weight"
_SIGLIP = "vision_model.embeddings.patch_embedding.bias"
_OPEN_CLIP = "transformer.resblocks.0.attn.in_proj_weight"
# Wider ones than ViT-L have wider heads, and the exact GELU.
_HEAD_WIDTH = 64
_MOST_HEADS = 16
_WIDEST_OF_OPENAI = 1024


class Output:
    """What the encoder found; its attributes can also be asked for by index.

    Attributes:
        last_hidden_state: [B, 1 + patches, width], of the last layer, not normalized.
        penultimate_hidden_states: The same of the last layer but one.
        image_embeds: [B, projection], of the whole picture.
    """

    last_hidden_state: torch.Tensor
    penultimate_hidden_states: torch.Tensor
    image_embeds: torch.Tensor

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, item: Any) -> None:
        setattr(self, key, item)


def clip_preprocess(
    image: torch.Tensor,
    size: int = 224,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    crop: bool = True,
) -> torch.Tensor:
    """Resize pictures for the encoder, and normalize their channels.

    Args:
        image: [B, H, W, C], 0 to 1; channels after the third are left out.
        size: Side of the result.
        mean: Of each channel.
        std: Of each channel.
        crop: Keep proportions, and cut the longer side around its centre; else squeeze.

    Returns:
        [B, 3, size, size]; values are those of bytes.
    """
    pixels = image[..., :3].movedim(-1, 1)
    height, width = pixels.shape[-2:]
    if (height, width) != (size, size):
        shape = (size, size)
        if crop:
            scale = size / min(height, width)
            shape = (max(size, round(height * scale)), max(size, round(width * scale)))
        pixels = functional.interpolate(pixels, size=shape, mode="bicubic", antialias=True)
        top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
        pixels = pixels[..., top : top + size, left : left + size]
    pixels = (pixels * 255.0).clamp(0.0, 255.0).round() / 255.0
    centre, spread = (torch.tensor(one, device=pixels.device).view(3, 1, 1) for one in (mean, std))
    return (pixels - centre) / spread


class _Embeddings(torch.nn.Module):
    """Vectors of patches and one for the whole, plus vectors of their places."""

    def __init__(self, config: Mapping[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        width, side = config["hidden_size"], config["patch_size"]
        place = {"dtype": dtype, "device": device}
        self.class_embedding = torch.nn.Parameter(torch.empty(width, **place))
        self.patch_embedding = operations.Conv2d(3, width, side, stride=side, bias=False, **place)
        self.position_embedding = operations.Embedding(config["positions"], width, **place)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        whole = self.class_embedding.to(patches).expand(patches.shape[0], 1, -1)
        x = torch.cat([whole, patches], dim=1)
        places = torch.arange(x.shape[1], device=x.device)
        summed: torch.Tensor = x + self.position_embedding(places, out_dtype=x.dtype)
        return summed


class _Tower(torch.nn.Module):
    """The encoder without its projection; state dicts call it ``vision_model``."""

    def __init__(self, config: Mapping[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        self.embeddings = _Embeddings(config, dtype, device, operations)
        # The missing letter is theirs.
        self.pre_layrnorm = operations.LayerNorm(config["hidden_size"], **place)
        self.encoder = CLIPEncoder(config, dtype, device, operations)
        self.post_layernorm = operations.LayerNorm(config["hidden_size"], **place)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.pre_layrnorm(self.embeddings(pixels))
        last, before = self.encoder(x, intermediate_output=-2)
        assert before is not None
        return last, before, self.post_layernorm(last[:, 0])


class CLIPVisionNetwork(torch.nn.Module):
    """CLIP's picture encoder with its projection, if it has one.

    Args:
        config: Of `vision_config`.
        dtype: Of the weights.
        device: Of the weights.
        operations: Makes the layers; see `comfy.ops`.
    """

    def __init__(self, config: Mapping[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        self.vision_model = _Tower(config, dtype, device, operations)
        self.visual_projection = None
        if config["projection_dim"] is not None:
            self.visual_projection = operations.Linear(
                config["hidden_size"],
                config["projection_dim"],
                bias=False,
                dtype=dtype,
                device=device,
            )
        self.dtype = dtype

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encode pictures [B, 3, size, size]; gives what `Output` names, in its order."""
        last, before, pooled = self.vision_model(pixels)
        projected = pooled if self.visual_projection is None else self.visual_projection(pooled)
        return last, before, projected


def vision_config(sd: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Read an encoder's numbers off its tensors' shapes; None if it is none of CLIP's."""
    needed = (_PATCHES, _POSITIONS, _MLP, "vision_model.embeddings.class_embedding")
    if any(key not in sd for key in needed):
        return None
    width, _, side, _ = sd[_PATCHES].shape
    positions = sd[_POSITIONS].shape[0]
    projection = sd.get("visual_projection.weight")
    return {
        "hidden_size": width,
        "patch_size": side,
        "positions": positions,
        "image_size": side * math.isqrt(positions - 1),
        "num_hidden_layers": count_blocks(sd, "vision_model.encoder.layers.{}."),
        "intermediate_size": sd[_MLP].shape[0],
        "num_attention_heads": min(_MOST_HEADS, max(1, width // _HEAD_WIDTH)),
        "hidden_act": "quick_gelu" if width <= _WIDEST_OF_OPENAI else "gelu",
        "projection_dim": None if projection is None else projection.shape[0],
    }


class ClipVisionModel:
    """A picture encoder and its patcher.

    Attributes:
        model: The network.
        patcher: Brings its weights.
        load_device: Where it runs; in float32, whatever its weights are.
        image_size: Side of the pictures that it sees.
        image_mean: See `clip_preprocess`.
        image_std: See there.
    """

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype | None = None) -> None:
        """Build the network without weights.

        Args:
            config: Of `vision_config`.
            dtype: Of the weights that `load_sd` will give it.
        """
        self.load_device = comfy.model_management.text_encoder_device()
        self.dtype = dtype
        self.image_size: int = config["image_size"]
        self.image_mean, self.image_std = list(MEAN), list(STD)
        self.model = CLIPVisionNetwork(config, dtype, "meta", comfy.ops.manual_cast).eval()
        self.patcher = ModelPatcher(
            self.model,
            load_device=self.load_device,
            offload_device=comfy.model_management.text_encoder_offload_device(),
        )

    def load_sd(self, sd: Mapping[str, torch.Tensor]) -> Any:
        """Make tensors the network's own; see `comfy.state_loading.assign`."""
        return assign(self.model, sd, f"{origin_of(sd)}: CLIP vision")

    def get_sd(self) -> dict[str, torch.Tensor]:
        """The network's state dict."""
        state: dict[str, torch.Tensor] = self.model.state_dict()
        return state

    @torch.no_grad()
    def encode_image(self, image: torch.Tensor, crop: bool = True) -> Output:
        """Encode pictures.

        Args:
            image: [B, H, W, C], 0 to 1.
            crop: See `clip_preprocess`.

        Returns:
            On the device for what is between nodes.
        """
        comfy.model_management.load_model_gpu(self.patcher)
        pixels = clip_preprocess(
            image.to(self.load_device).float(),
            size=self.image_size,
            mean=self.image_mean,
            std=self.image_std,
            crop=crop,
        )
        found, to = Output(), comfy.model_management.intermediate_device()
        last, before, embeds = (one.to(to) for one in self.model(pixels))
        found.last_hidden_state, found.penultimate_hidden_states = last, before
        found.image_embeds = embeds
        return found


def _take_transformers_names(state: dict[str, torch.Tensor]) -> None:
    """Rename open_clip's tensors; fused matrices are cut into views."""
    layers = count_blocks(state, "transformer.resblocks.{}.")
    comfy.utils.state_dict_key_replace(state, VISION_NAMES)
    comfy.utils.transformers_convert(state, "", "vision_model.", layers)
    projection = state.pop("proj", None)
    if projection is not None:
        state["visual_projection.weight"] = projection.t()


def load_clipvision_from_sd(
    sd: MutableMapping[str, torch.Tensor], prefix: str = "", convert_keys: bool = False
) -> ClipVisionModel | None:
    """Load an encoder's state dict; no weight is read.

    Args:
        sd: Left as it is.
        prefix: Of the encoder's tensors in it.
        convert_keys: They have open_clip's names.

    Returns:
        None if it is no picture encoder of CLIP's.
    """
    state = comfy.utils.state_dict_prefix_replace(dict(sd), {prefix: ""}, filter_keys=True)
    with numbers_from_shapes(f"{origin_of(sd)}: CLIP vision"):
        if convert_keys:
            _take_transformers_names(state)
        config = vision_config(state)
        if config is None:
            return None
        model = ClipVisionModel(config, comfy.utils.weight_dtype(state))
    model.load_sd(state)
    return model


def load(ckpt_path: str) -> ClipVisionModel:
    """Load a picture encoder; no weight is read.

    Args:
        ckpt_path: Names of transformers, or open_clip's with ``visual.`` before them.

    Raises:
        RuntimeError: If the file holds none that can be run; the message says what it holds.
        LoadError: If the file is damaged.
    """
    sd = comfy.utils.load_torch_file(ckpt_path)
    if _SIGLIP in sd:
        raise UndetectedModel(f"{ckpt_path}: not supported yet: a picture encoder of SigLIP's")
    is_open_clip = f"visual.{_OPEN_CLIP}" in sd
    model = load_clipvision_from_sd(sd, "visual." if is_open_clip else "", is_open_clip)
    if model is None:
        raise UndetectedModel(explain(sd, ckpt_path, "a picture encoder of CLIP's"))
    return model
