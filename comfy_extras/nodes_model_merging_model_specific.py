"""Merging two models of one family, each part of its network in a proportion of its own."""

from __future__ import annotations

from typing import Any, ClassVar

from comfy_extras.nodes_model_merging import ModelMergeBlocks, block_ratio


def _row(name: str, count: int) -> tuple[str, ...]:
    """The parts of a row of blocks: `name` has ``{}`` where each has its number."""
    return tuple(name.format(number) for number in range(count))


def _sd3(blocks: int) -> tuple[str, ...]:
    """The parts of a Stable Diffusion 3 with so many joint blocks."""
    embedders = ("pos_embed.", "x_embedder.", "context_embedder.", "y_embedder.", "t_embedder.")
    return (*embedders, *_row("joint_blocks.{}.", blocks), "final_layer.")


class _Parts(ModelMergeBlocks):
    """A merge with one ratio for each part.

    Attributes:
        PARTS: How the names of a part's weights begin; the first one's ratio is also that of
            weights which belong to no part.
    """

    PARTS: ClassVar[tuple[str, ...]] = ()
    CATEGORY = "advanced/model_merging/model_specific"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        parts = {name: block_ratio() for name in cls.PARTS}
        return {"required": {"model1": ("MODEL",), "model2": ("MODEL",), **parts}}


class ModelMergeSD1(_Parts):
    """For Stable Diffusion 1."""

    PARTS = (
        "time_embed.",
        "label_emb.",
        *_row("input_blocks.{}.", 12),
        *_row("middle_block.{}.", 3),
        *_row("output_blocks.{}.", 12),
        "out.",
    )


class ModelMergeSD2(ModelMergeSD1):
    """For Stable Diffusion 2, whose parts have the same names."""


class ModelMergeSDXL(_Parts):
    """For Stable Diffusion XL."""

    PARTS = (
        "time_embed.",
        "label_emb.",
        *_row("input_blocks.{}", 9),
        *_row("middle_block.{}", 3),
        *_row("output_blocks.{}", 9),
        "out.",
    )


class ModelMergeSD3_2B(_Parts):
    """For Stable Diffusion 3, medium."""

    PARTS = _sd3(24)


class ModelMergeAuraflow(_Parts):
    """For AuraFlow."""

    PARTS = (
        "init_x_linear.",
        "positional_encoding",
        "cond_seq_linear.",
        "register_tokens",
        "t_embedder.",
        *_row("double_layers.{}.", 4),
        *_row("single_layers.{}.", 32),
        "modF.",
        "final_linear.",
    )


class ModelMergeFlux1(_Parts):
    """For Flux."""

    PARTS = (
        "img_in.",
        "time_in.",
        "guidance_in",
        "vector_in.",
        "txt_in.",
        *_row("double_blocks.{}.", 19),
        *_row("single_blocks.{}.", 38),
        "final_layer.",
    )


class ModelMergeSD35_Large(_Parts):
    """For Stable Diffusion 3.5, large."""

    PARTS = _sd3(38)


class ModelMergeMochiPreview(_Parts):
    """For Mochi."""

    PARTS = (
        "pos_frequencies.",
        "t_embedder.",
        "t5_y_embedder.",
        "t5_yproj.",
        *_row("blocks.{}.", 48),
        "final_layer.",
    )


class ModelMergeLTXV(_Parts):
    """For LTX-Video."""

    PARTS = (
        "patchify_proj.",
        "adaln_single.",
        "caption_projection.",
        *_row("transformer_blocks.{}.", 28),
        "scale_shift_table",
        "proj_out.",
    )


class ModelMergeCosmos7B(_Parts):
    """For Cosmos, 7B."""

    PARTS = (
        "pos_embedder.",
        "extra_pos_embedder.",
        "x_embedder.",
        "t_embedder.",
        "affline_norm.",
        *_row("blocks.block{}.", 28),
        "final_layer.",
    )


class ModelMergeCosmos14B(_Parts):
    """For Cosmos, 14B."""

    PARTS = (
        "pos_embedder.",
        "extra_pos_embedder.",
        "x_embedder.",
        "t_embedder.",
        "affline_norm.",
        *_row("blocks.block{}.", 36),
        "final_layer.",
    )


class ModelMergeWAN2_1(_Parts):
    """For Wan 2.1."""

    PARTS = (
        "patch_embedding.",
        "time_embedding.",
        "time_projection.",
        "text_embedding.",
        "img_emb.",
        *_row("blocks.{}.", 40),
        "head.",
    )


class ModelMergeCosmosPredict2_2B(_Parts):
    """For Cosmos-Predict2, 2B."""

    PARTS = (
        "pos_embedder.",
        "x_embedder.",
        "t_embedder.",
        "t_embedding_norm.",
        *_row("blocks.{}.", 28),
        "final_layer.",
    )


class ModelMergeCosmosPredict2_14B(_Parts):
    """For Cosmos-Predict2, 14B."""

    PARTS = (
        "pos_embedder.",
        "x_embedder.",
        "t_embedder.",
        "t_embedding_norm.",
        *_row("blocks.{}.", 36),
        "final_layer.",
    )


class ModelMergeQwenImage(_Parts):
    """For Qwen-Image."""

    PARTS = (
        "pos_embeds.",
        "img_in.",
        "txt_norm.",
        "txt_in.",
        "time_text_embed.",
        *_row("transformer_blocks.{}.", 60),
        "proj_out.",
    )


NODE_CLASS_MAPPINGS = {
    "ModelMergeSD1": ModelMergeSD1,
    "ModelMergeSD2": ModelMergeSD2,
    "ModelMergeSDXL": ModelMergeSDXL,
    "ModelMergeSD3_2B": ModelMergeSD3_2B,
    "ModelMergeAuraflow": ModelMergeAuraflow,
    "ModelMergeFlux1": ModelMergeFlux1,
    "ModelMergeSD35_Large": ModelMergeSD35_Large,
    "ModelMergeMochiPreview": ModelMergeMochiPreview,
    "ModelMergeLTXV": ModelMergeLTXV,
    "ModelMergeCosmos7B": ModelMergeCosmos7B,
    "ModelMergeCosmos14B": ModelMergeCosmos14B,
    "ModelMergeWAN2_1": ModelMergeWAN2_1,
    "ModelMergeCosmosPredict2_2B": ModelMergeCosmosPredict2_2B,
    "ModelMergeCosmosPredict2_14B": ModelMergeCosmosPredict2_14B,
    "ModelMergeQwenImage": ModelMergeQwenImage,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
