"""Changes of the options dict that goes with a model through sampling; each copies what it changes.

``{"transformer_options": {...}, ...}``: functions that replace steps of sampling lie on the first
level, patches of the network in ``transformer_options``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.patcher_extension

Options = dict[str, Any]


def create_model_options_clone(orig_model_options: Options) -> Options:
    """Copy every dict and list in the options; functions and objects are shared."""
    return comfy.patcher_extension.copy_nested_dicts(orig_model_options)


def set_model_options_patch_replace(
    model_options: Options,
    patch: Any,
    name: str,
    block_name: str,
    number: int,
    transformer_index: int | None = None,
) -> Options:
    """Let `patch` stand for one part of one block.

    Args:
        model_options: Changed in place; the dicts in it are copied first.
        patch: As the part's own signature.
        name: Of the part, such as "attn1" or "dit".
        block_name: "input", "middle" or "output", or a DiT's name of its blocks.
        number: Of the block.
        transformer_index: Of the transformer block in it; None for all.

    Returns:
        `model_options`.
    """
    options = dict(model_options.get("transformer_options", {}))
    replaced = dict(options.get("patches_replace", {}))
    mine = dict(replaced.get(name, {}))
    block: tuple[Any, ...] = (block_name, number)
    mine[block if transformer_index is None else (*block, transformer_index)] = patch
    replaced[name] = mine
    options["patches_replace"] = replaced
    model_options["transformer_options"] = options
    return model_options


def set_model_options_patch(model_options: Options, patch: Any, name: str) -> Options:
    """Add a patch to those that run at one point of the network.

    Args:
        model_options: Changed in place; the dicts and lists in it are copied first.
        patch: As the point's own signature.
        name: Of the point, such as "attn1_patch".

    Returns:
        `model_options`.
    """
    options = dict(model_options.get("transformer_options", {}))
    patches = dict(options.get("patches", {}))
    patches[name] = [*patches.get(name, ()), patch]
    options["patches"] = patches
    model_options["transformer_options"] = options
    return model_options


def _append(
    model_options: Options, name: str, function: Callable[..., Any], no_shortcut: bool
) -> Options:
    model_options[name] = [*model_options.get(name, ()), function]
    if no_shortcut:
        model_options["disable_cfg1_optimization"] = True
    return model_options


def set_model_options_post_cfg_function(
    model_options: Options,
    post_cfg_function: Callable[..., Any],
    disable_cfg1_optimization: bool = False,
) -> Options:
    """Add a function that changes the result of guidance; they run in order.

    Args:
        model_options: Changed in place.
        post_cfg_function: Called with one dict; gives the denoised latent.
        disable_cfg1_optimization: Compute the negative prompt also where its weight is zero.

    Returns:
        `model_options`.
    """
    name = "sampler_post_cfg_function"
    return _append(model_options, name, post_cfg_function, disable_cfg1_optimization)


def set_model_options_pre_cfg_function(
    model_options: Options,
    pre_cfg_function: Callable[..., Any],
    disable_cfg1_optimization: bool = False,
) -> Options:
    """Add a function that changes the predictions before guidance; they run in order.

    Args:
        model_options: Changed in place.
        pre_cfg_function: Called with one dict; gives the list of predictions.
        disable_cfg1_optimization: Compute the negative prompt also where its weight is zero.

    Returns:
        `model_options`.
    """
    name = "sampler_pre_cfg_function"
    return _append(model_options, name, pre_cfg_function, disable_cfg1_optimization)
