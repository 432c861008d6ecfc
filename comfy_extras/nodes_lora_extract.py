"""Extracting a LoRA from the difference of two models, as the merge nodes make it.

Source of the approximation: Eckart and Young 1936: of all matrices of rank r, that of the r largest
singular values is nearest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch

from comfy.loading import DeferredTensor
from comfy.merged_weights import merged_weight
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.model_files import output_file, write_file

logger = logging.getLogger(__name__)

_NETWORK = "diffusion_model."
_TEXT = "text_encoders."
_DTYPE = torch.float16
# Columns that are squared at once in float64.
_COLUMNS = 2048

Compute = Callable[[], torch.Tensor]
Factors = tuple[torch.Tensor, torch.Tensor]


def low_rank(matrix: torch.Tensor, rank: int) -> Factors:
    """Approximate a matrix by a product.

    The singular vectors of the shorter side are the eigenvectors of its Gram matrix, which is far
    cheaper than the whole decomposition, and in float64 as exact as float32 needs.

    Args:
        matrix: (m, n), float32.
        rank: Not more than m and n.

    Returns:
        Up (m, rank) and down (rank, n), float32, with ``up @ down`` nearest to the matrix. Both
        have the roots of the singular values, so that half precision holds both alike.
    """
    is_wide = matrix.shape[0] <= matrix.shape[1]
    wide = matrix if is_wide else matrix.t()
    vectors = _eigenvectors(_gram(wide))[:, -rank:].to(wide)
    projected = vectors.t() @ wide
    root = torch.linalg.vector_norm(projected, dim=1, keepdim=True).sqrt()
    short, long = vectors * root.t(), torch.where(root > 0, projected / root, 0.0)
    return (short, long) if is_wide else (long.t(), short.t())


def _gram(wide: torch.Tensor) -> torch.Tensor:
    """``wide @ wide.T`` in float64, where the device has that."""
    device = torch.device("cpu") if wide.device.type == "mps" else wide.device
    gram = torch.zeros(wide.shape[0], wide.shape[0], dtype=torch.float64, device=device)
    for part in wide.split(_COLUMNS, dim=1):
        exact = part.to(device=device, dtype=torch.float64)
        gram.addmm_(exact, exact.t())
    return gram


def _eigenvectors(symmetric: torch.Tensor) -> torch.Tensor:
    """In the order of their values, ascending."""
    vectors: torch.Tensor = torch.linalg.eigh(symmetric).eigenvectors
    return vectors


class _Both:
    """Both factors of one weight: computed for the one that is written first, dropped with the other."""

    def __init__(self, compute: Compute, rank: int) -> None:
        self._compute = compute
        self._rank = rank
        self._kept: Factors | None = None

    def take(self, index: int) -> torch.Tensor:
        kept, self._kept = self._kept, None
        if kept is None:
            kept = self._kept = low_rank(self._compute().flatten(1), self._rank)
        return kept[index]


def _promise(shape: tuple[int, ...], compute: Compute) -> torch.Tensor:
    def parts() -> Iterator[torch.Tensor]:
        yield compute().reshape(shape).to(_DTYPE)

    return DeferredTensor(torch.empty(shape, dtype=_DTYPE, device="meta"), parts)


def _factors_of(name: str, shape: torch.Size, compute: Compute, rank: int) -> dict[str, Any]:
    """The LoRA of one weight; a convolution's kernel is in its lower factor."""
    columns = shape[1:].numel()
    rank = min(rank, shape[0], columns)
    both = _Both(compute, rank)
    ones = (1,) * (len(shape) - 2)
    return {
        f"{name}.lora_up.weight": _promise((shape[0], rank, *ones), lambda: both.take(0)),
        f"{name}.lora_down.weight": _promise((rank, *shape[1:]), lambda: both.take(1)),
    }


def differences(
    patcher: Any, prefix: str, new_prefix: str, rank: int | None, has_small: bool
) -> dict[str, torch.Tensor]:
    """Promise the tensors of a LoRA file; nothing is computed before it is written.

    Args:
        patcher: Whose weights are a difference of two models.
        prefix: Of the weights that count.
        new_prefix: Of their names in the file.
        rank: Of the factors; None keeps each difference as it is.
        has_small: Also keep biases, and weights of one axis such as a norm's.
    """
    found: dict[str, torch.Tensor] = {}
    for key, group in patcher.get_key_patches(prefix or None).items():
        module, _, kind = key.rpartition(".")
        shape = group[0][0].shape
        if kind not in ("weight", "bias") or not shape.numel():
            continue
        name = new_prefix + module.removeprefix(prefix)

        def compute(key: str = key, group: Any = group) -> torch.Tensor:
            return merged_weight(patcher, key, group)

        if len(shape) < 2:
            if has_small:
                suffix = "diff" if kind == "weight" else "diff_b"
                found[f"{name}.{suffix}"] = _promise(tuple(shape), compute)
        elif rank is None:
            found[f"{name}.diff"] = _promise(tuple(shape), compute)
        else:
            found.update(_factors_of(name, shape, compute, rank))
    return found


class LoraSave(io.ComfyNode):
    """Saves the difference of two models as a LoRA."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="LoraSave",
            display_name="Extract and Save Lora",
            category="_for_testing",
            inputs=[
                io.String.Input("filename_prefix", default="loras/ComfyUI_extracted_lora"),
                io.Int.Input("rank", default=8, min=1, max=4096, step=1),
                io.Combo.Input("lora_type", options=["standard", "full_diff"]),
                io.Boolean.Input("bias_diff", default=True),
                io.Model.Input(
                    "model_diff",
                    optional=True,
                    tooltip="What ModelMergeSubtract gives: this LoRA turns one model into the other.",
                ),
                io.Clip.Input(
                    "text_encoder_diff",
                    optional=True,
                    tooltip="What CLIPMergeSubtract gives.",
                ),
            ],
            outputs=[],
            is_output_node=True,
            is_experimental=True,
        )

    @classmethod
    def execute(
        cls,
        filename_prefix: str,
        rank: int,
        lora_type: str,
        bias_diff: bool,
        model_diff: Any = None,
        text_encoder_diff: Any = None,
    ) -> Any:
        """Write a file that *Load LoRA* reads."""
        kept = None if lora_type == "full_diff" else rank
        tensors: dict[str, torch.Tensor] = {}
        if model_diff is not None:
            tensors.update(differences(model_diff, _NETWORK, _NETWORK, kept, bias_diff))
        if text_encoder_diff is not None:
            tensors.update(differences(text_encoder_diff.patcher, "", _TEXT, kept, bias_diff))
        if not tensors:
            logger.warning("LoraSave saved nothing: connect model_diff or text_encoder_diff")
            return io.NodeOutput()
        path, _ = output_file(filename_prefix)
        write_file(path, tensors, None)
        return io.NodeOutput()

    save = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(LoraSave)
