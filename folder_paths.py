"""Where files are: the folders of models, inputs and outputs, and the names in them.

Nothing but paths. Custom nodes assign to this module's variables; functions read them at each call.
"""

from __future__ import annotations

import logging
import mimetypes
import os
import time
from collections.abc import Collection
from typing import Any, Literal

from comfy import file_listing, output_names
from comfy.cli_args import args
from comfy.file_listing import CacheHelper, Listing

logger = logging.getLogger(__name__)

supported_pt_extensions: set[str] = {
    ".ckpt",
    ".pt",
    ".pt2",
    ".bin",
    ".pth",
    ".safetensors",
    ".pkl",
    ".sft",
}

_HERE = os.path.dirname(os.path.realpath(__file__))
base_path = os.path.abspath(args.base_directory) if args.base_directory else _HERE
models_dir = os.path.join(base_path, "models")

output_directory = os.path.join(base_path, "output")
temp_directory = os.path.join(base_path, "temp")
input_directory = os.path.join(base_path, "input")
user_directory = os.path.join(base_path, "user")

SYSTEM_USER_PREFIX = "__"
"""Folders of users that begin so hold the program's own data, and no page may see them."""

# Key -> folders below models/ in which it is looked for, in this order.
_MODELS = {
    "checkpoints": ("checkpoints",),
    "loras": ("loras",),
    "vae": ("vae",),
    "text_encoders": ("text_encoders", "clip"),
    "diffusion_models": ("unet", "diffusion_models"),
    "clip_vision": ("clip_vision",),
    "style_models": ("style_models",),
    "embeddings": ("embeddings",),
    "vae_approx": ("vae_approx",),
    "controlnet": ("controlnet", "t2i_adapter"),
    "gligen": ("gligen",),
    "upscale_models": ("upscale_models",),
    "latent_upscale_models": ("latent_upscale_models",),
    "hypernetworks": ("hypernetworks",),
    "photomaker": ("photomaker",),
    "model_patches": ("model_patches",),
    "audio_encoders": ("audio_encoders",),
}

folder_names_and_paths: dict[str, tuple[Collection[str], Any]] = {
    key: ([os.path.join(models_dir, name) for name in names], supported_pt_extensions)
    for key, names in _MODELS.items()
}
folder_names_and_paths["configs"] = ([os.path.join(models_dir, "configs")], [".yaml"])
folder_names_and_paths["diffusers"] = ([os.path.join(models_dir, "diffusers")], ["folder"])
folder_names_and_paths["classifiers"] = ([os.path.join(models_dir, "classifiers")], {""})
folder_names_and_paths["custom_nodes"] = ([os.path.join(base_path, "custom_nodes")], set())

filename_list_cache: dict[str, Listing] = {}
cache_helper = CacheHelper()

extension_mimetypes_cache: dict[str, str] = {"webp": "image", "fbx": "model"}


def map_legacy(folder_name: str) -> str:
    """Give the present name of a folder key."""
    return {"unet": "diffusion_models", "clip": "text_encoders"}.get(folder_name, folder_name)


# Custom nodes join paths to it right after import.
try:
    os.makedirs(input_directory, exist_ok=True)
except OSError as err:
    logger.error("The input folder %s could not be made: %s", input_directory, err)


# -- folders ---------------------------------------------------------------------------------------


def set_output_directory(output_dir: str) -> None:
    """Set where pictures are saved."""
    global output_directory  # noqa: PLW0603 - a public variable
    output_directory = output_dir


def set_temp_directory(temp_dir: str) -> None:
    """Set where previews are saved."""
    global temp_directory  # noqa: PLW0603 - a public variable
    temp_directory = temp_dir


def set_input_directory(input_dir: str) -> None:
    """Set where inputs are taken from."""
    global input_directory  # noqa: PLW0603 - a public variable
    input_directory = input_dir


def set_user_directory(user_dir: str) -> None:
    """Set where settings and workflows are kept."""
    global user_directory  # noqa: PLW0603 - a public variable
    user_directory = user_dir


