"""Filling a module that was built on `meta` with a state dict, and telling what does not fit.

Tensors are assigned, not copied: a weight that is in its file stays there, in its file's dtype.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from comfy.loading import source_of

logger = logging.getLogger(__name__)

_SHOWN = 5

# Carry no information that a model needs: counters of trainers, caches, heads of other tasks.
_HARMLESS = re.compile(
    r"(^|\.)("
    r"position_ids|logit_scale|lm_head\.weight|denoiser\.sigmas|"
    r"betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod|"
    r"sqrt_recip(m1)?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])|"
    r"(model_ema|loss)\..*"
    r")$"
)


class IncompleteModel(RuntimeError):
    """A state dict lacks tensors without which the model cannot run, or has them in other shapes."""


@dataclass(frozen=True)
class Misfits:
    """What did not fit.

    Attributes:
        missing: Keys of the module that the state dict lacks.
        unexpected: Keys of the state dict that the module lacks, harmless ones left out.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def origin_of(state_dict: Mapping[str, Any]) -> str:
    """The name of the file that a state dict comes from; "the state dict" if it comes from none."""
    for tensor in state_dict.values():
        source = source_of(tensor) if isinstance(tensor, torch.Tensor) else None
        if source is not None:
            return os.path.basename(source.file.path)
    return "the state dict"


def is_harmless(key: str) -> bool:
    """Whether a surplus tensor of this name is known to mean nothing."""
    return _HARMLESS.search(key) is not None


def summarised(keys: Iterable[str]) -> str:
    """Name the first few keys and count the others."""
    keys = list(keys)
    shown = ", ".join(f"'{key}'" for key in keys[:_SHOWN])
    rest = len(keys) - _SHOWN
    return shown if rest <= 0 else f"{shown} and {rest} more"


@contextlib.contextmanager
def numbers_from_shapes(
    what: str, error: type[RuntimeError] = IncompleteModel, prefix: str = ""
) -> Iterator[None]:
    """Take numbers off shapes inside: what a damaged file does to that is told with its name.

    Args:
        what: Of the model and its file, for messages.
        error: To raise if a tensor is missing, or has a shape that it cannot have.
        prefix: Before the names of the tensors.
    """
    try:
        yield
    except KeyError as err:
        raise error(f"{what} is incomplete: missing '{prefix}{err.args[0]}'") from err
    except (ArithmeticError, LookupError, ValueError) as err:
        raise error(
            f"{what} is damaged: a tensor's shape is none that it can have ({err})"
        ) from err


def assign(
    module: torch.nn.Module, state_dict: Mapping[str, Any], what: str, *, optional: str = ""
) -> Misfits:
    """Make the tensors of `state_dict` the module's own; report misfits by name.

    Args:
        module: Built on `meta`, or anywhere: no byte is copied to it.
        state_dict: Keys as the module has them; dtypes may differ.
        what: Of the model and its file, for messages.
        optional: Regular expression of keys that may be missing without a word.

    Returns:
        What is missing and what was left over. Leftovers are logged as a warning.

    Raises:
        IncompleteModel: If a tensor is missing, so that the module has no bytes for it, or has
            another shape. What is missing and already has bytes is logged as a warning.
    """
    try:
        result = module.load_state_dict(dict(state_dict), strict=False, assign=True)
    except RuntimeError as err:
        raise IncompleteModel(f"{what} does not fit its own layout: {err}") from err
    allowed = re.compile(optional) if optional else None
    missing = [key for key in result.missing_keys if not (allowed and allowed.search(key))]
    unexpected = [key for key in result.unexpected_keys if not is_harmless(key)]
    if unexpected:
        logger.warning("%s: left over and not used: %s", what, summarised(unexpected))
    without_bytes = [key for key in missing if _is_on_meta(module, key)]
    if without_bytes:
        raise IncompleteModel(
            f"{what} is incomplete: missing {summarised(without_bytes)}. "
            "The file was cut down or is of another family."
        )
    if missing:
        logger.warning("%s: missing: %s", what, summarised(missing))
    return Misfits(tuple(missing), tuple(unexpected))


def _is_on_meta(module: torch.nn.Module, key: str) -> bool:
    place, _, name = key.rpartition(".")
    tensor = getattr(module.get_submodule(place), name, None)
    return isinstance(tensor, torch.Tensor) and tensor.device.type == "meta"
