"""Finds node classes in Python files: those that come with the program, and packs of users.

A file that fails is named in the log, and stops no other.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import os
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from comfy import pack_folders

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

logger = logging.getLogger(__name__)

# What a pack may raise without ending the program: all but the user's Ctrl-C.
_FAILURES = (Exception, SystemExit)


@dataclass(frozen=True)
class Registry:
    """What is known of loaded nodes; packs read and write the same dicts.

    Attributes:
        classes: Node classes by name.
        display_names: What pages call them.
        module_dirs: Folder of each pack by its name; by path without extension for single files.
        web_dirs: Folder of scripts for the page, by the name in its address.
    """

    classes: dict[str, Any]
    display_names: dict[str, str]
    module_dirs: dict[str, str]
    web_dirs: dict[str, str]


# -- what comes with the program -------------------------------------------------------------------


async def load_builtin(package: str, folder: str, registry: Registry) -> list[str]:
    """Import every ``nodes_*.py`` of a package, in the order of their names.

    They are modules like others, so that ``from comfy_extras.nodes_mask import MaskComposite``
    gives the class that graphs use.

    Args:
        package: Its name, such as "comfy_extras".
        folder: Where its files are; one that is missing has none.
        registry: Gets the nodes.

    Returns:
        Names of the files that failed.
    """
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    failed = []
    for name in names:
        if name.startswith("nodes_") and name.endswith(".py"):
            module_name = f"{package}.{name[: -len('.py')]}"
            try:
                await _register(importlib.import_module(module_name), registry, (), module_name)
            # None of ours leaves the program, so that an exit is the user's wish.
            except Exception:
                logger.exception("The nodes of %s could not be loaded.", module_name)
                failed.append(name)
    if failed:
        logger.warning(
            "Nodes of these files are missing: %s. The reasons stand above; packages may be missing "
            "that requirements.txt lists.",
            ", ".join(failed),
        )
    return failed


# -- packs -----------------------------------------------------------------------------------------


async def load_packs(registry: Registry) -> list[str]:
    """Load all packs, and log how long each took; names of nodes that are there already stay.

    Args:
        registry: Gets the nodes.

    Returns:
        Paths of the packs that failed.
    """
    builtin = frozenset(registry.classes)
    timings = []
    for path in pack_folders.pack_paths():
        started = time.perf_counter()
        worked = await load_pack(path, registry, builtin)
        timings.append((time.perf_counter() - started, path, worked))
    if timings:
        logger.info("Packs of custom nodes:\n%s", pack_folders.timing_report(timings))
    return [path for _, path, worked in timings if not worked]


async def load_pack(
    path: str,
    registry: Registry,
    ignore: Collection[str] = (),
    module_parent: str = "custom_nodes",
) -> bool:
    """Load one pack.

    Args:
        path: Its folder or ``.py`` file.
        registry: Gets its nodes, its folder and its scripts for the page.
        ignore: Names of nodes that it may not define.
        module_parent: What the nodes' ``RELATIVE_PYTHON_MODULE`` begins with.

    Returns:
        Whether it was loaded; if not, the reason is logged.
    """
    try:
        module = _import_file(path)
        _note_folders(module, path, registry)
        relative_name = f"{module_parent}.{pack_folders.module_name(path)}"
        if await _register(module, registry, ignore, relative_name):
            return True
    except _FAILURES:
        logger.exception("The custom nodes in %s could not be loaded.", path)
        return False
    logger.warning(
        "%s has no nodes: it defines neither NODE_CLASS_MAPPINGS nor comfy_entrypoint.", path
    )
    return False


def _import_file(path: str) -> ModuleType:
    """Run a pack as a module that is known by its path, as packs may have equal names."""
    if os.path.isfile(path):
        name, file = os.path.splitext(path)[0], path
    else:
        name, file = path.replace(".", "_x_"), os.path.join(path, "__init__.py")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded as a Python file.")
    module = importlib.util.module_from_spec(spec)
    # Before it runs: what it imports relatively asks for its parent by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _note_folders(module: ModuleType, path: str, registry: Registry) -> None:
    """Remember where a pack is, and where its scripts for the page are."""
    is_file = os.path.isfile(path)
    name = os.path.splitext(path)[0] if is_file else pack_folders.module_name(path)
    folder = os.path.abspath(os.path.dirname(path) if is_file else path)
    registry.module_dirs[name] = folder
    web_folder = getattr(module, "WEB_DIRECTORY", None)
    if web_folder is not None:
        _note_web_folder(name, os.path.join(folder, web_folder), registry)
    if not is_file:
        _note_project(folder, registry)


def _note_web_folder(name: str, folder: str, registry: Registry) -> None:
    if os.path.isdir(folder):
        registry.web_dirs[name] = os.path.abspath(folder)


def _note_project(folder: str, registry: Registry) -> None:
    """Remember the scripts for the page that a pack's ``pyproject.toml`` names."""
    file = os.path.join(folder, "pyproject.toml")
    if not os.path.isfile(file):
        return
    try:
        with open(file, "rb") as stream:
            project = tomllib.load(stream)
        name = project.get("project", {}).get("name")
        web_folder = project.get("tool", {}).get("comfy", {}).get("web")
        if name and web_folder:
            _note_web_folder(name, os.path.join(folder, web_folder), registry)
    except (OSError, ValueError, AttributeError, TypeError) as err:
        logger.warning("%s cannot be read, so it names no scripts for the page: %s", file, err)


# -- nodes of a module -----------------------------------------------------------------------------


async def _register(
    module: ModuleType, registry: Registry, ignore: Collection[str], relative_name: str
) -> bool:
    """Enter a module's nodes; tell whether it defines any in one of the two ways."""
    found = getattr(module, "NODE_CLASS_MAPPINGS", None)
    if found is not None:
        display_names = dict(getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {})
        classes = dict(found)
    elif getattr(module, "comfy_entrypoint", None) is not None:
        classes, display_names = await _from_entry_point(module, ignore)
    else:
        return False
    taken = [name for name in classes if name in ignore]
    for name, node_class in classes.items():
        if name not in ignore:
            node_class.RELATIVE_PYTHON_MODULE = relative_name
            registry.classes[name] = node_class
    registry.display_names.update(display_names)
    if taken:
        logger.info("%s: names of built-in nodes stay theirs: %s", relative_name, ", ".join(taken))
    return True


async def _from_entry_point(
    module: ModuleType, ignore: Collection[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Node classes and display names of a module of schema-style nodes."""
    extension = await _awaited(module.comfy_entrypoint())
    if not hasattr(extension, "get_node_list"):
        raise TypeError(
            f"comfy_entrypoint of {module.__name__} returned {type(extension).__name__}, "
            "which has no get_node_list. It must return a ComfyExtension."
        )
    if hasattr(extension, "on_load"):
        await _awaited(extension.on_load())
    node_classes = await _awaited(extension.get_node_list())
    if not isinstance(node_classes, list):
        raise TypeError(
            f"get_node_list of {module.__name__} returned {type(node_classes).__name__}. "
            "It must return a list of node classes."
        )
    schemas = [(node_class.GET_SCHEMA(), node_class) for node_class in node_classes]
    display_names = {
        schema.node_id: schema.display_name
        for schema, _ in schemas
        if schema.display_name is not None and schema.node_id not in ignore
    }
    return {schema.node_id: node_class for schema, node_class in schemas}, display_names


async def _awaited(value: Any) -> Any:
    """The value, or what it is when one waits for it."""
    return await value if inspect.isawaitable(value) else value
