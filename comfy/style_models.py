"""Style models: from a picture, as a CLIP vision encoder sees it, to tokens that join a prompt's.

Two kinds. The style adapter of Mou et al. 2023, "T2I-Adapter", section 3.3: learnt tokens that
attend to the picture's in a few layers, and are projected to the width of the text. And Flux
Redux: two linear layers on each of the picture's tokens. Sizes are told by their shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

import comfy.model_management
import comfy.ops
import comfy.utils
from comfy.clip_model import CLIPEncoder
from comfy.file_kinds import UndetectedModel, explain
from comfy.model_patcher import ModelPatcher
from comfy.state_loading import assign, numbers_from_shapes
from comfy.unet_detection import count_blocks

_HEADS = 8
# The missing letter is theirs.
_THEIR_LAYERS = "transformer_layes."


class StyleAdapter(torch.nn.Module):
    """Learnt tokens that gather a picture's style.

    Args:
        config: ``width`` and ``tokens`` (how many are learnt), ``context`` (width of the result),
            ``layers``, ``inner`` (width inside of a layer).
        dtype: Of the weights.
        device: Of the weights.
        operations: Makes the layers; see `comfy.ops`.
    """

    def __init__(self, config: Mapping[str, int], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        width, place = config["width"], {"dtype": dtype, "device": device}
        self.width = width
        empty = torch.empty
        self.style_embedding = torch.nn.Parameter(empty(1, config["tokens"], width, **place))
        self.proj = torch.nn.Parameter(empty(width, config["context"], **place))
        self.ln_pre = operations.LayerNorm(width, **place)
        self.ln_post = operations.LayerNorm(width, **place)
        layers = {
            "hidden_size": width,
            "intermediate_size": config["inner"],
            "num_hidden_layers": config["layers"],
            "num_attention_heads": _HEADS,
            "hidden_act": "quick_gelu",
        }
        self.encoder = CLIPEncoder(layers, dtype, device, operations)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """From a picture's tokens [B, patches, width] to [B, tokens, context]."""
        own = self.style_embedding.to(seen).expand(seen.shape[0], -1, -1)
        x, _ = self.encoder(self.ln_pre(torch.cat([seen, own], dim=1)))
        gathered: torch.Tensor = self.ln_post(x[:, -own.shape[1] :])
        return gathered @ self.proj.to(gathered)


class Redux(torch.nn.Module):
    """Each of a picture's tokens, brought to the width of the text.

    Args:
        config: ``width``, ``inner`` and ``context`` (width of the result).
        dtype: Of the weights.
        device: Of the weights.
        operations: Makes the layers; see `comfy.ops`.
    """

    def __init__(self, config: Mapping[str, int], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        self.width = config["width"]
        self.redux_up = operations.Linear(self.width, config["inner"], **place)
        self.redux_down = operations.Linear(config["inner"], config["context"], **place)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """From a picture's tokens [B, patches, width] to [B, patches, context]."""
        brought: torch.Tensor = self.redux_down(torch.nn.functional.silu(self.redux_up(seen)))
        return brought


# -- files ---------------------------------------------------------------------------------------

StateDict = dict[str, torch.Tensor]


def _adapter_config(sd: StateDict) -> dict[str, int]:
    tokens, width = sd["style_embedding"].shape[-2:]
    return {
        "width": width,
        "tokens": tokens,
        "context": sd["proj"].shape[1],
        "layers": count_blocks(sd, _THEIR_LAYERS + "{}."),
        "inner": sd[_THEIR_LAYERS + "0.mlp.c_fc.weight"].shape[0],
    }


def _adapter_names(sd: StateDict) -> StateDict:
    """Give the layers transformers' names; fused matrices are cut into views."""
    layers = count_blocks(sd, _THEIR_LAYERS + "{}.")
    named = comfy.utils.state_dict_prefix_replace(
        dict(sd), {_THEIR_LAYERS: "transformer.resblocks."}
    )
    return comfy.utils.transformers_convert(named, "", "", layers)


def _redux_config(sd: StateDict) -> dict[str, int]:
    inner, width = sd["redux_up.weight"].shape
    return {"width": width, "inner": inner, "context": sd["redux_down.weight"].shape[0]}


@dataclass(frozen=True)
class _Kind:
    """A row of the table.

    Attributes:
        mark: A key that only this kind has.
        network: Its class.
        read_config: Takes its sizes off the shapes.
        named: Gives its tensors the network's names.
    """

    mark: str
    network: Callable[..., torch.nn.Module]
    read_config: Callable[[StateDict], dict[str, int]]
    named: Callable[[StateDict], StateDict]


_KINDS = (
    _Kind("style_embedding", StyleAdapter, _adapter_config, _adapter_names),
    _Kind("redux_up.weight", Redux, _redux_config, dict),
)


class StyleModel:
    """A style model and its patcher.

    Attributes:
        model: The network.
        patcher: Brings its weights.
        load_device: Where it runs; in float32, whatever its weights are.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model.eval()
        self.load_device = comfy.model_management.text_encoder_device()
        self.patcher = ModelPatcher(
            self.model,
            load_device=self.load_device,
            offload_device=comfy.model_management.text_encoder_offload_device(),
        )

    @torch.no_grad()
    def get_cond(self, input: Any) -> torch.Tensor:
        """Make tokens for a prompt.

        Args:
            input: What a CLIP vision encoder found; see `comfy.clip_vision.Output`.

        Returns:
            [B, tokens, width of the text], float32, on the device for what is between nodes.

        Raises:
            ValueError: If the encoder is none of those that the style model was trained with.
        """
        seen = input.last_hidden_state
        if seen.shape[-1] != self.model.width:
            raise ValueError(
                f"The style model takes pictures encoded to tokens of width {self.model.width}, "
                f"these have {seen.shape[-1]}: use the CLIP vision encoder that belongs to it."
            )
        comfy.model_management.load_model_gpu(self.patcher)
        tokens: torch.Tensor = self.model(seen.to(self.load_device).float())
        return tokens.to(comfy.model_management.intermediate_device())


def load(ckpt_path: str) -> StyleModel:
    """Load a style model; no weight is read.

    Args:
        ckpt_path: A T2I style adapter, or Flux Redux.

    Raises:
        RuntimeError: If the file holds none, or an incomplete one; the message says what it holds.
        LoadError: If the file is damaged.
    """
    sd = comfy.utils.load_torch_file(ckpt_path, safe_load=True)
    kind = next((one for one in _KINDS if one.mark in sd), None)
    if kind is None:
        raise UndetectedModel(explain(sd, ckpt_path, "a style model"))
    what = f"{ckpt_path}: style model"
    with numbers_from_shapes(what):
        config = kind.read_config(sd)
        network = kind.network(config, comfy.utils.weight_dtype(sd), "meta", comfy.ops.manual_cast)
        state = kind.named(sd)
    assign(network, state, what)
    return StyleModel(network)
