"""The nodes by name: what graphs are made of, and what packs import and extend."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import torch as torch

import comfy.model_management
import folder_paths as folder_paths
import node_packs
from comfy import pack_folders
from comfy.cli_args import args as args
from comfy_extras.classic import (
    conditioning,
    controlnets,
    gligen,
    image_files,
    images,
    inpainting,
    latent,
    latent_files,
    latent_transforms,
    loaders,
    old_loaders,
    sampling,
    style_models,
    unclip,
    vision,
)
from comfy_extras.classic.sampling import common_ksampler as common_ksampler
from node_helpers import MAX_RESOLUTION as MAX_RESOLUTION

_ROOMS = (
    sampling,
    loaders,
    old_loaders,
    conditioning,
    controlnets,
    gligen,
    latent,
    latent_transforms,
    latent_files,
    inpainting,
    image_files,
    images,
    vision,
    style_models,
    unclip,
)

NODE_CLASS_MAPPINGS: dict[str, type[Any]] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
for _room in _ROOMS:
    NODE_CLASS_MAPPINGS.update(_room.NODE_CLASS_MAPPINGS)
    NODE_DISPLAY_NAME_MAPPINGS.update(_room.NODE_DISPLAY_NAME_MAPPINGS)
# Packs import and subclass the classes as `nodes.KSampler`, too.
globals().update(NODE_CLASS_MAPPINGS)

LOADED_MODULE_DIRS: dict[str, str] = {}
"""Folder of each pack by its name; by path without extension for single files."""

EXTENSION_WEB_DIRS: dict[str, str] = {}
"""Folder of scripts for the page, by the name in its address. Packs add to it."""

_HERE = os.path.dirname(os.path.abspath(__file__))


def before_node_execution() -> None:
    """Stop if the user wants to.

    Raises:
        InterruptProcessingException: They do.
    """
    comfy.model_management.throw_exception_if_processing_interrupted()


def interrupt_processing(value: bool = True) -> None:
    """Ask the run to stop, or take that back."""
    comfy.model_management.interrupt_current_processing(value)


# -- finding nodes ---------------------------------------------------------------------------------


def get_module_name(module_path: str) -> str:
    """What a pack is called: the name of its folder, or of its file without extension."""
    return pack_folders.module_name(module_path)


def _registry() -> node_packs.Registry:
    # Made at each use: packs may put other dicts in place of these.
    return node_packs.Registry(
        NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, LOADED_MODULE_DIRS, EXTENSION_WEB_DIRS
    )


async def load_custom_node(
    module_path: str, ignore: Collection[str] = frozenset(), module_parent: str = "custom_nodes"
) -> bool:
    """Load one pack; see `node_packs.load_pack`.

    Args:
        module_path: Its folder or ``.py`` file.
        ignore: Names of nodes that it may not define.
        module_parent: What the nodes' ``RELATIVE_PYTHON_MODULE`` begins with.

    Returns:
        Whether it was loaded; if not, the reason is logged.
    """
    return await node_packs.load_pack(module_path, _registry(), ignore, module_parent)


async def init_external_custom_nodes() -> list[str]:
    """Load all packs of the user.

    Returns:
        Paths of those that failed.
    """
    return await node_packs.load_packs(_registry())


async def init_builtin_extra_nodes() -> list[str]:
    """Load the nodes in ``comfy_extras``.

    Returns:
        Names of the files that failed.
    """
    folder = os.path.join(_HERE, "comfy_extras")
    return await node_packs.load_builtin("comfy_extras", folder, _registry())


async def init_builtin_api_nodes() -> list[str]:
    """Load the nodes in ``comfy_api_nodes``, which ask services for their results.

    Returns:
        Names of the files that failed.
    """
    folder = os.path.join(_HERE, "comfy_api_nodes")
    return await node_packs.load_builtin("comfy_api_nodes", folder, _registry())


async def init_extra_nodes(init_custom_nodes: bool = True, init_api_nodes: bool = True) -> None:
    """Load all nodes besides the classic ones; what fails is logged.

    Args:
        init_custom_nodes: With the packs of the user.
        init_api_nodes: With nodes that ask services for their results.
    """
    await init_builtin_extra_nodes()
    if init_api_nodes:
        await init_builtin_api_nodes()
    if init_custom_nodes:
        await init_external_custom_nodes()
