"""GLIGEN: what custom nodes import as `comfy.gligen`; things are drawn into boxes.

Li et al. 2023, "GLIGEN: Open-Set Grounded Text-to-Image Generation", section 4. Each box, with its
text, becomes an object token. In every transformer block of the UNet, between its two attentions, a
gated layer lets the picture's tokens attend to the objects'.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

import comfy.model_management
import comfy.ops
import comfy.utils
from comfy.file_kinds import UndetectedModel, explain, named_by_path
from comfy.ldm.modules.grounding import (
    COORDINATES,
    MAX_BOXES,
    GatedSelfAttentionDense,
    Options,
    PositionNet,
)
from comfy.model_detection import UnsupportedFamily
from comfy.model_patcher import ModelPatcher
from comfy.state_loading import assign, numbers_from_shapes, origin_of
from comfy.unet_detection import ENTRY

Box = tuple[torch.Tensor, int, int, int, int]
"""A text's pooled embedding [1, channels]; height, width, top and left in positions of a latent."""

Patch = Callable[[torch.Tensor, Options], torch.Tensor]
"""See ``middle_patch`` in `comfy.ldm.modules.attention`."""

Place = tuple[str, int, int]
"""Side of the UNet, block on that side, transformer block in it."""

_SIDES = ("input", "middle", "output")
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
_POSITIONS = "position_net."
_FIRST = f"{_POSITIONS}linears.0.weight"
_FUSER = re.compile(
    r"(?P<name>(?:(?P<side>input|output)_blocks\.(?P<block>\d+)|middle_block)\.\d+\."
    r"transformer_blocks\.(?P<index>\d+)\.fuser)\."
)


class GligenMismatch(RuntimeError):
    """A GLIGEN was made for another UNet, or for another text encoder, than it is used with."""


class TooManyBoxes(ValueError):
    """A prompt has more boxes than a GLIGEN knows."""


def check_box_count(boxes: Sequence[Any]) -> None:
    """Refuse more boxes than the network was trained with.

    A cut would silently draw a picture without something that was asked for.

    Raises:
        TooManyBoxes: If there are more than `MAX_BOXES`.
    """
    if len(boxes) > MAX_BOXES:
        raise TooManyBoxes(
            f"GLIGEN knows {MAX_BOXES} boxes at most, and this prompt has {len(boxes)}: "
            "remove some GLIGENTextBoxApply nodes."
        )


def _places(keys: Iterable[str]) -> dict[Place, str]:
    """Where gated layers are, and their names, in the order in which a UNet calls them."""
    found: dict[Place, str] = {}
    for key in keys:
        match = _FUSER.match(key)
        if match is not None:
            side = match["side"] or "middle"
            found[side, int(match["block"] or 0), int(match["index"])] = match["name"]
    return dict(sorted(found.items(), key=lambda each: (_SIDES.index(each[0][0]), *each[0][1:])))