def get_output_directory() -> str:
    """Where pictures are saved."""
    return output_directory


def get_temp_directory() -> str:
    """Where previews are saved."""
    return temp_directory


def get_input_directory() -> str:
    """Where inputs are taken from."""
    return input_directory


def get_user_directory() -> str:
    """Where settings and workflows are kept."""
    return user_directory


def get_directory_by_type(type_name: str) -> str | None:
    """The folder that "output", "temp" or "input" stands for; None for other words."""
    known = {
        "output": get_output_directory,
        "temp": get_temp_directory,
        "input": get_input_directory,
    }
    return known[type_name]() if type_name in known else None


def get_system_user_directory(name: str = "system") -> str:
    """The folder of a user that stands for a part of the program.

    Raises:
        ValueError: If the name is empty, has other signs than letters, digits and underscores, or
            begins with an underscore.
    """
    if not name or not isinstance(name, str):
        raise ValueError("System User name cannot be empty")
    if not name.replace("_", "").isalnum():
        raise ValueError(f"Invalid system user name: '{name}'")
    if name.startswith("_"):
        raise ValueError("System User name should not start with underscore")
    return os.path.join(get_user_directory(), f"{SYSTEM_USER_PREFIX}{name}")


def get_public_user_directory(user_id: str) -> str | None:
    """The folder of a user that pages may see; None for no user and for the program's own."""
    if not user_id or not isinstance(user_id, str) or user_id.startswith(SYSTEM_USER_PREFIX):
        return None
    return os.path.join(get_user_directory(), user_id)


def get_input_subfolders() -> list[str]:
    """Folders below the input folder, sorted, with slashes."""
    top = get_input_directory()
    found = (
        os.path.relpath(os.path.join(root, name), top).replace(os.sep, "/")
        for root, names, _ in os.walk(top)
        for name in names
    )
    return sorted(found)


# -- names with a folder in brackets ---------------------------------------------------------------


def annotated_filepath(name: str) -> tuple[str, str | None]:
    """Split "picture.png [output]" into the name and the folder that is meant; None if none is."""
    for word in ("output", "input", "temp"):
        mark = f"[{word}]"
        if name.endswith(mark):
            return name[: -len(mark) - 1], get_directory_by_type(word)
    return name, None


def get_annotated_filepath(name: str, default_dir: str | None = None) -> str:
    """The path that a name with or without a folder in brackets means.

    Args:
        name: Such as "picture.png [output]".
        default_dir: For names without brackets; the input folder if None.
    """
    plain, folder = annotated_filepath(name)
    if folder is None:
        folder = get_input_directory() if default_dir is None else default_dir
    return os.path.join(folder, plain)


def exists_annotated_filepath(name: str) -> bool:
    """Whether there is a file of that name."""
    return os.path.exists(get_annotated_filepath(name))


# -- models ----------------------------------------------------------------------------------------


def add_model_folder_path(
    folder_name: str, full_folder_path: str, is_default: bool = False
) -> None:
    """Look for a kind of model in one more folder.

    Args:
        folder_name: The kind; a new one takes every file.
        full_folder_path: The folder.
        is_default: Look there first, even if it is known already.
    """
    key = map_legacy(folder_name)
    if key not in folder_names_and_paths:
        folder_names_and_paths[key] = ([full_folder_path], set())
        return
    paths, extensions = folder_names_and_paths[key][:2]
    if not isinstance(paths, list):
        # Packs put in tuples and sets as well.
        paths = list(paths)
        folder_names_and_paths[key] = (paths, extensions)
    if full_folder_path not in paths:
        paths.insert(0 if is_default else len(paths), full_folder_path)
    elif is_default and paths[0] != full_folder_path:
        paths.remove(full_folder_path)
        paths.insert(0, full_folder_path)


