"""The autoencoder's weights under diffusers' names, brought to those of checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

ENTRY = "decoder.up_blocks.0.resnets.0.norm1.weight"
"""In every autoencoder under diffusers' names, and in no other."""

_RENAMES = (
    (r"^(en|de)coder\.mid_block\.attentions\.0\.", r"\1coder.mid.attn_1."),
    (r"^(en|de)coder\.mid_block\.resnets\.0\.", r"\1coder.mid.block_1."),
    (r"^(en|de)coder\.mid_block\.resnets\.1\.", r"\1coder.mid.block_2."),
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"^decoder\.up_blocks\.(\d+)\.resnets\.", r"decoder.up.\1.block."),
    (r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0\.", r"decoder.up.\1.upsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.attn_1\.group_norm\.", ".attn_1.norm."),
    (r"\.attn_1\.(?:to_q|query)\.", ".attn_1.q."),
    (r"\.attn_1\.(?:to_k|key)\.", ".attn_1.k."),
    (r"\.attn_1\.(?:to_v|value)\.", ".attn_1.v."),
    (r"\.attn_1\.(?:to_out\.0|proj_attn)\.", ".attn_1.proj_out."),
)


def _renamed(key: str, levels: int) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    # Here levels of the decoder are counted from the image's side, there from the latent's.
    return re.sub(r"^decoder\.up\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", key)


def autoencoder_from_diffusers(sd: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename, and give the attention's linear layers the shape of 1x1 convolutions.

    Args:
        sd: All weights of the autoencoder, without prefix; not changed.

    Returns:
        The same tensors, or views of them.
    """
    levels = len({m[0] for key in sd if (m := re.match(r"decoder\.up_blocks\.\d+", key))})
    result = {}
    for key, tensor in sd.items():
        name = _renamed(key, levels)
        if ".attn_1." in name and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]
        result[name] = tensor
    return result
