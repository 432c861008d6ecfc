"""What weights are called: facts of two public naming schemes, as pairs (native, diffusers).

Native is what checkpoints use; diffusers is what that library's modules, and most adapters, use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

Rearrange = Callable[[torch.Tensor], torch.Tensor]
Pair = tuple[str, str] | tuple[str, str, Rearrange]

KINDS = ("weight", "bias")


def swap_scale_shift(weight: torch.Tensor) -> torch.Tensor:
    """Exchange the halves of the rows: one scheme stores scale first, the other shift."""
    first, second = weight.chunk(2, dim=0)
    return torch.cat([second, first], dim=0)


def both(pairs: Mapping[str, str]) -> set[tuple[str, str]]:
    """Weight and bias of each pair of modules."""
    return {(f"{n}.{kind}", f"{d}.{kind}") for n, d in pairs.items() for kind in KINDS}


UNET_MAP_ATTENTIONS = {
    f"{name}.{kind}" for name in ("proj_in", "proj_out", "norm") for kind in KINDS
}

TRANSFORMER_BLOCKS = {
    *(f"attn{n}.to_{part}.weight" for n in (1, 2) for part in ("q", "k", "v")),
    *(
        f"{name}.{kind}"
        for name in (
            "norm1",
            "norm2",
            "norm3",
            "attn1.to_out.0",
            "attn2.to_out.0",
            "ff.net.0.proj",
            "ff.net.2",
        )
        for kind in KINDS
    ),
}

UNET_MAP_RESNET = dict(
    both(
        {
            "in_layers.0": "norm1",
            "in_layers.2": "conv1",
            "emb_layers.1": "time_emb_proj",
            "out_layers.0": "norm2",
            "out_layers.3": "conv2",
            "skip_connection": "conv_shortcut",
        }
    )
)

UNET_MAP_BASIC: set[tuple[str, str]] = {
    *both(
        {
            "time_embed.0": "time_embedding.linear_1",
            "time_embed.2": "time_embedding.linear_2",
            "input_blocks.0.0": "conv_in",
            "out.0": "conv_norm_out",
            "out.2": "conv_out",
            "label_emb.0.0": "class_embedding.linear_1",
            "label_emb.0.2": "class_embedding.linear_2",
        }
    ),
    *both({"label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2"}),
}

MMDIT_MAP_BASIC: set[Pair] = {
    *both(
        {
            "x_embedder.proj": "pos_embed.proj",
            "context_embedder": "context_embedder",
            "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
            "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
            "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
            "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
            "final_layer.linear": "proj_out",
        }
    ),
    ("pos_embed", "pos_embed.pos_embed"),
    ("final_layer.adaLN_modulation.1.weight", "norm_out.linear.weight", swap_scale_shift),
    ("final_layer.adaLN_modulation.1.bias", "norm_out.linear.bias", swap_scale_shift),
}

MMDIT_MAP_BLOCK: set[Pair] = {
    *both(
        {
            "x_block.adaLN_modulation.1": "norm1.linear",
            "x_block.attn.proj": "attn.to_out.0",
            "x_block.attn2.proj": "attn2.to_out.0",
            "x_block.mlp.fc1": "ff.net.0.proj",
            "x_block.mlp.fc2": "ff.net.2",
            "context_block.adaLN_modulation.1": "norm1_context.linear",
            "context_block.attn.proj": "attn.to_add_out",
            "context_block.mlp.fc1": "ff_context.net.0.proj",
            "context_block.mlp.fc2": "ff_context.net.2",
        }
    ),
    ("x_block.attn.ln_q.weight", "attn.norm_q.weight"),
    ("x_block.attn.ln_k.weight", "attn.norm_k.weight"),
    ("x_block.attn2.ln_q.weight", "attn2.norm_q.weight"),
    ("x_block.attn2.ln_k.weight", "attn2.norm_k.weight"),
    ("context_block.attn.ln_q.weight", "attn.norm_added_q.weight"),
    ("context_block.attn.ln_k.weight", "attn.norm_added_k.weight"),
}

PIXART_MAP_BASIC: set[tuple[str, str]] = {
    *both(
        {
            "x_embedder.proj": "pos_embed.proj",
            "y_embedder.y_proj.fc1": "caption_projection.linear_1",
            "y_embedder.y_proj.fc2": "caption_projection.linear_2",
            "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
            "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
            "csize_embedder.mlp.0": "adaln_single.emb.resolution_embedder.linear_1",
            "csize_embedder.mlp.2": "adaln_single.emb.resolution_embedder.linear_2",
            "ar_embedder.mlp.0": "adaln_single.emb.aspect_ratio_embedder.linear_1",
            "ar_embedder.mlp.2": "adaln_single.emb.aspect_ratio_embedder.linear_2",
            "t_block.1": "adaln_single.linear",
            "final_layer.linear": "proj_out",
        }
    ),
    ("y_embedder.y_embedding", "caption_projection.y_embedding"),
    ("final_layer.scale_shift_table", "scale_shift_table"),
}

PIXART_MAP_BLOCK: set[tuple[str, str]] = {
    *both(
        {
            "attn.proj": "attn1.to_out.0",
            "cross_attn.q_linear": "attn2.to_q",
            "cross_attn.proj": "attn2.to_out.0",
            "mlp.fc1": "ff.net.0.proj",
            "mlp.fc2": "ff.net.2",
        }
    ),
    ("scale_shift_table", "scale_shift_table"),
}

FLUX_BASIC: set[Pair] = {
    *both(
        {
            "img_in": "x_embedder",
            "txt_in": "context_embedder",
            "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
            "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
            "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
            "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
            "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
            "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
            "final_layer.linear": "proj_out",
        }
    ),
    ("final_layer.adaLN_modulation.1.weight", "norm_out.linear.weight", swap_scale_shift),
    ("final_layer.adaLN_modulation.1.bias", "norm_out.linear.bias", swap_scale_shift),
}

FLUX_DOUBLE: set[tuple[str, str]] = {
    *both(
        {
            "img_mod.lin": "norm1.linear",
            "txt_mod.lin": "norm1_context.linear",
            "img_attn.proj": "attn.to_out.0",
            "txt_attn.proj": "attn.to_add_out",
            "img_mlp.0": "ff.net.0.proj",
            "img_mlp.2": "ff.net.2",
            "txt_mlp.0": "ff_context.net.0.proj",
            "txt_mlp.2": "ff_context.net.2",
        }
    ),
    ("img_attn.norm.query_norm.scale", "attn.norm_q.weight"),
    ("img_attn.norm.key_norm.scale", "attn.norm_k.weight"),
    ("txt_attn.norm.query_norm.scale", "attn.norm_added_q.weight"),
    ("txt_attn.norm.key_norm.scale", "attn.norm_added_k.weight"),
}

FLUX_SINGLE: set[tuple[str, str]] = {
    *both({"modulation.lin": "norm.linear", "linear2": "proj_out"}),
    ("norm.query_norm.scale", "attn.norm_q.weight"),
    ("norm.key_norm.scale", "attn.norm_k.weight"),
}

AURAFLOW_BASIC: set[Pair] = {
    *both(
        {
            "init_x_linear": "pos_embed.proj",
            "t_embedder.mlp.0": "time_step_proj.linear_1",
            "t_embedder.mlp.2": "time_step_proj.linear_2",
        }
    ),
    ("positional_encoding", "pos_embed.pos_embed"),
    ("register_tokens", "register_tokens"),
    ("cond_seq_linear.weight", "context_embedder.weight"),
    ("final_linear.weight", "proj_out.weight"),
    ("modF.1.weight", "norm_out.linear.weight", swap_scale_shift),
}

# In a block of both streams w1 and mlpC belong to the text, w2 and mlpX to the image.
AURAFLOW_DOUBLE = {
    "modC.1": "norm1_context.linear",
    "modX.1": "norm1.linear",
    "attn.w1q": "attn.add_q_proj",
    "attn.w1k": "attn.add_k_proj",
    "attn.w1v": "attn.add_v_proj",
    "attn.w1o": "attn.to_add_out",
    "attn.w2q": "attn.to_q",
    "attn.w2k": "attn.to_k",
    "attn.w2v": "attn.to_v",
    "attn.w2o": "attn.to_out.0",
    "mlpC.c_fc1": "ff_context.linear_1",
    "mlpC.c_fc2": "ff_context.linear_2",
    "mlpC.c_proj": "ff_context.out_projection",
    "mlpX.c_fc1": "ff.linear_1",
    "mlpX.c_fc2": "ff.linear_2",
    "mlpX.c_proj": "ff.out_projection",
}
AURAFLOW_SINGLE = {
    "modCX.1": "norm1.linear",
    "attn.w1q": "attn.to_q",
    "attn.w1k": "attn.to_k",
    "attn.w1v": "attn.to_v",
    "attn.w1o": "attn.to_out.0",
    "mlp.c_fc1": "ff.linear_1",
    "mlp.c_fc2": "ff.linear_2",
    "mlp.c_proj": "ff.out_projection",
}

Z_IMAGE_BASIC: set[tuple[str, str]] = {
    *both(
        {
            "x_embedder": "all_x_embedder.2-1",
            "final_layer.linear": "all_final_layer.2-1.linear",
            "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
            "cap_embedder.1": "cap_embedder.1",
            "t_embedder.mlp.0": "t_embedder.mlp.0",
            "t_embedder.mlp.2": "t_embedder.mlp.2",
        }
    ),
    *((name, name) for name in ("cap_embedder.0.weight", "x_pad_token", "cap_pad_token")),
}

Z_IMAGE_BLOCK: set[tuple[str, str]] = {
    *both({"attention.out": "attention.to_out.0", "adaLN_modulation.0": "adaLN_modulation.0"}),
    ("attention.q_norm.weight", "attention.norm_q.weight"),
    ("attention.k_norm.weight", "attention.norm_k.weight"),
    *(
        (f"{name}.weight", f"{name}.weight")
        for name in (
            "attention_norm1",
            "attention_norm2",
            "ffn_norm1",
            "ffn_norm2",
            "feed_forward.w1",
            "feed_forward.w2",
            "feed_forward.w3",
        )
    ),
}