def _add(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module where its tensors' names in the file say."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)


class Gligen(nn.Module):
    """A GLIGEN without the UNet that it is for; tensors are named as in that UNet's file.

    Attributes:
        position_net: Makes the object tokens.
        text_width: Channels of a text's embedding.
        origin: The file's name, for messages.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], built: Options, origin: str) -> None:
        """Build it as shapes tell.

        Args:
            shapes: Of all tensors.
            built: See `PositionNet`.
            origin: See the class.

        Raises:
            KeyError: Naming a tensor that tells a size and is missing.
        """
        super().__init__()
        self.origin = origin
        hidden, given = shapes[_FIRST]
        self.text_width = shapes[f"{_POSITIONS}null_positive_feature"][0]
        out = shapes[f"{_POSITIONS}linears.4.weight"][0]
        place = given - self.text_width
        self.position_net = PositionNet(self.text_width, place, hidden, out, built)
        self._names = _places(shapes)
        for name in self._names.values():
            width, objects = shapes[f"{name}.linear.weight"]
            inner = shapes[f"{name}.attn.to_q.weight"][0]
            mult = shapes[f"{name}.ff.net.2.weight"][1] // width
            _add(self, name, GatedSelfAttentionDense(width, objects, inner, mult, built))

    def set_position(
        self, latent_image_shape: Sequence[int], position_params: Sequence[Box], device: Any
    ) -> Patch:
        """Tell where things are.

        Args:
            latent_image_shape: [..., height, width] of what is drawn.
            position_params: The boxes; what is outside of the picture is told as it is.
            device: Where the network runs.

        Returns:
            What to put between the attentions of each transformer block. Raises `GligenMismatch`
            when called by a UNet that this GLIGEN was not made for.

        Raises:
            TooManyBoxes: See `check_box_count`.
            GligenMismatch: If a text is from an encoder of another width.
        """
        check_box_count(position_params)
        height, width = latent_image_shape[-2:]
        place = {"dtype": torch.float32, "device": device}
        rows = [
            (left / width, top / height, (left + wide) / width, (top + tall) / height)
            for _, tall, wide, top, left in position_params
        ]
        corners = torch.tensor(rows, **place).reshape(-1, COORDINATES)
        texts = torch.empty(len(rows), self.text_width, **place)
        for row, (text, *_) in zip(texts, position_params, strict=True):
            if text.shape[-1] != self.text_width:
                raise GligenMismatch(
                    f"{self.origin}: GLIGEN takes texts of {self.text_width} channels, and a box "
                    f"has one of {text.shape[-1]}: connect the text encoder that it was made for."
                )
            row.copy_(text.reshape(self.text_width))
        objects = self.position_net(corners, texts)

        def ground(x: torch.Tensor, extra_options: Options) -> torch.Tensor:
            layer = self._layer(extra_options, x.shape[-1])
            grounded: torch.Tensor = layer(x, objects.to(x), extra_options)
            return grounded

        return ground

    def _layer(self, options: Options, channels: int) -> nn.Module:
        """The layer for the transformer block that calls."""
        place = (*options["block"], options.get("block_index", 0))
        name = self._names.get(place)
        layer = None if name is None else self.get_submodule(name)
        if layer is None or layer.width != channels:
            here = "none" if layer is None else f"one of {layer.width} channels"
            raise GligenMismatch(
                f"{self.origin}: this GLIGEN was made for another model: at {place} the model has "
                f"a transformer block of {channels} channels, and the GLIGEN {here}. Use it with a "
                "model of the family that it was trained on."
            )
        return layer


# -- files ---------------------------------------------------------------------------------------


def _own_tensors(sd: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """A GLIGEN's tensors, without those of the UNet that may be with it; None if there is none."""
    # As its trainer saves it, beside an optimizer and other models.
    trained = sd.get("model")
    if isinstance(trained, Mapping):
        sd = trained
    prefix = next((p for p in _PREFIXES if any(key.startswith(p + _POSITIONS) for key in sd)), None)
    if prefix is None:
        return None
    state = comfy.utils.state_dict_prefix_replace(dict(sd), {prefix: ""}, filter_keys=True)
    if not _places(state):
        return None
    if _FIRST not in state:
        first = next(key for key in state if key.startswith(_POSITIONS))
        raise UnsupportedFamily(
            f"not supported yet: a GLIGEN grounded by other things than text (found '{first}')"
        )
    if ENTRY in state:
        state = {
            key: tensor
            for key, tensor in state.items()
            if key.startswith(_POSITIONS) or _FUSER.match(key)
        }
    return state


def load_gligen(sd: Mapping[str, Any], origin: str = "") -> Gligen | None:
    """Load a GLIGEN's state dict; no weight is read.

    Args:
        sd: Names as in a checkpoint, with its prefix or without; with the UNet or without; or a
            dict that has this as "model".
        origin: The file's name, for messages; if empty, what the tensors know of it.

    Returns:
        None if there is none.

    Raises:
        UnsupportedFamily: If it is grounded by other things than text.
        IncompleteModel: If tensors are missing, or a shape is none that it can have.
    """
    state = _own_tensors(sd)
    if state is None:
        return None
    origin = origin or origin_of(state)
    built = {
        "operations": comfy.ops.manual_cast,
        "dtype": comfy.utils.weight_dtype(state),
        "device": "meta",
    }
    what = f"{origin}: GLIGEN"
    with numbers_from_shapes(what):
        network = Gligen({key: tensor.shape for key, tensor in state.items()}, built, origin)
    assign(network, state, what)
    return network.eval()


def load(ckpt_path: str) -> ModelPatcher:
    """Load a GLIGEN out of a file; see `comfy.sd.load_gligen`."""
    sd = comfy.utils.load_torch_file(ckpt_path, safe_load=True)
    with named_by_path(ckpt_path):
        network = load_gligen(sd, os.path.basename(ckpt_path))
    if network is None:
        raise UndetectedModel(explain(sd, ckpt_path, "a GLIGEN"))
    return ModelPatcher(
        network,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