def get_folder_paths(folder_name: str) -> list[str]:
    """The folders of a kind of model, in the order of search.

    Raises:
        KeyError: If there is no such kind.
    """
    return list(folder_names_and_paths[map_legacy(folder_name)][0])


def recursive_search(
    directory: str, excluded_dir_names: list[str] | None = None
) -> tuple[list[str], dict[str, float]]:
    """List a folder and all below it, through links.

    Args:
        directory: Where to begin; one that is missing is empty.
        excluded_dir_names: Folders that are left out.

    Returns:
        Relative names of files, and each folder with the time of its last change.
    """
    return file_listing.walk(directory, excluded_dir_names or [])


def filter_files_extensions(files: Collection[str], extensions: Collection[str]) -> list[str]:
    """Sort names, and keep those with one of the extensions; with no extension given, all."""
    return file_listing.with_extensions(files, extensions)


def filter_files_content_types(
    files: list[str], content_types: list[Literal["image", "video", "audio", "model"]]
) -> list[str]:
    """Keep names whose extension stands for one of the kinds of content."""
    return [name for name in files if _content_type(name) in content_types]


def _content_type(name: str) -> str:
    extension = name.rsplit(".", 1)[-1]
    if extension not in extension_mimetypes_cache:
        guessed, _ = mimetypes.guess_type(name, strict=False)
        if guessed is None:
            return ""
        extension_mimetypes_cache[extension] = guessed.split("/")[0]
    return extension_mimetypes_cache[extension]


def get_full_path(folder_name: str, filename: str) -> str | None:
    """Find a model.

    Args:
        folder_name: Its kind.
        filename: Relative to one of the kind's folders; cannot lead out of it.

    Returns:
        The first that exists, or None.
    """
    key = map_legacy(folder_name)
    if key not in folder_names_and_paths:
        return None
    for folder in folder_names_and_paths[key][0]:
        path = file_listing.below(folder, filename)
        if os.path.isfile(path):
            return path
        if os.path.islink(path):
            logger.warning("%s is a link that leads nowhere", path)
    return None


def get_full_path_or_raise(folder_name: str, filename: str) -> str:
    """Find a model; see `get_full_path`.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = get_full_path(folder_name, filename)
    if path is None:
        raise FileNotFoundError(
            f"There is no model '{filename}' in the folders of '{folder_name}'."
        )
    return path


def get_filename_list_(folder_name: str) -> Listing:
    """List the models of a kind now; see `get_filename_list`."""
    folders, extensions = folder_names_and_paths[map_legacy(folder_name)][:2]
    names: set[str] = set()
    times: dict[str, float] = {}
    for folder in folders:
        files, found = recursive_search(folder, excluded_dir_names=[".git"])
        names.update(filter_files_extensions(files, extensions))
        times |= found
    return sorted(names), times, time.perf_counter()


def cached_filename_list_(folder_name: str) -> Listing | None:
    """The listing that was made last, if it still holds."""
    kept: Listing | None = cache_helper.get(folder_name)
    if kept is not None:
        return kept
    known = filename_list_cache.get(folder_name)
    if known is None:
        return None
    return known if file_listing.still_holds(known, get_folder_paths(folder_name)) else None


def get_filename_list(folder_name: str) -> list[str]:
    """Names of the models of a kind, relative to its folders, sorted.

    Raises:
        KeyError: If there is no such kind.
    """
    key = map_legacy(folder_name)
    listing = cached_filename_list_(key)
    if listing is None:
        listing = get_filename_list_(key)
        filename_list_cache[key] = listing
    cache_helper.set(key, listing)
    return list(listing[0])


# -- saving ----------------------------------------------------------------------------------------


def get_save_image_path(
    filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
) -> tuple[str, str, int, str, str]:
    """Choose where a picture is saved; see `comfy.output_names.output_name`.

    Returns:
        Folder, file name, number, folder below the output folder, prefix.
    """
    try:
        return output_names.output_name(filename_prefix, output_dir, image_width, image_height)
    except ValueError as err:
        logger.error("%s", err)
        raise
