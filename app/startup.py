"""What has to happen before torch is imported: log, environment, folders, packs' own preparations.

Imports no torch.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping, MutableMapping
from types import FrameType
from typing import Any, NoReturn

import yaml

import folder_paths
from app.logger import setup_logger
from comfy.cli_unused import explanations
from utils.extra_config import load_extra_path_config

logger = logging.getLogger(__name__)

INTERRUPTED = 130
BAD_START = 2

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")
_MOST_DEVICES = 32
_KERNEL_PACKAGES = {"use_sage_attention": "sageattention", "use_flash_attention": "flash_attn"}
# Below the output folder, what nodes save as models can be chosen as such.
_SAVED_MODELS = {
    "checkpoints": "checkpoints",
    "text_encoders": "clip",
    "vae": "vae",
    "diffusion_models": "diffusion_models",
    "loras": "loras",
}


def set_environment(flags: Any, environ: MutableMapping[str, str] | None = None) -> None:
    """Set what torch and drivers read when they are imported.

    Args:
        flags: The parsed command line.
        environ: Where to; the process's own environment if None.
    """
    target = os.environ if environ is None else environ
    visible = _visible_devices(flags, target)
    if visible is not None:
        target.update(dict.fromkeys(_VISIBLE, visible))
    if flags.oneapi_device_selector is not None:
        target["ONEAPI_DEVICE_SELECTOR"] = flags.oneapi_device_selector
    if flags.deterministic:
        # cuBLAS repeats its results only with a workspace of a fixed size.
        target.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if flags.cuda_malloc:
        given = target.get("PYTORCH_CUDA_ALLOC_CONF", "")
        parts = [part for part in given.split(",") if part and not part.startswith("backend:")]
        target["PYTORCH_CUDA_ALLOC_CONF"] = ",".join([*parts, "backend:cudaMallocAsync"])


def _visible_devices(flags: Any, environ: Mapping[str, str]) -> str | None:
    """The numbers of the devices that torch shall see, in its order; None to change nothing."""
    if flags.cuda_device is not None:
        numbers = str(flags.cuda_device).split(",")
    elif flags.default_device is None or any(name in environ for name in _VISIBLE):
        # Somebody has chosen and ordered them already.
        return None
    else:
        # Drivers end the list at the first number that they do not have.
        numbers = [str(number) for number in range(_MOST_DEVICES)]
    # Packs that name no number get number 0.
    first = [number for number in numbers if number.strip() == str(flags.default_device)]
    return ",".join([*first, *(number for number in numbers if number not in first)])


def set_folders(flags: Any) -> None:
    """Take over folders from files and flags.

    Args:
        flags: The parsed command line.

    Raises:
        OSError: A file of --extra-model-paths-config cannot be read, or the input folder not made.
        ValueError: It, or ``extra_model_paths.yaml``, has a wrong form.
        yaml.YAMLError: It is no YAML.
    """
    beside = os.path.join(_ROOT, "extra_model_paths.yaml")
    if os.path.isfile(beside):
        load_extra_path_config(beside)
    for path in [path for paths in flags.extra_model_paths_config or () for path in paths]:
        load_extra_path_config(path)
    if flags.output_directory:
        folder_paths.set_output_directory(os.path.abspath(flags.output_directory))
    if flags.input_directory:
        folder_paths.set_input_directory(os.path.abspath(flags.input_directory))
        # Nodes list it when they are loaded; the usual one is made by folder_paths.
        os.makedirs(folder_paths.get_input_directory(), exist_ok=True)
    if flags.user_directory:
        folder_paths.set_user_directory(os.path.abspath(flags.user_directory))
    if flags.temp_directory:
        folder_paths.set_temp_directory(os.path.join(os.path.abspath(flags.temp_directory), "temp"))
    for key, name in _SAVED_MODELS.items():
        saved = os.path.join(folder_paths.get_output_directory(), name)
        folder_paths.add_model_folder_path(key, saved)


def empty_temp() -> None:
    """Remove the temporary folder and what is in it; what cannot be removed is told."""
    folder = folder_paths.get_temp_directory()
    if not os.path.isdir(folder):
        return
    try:
        shutil.rmtree(folder)
    except OSError as err:
        logger.warning("The temporary folder %s could not be emptied: %s", folder, err)


def make_temp() -> None:
    """Make the temporary folder anew."""
    empty_temp()
    os.makedirs(folder_paths.get_temp_directory(), exist_ok=True)


@functools.cache
def stop_wish() -> threading.Event:
    """Set when a signal came during the start."""
    return threading.Event()


def end_quietly_on_signals() -> None:
    """Let Ctrl-C and SIGTERM end the start with a status of its own, not with a traceback.

    While a pack is loaded, the first is taken for a fault of the pack; `stop_wish` remembers it.
    The second ends the program whatever it does.
    """

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        stop_wish().set()
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, leave_at_once)
        raise SystemExit(INTERRUPTED)

    def leave_at_once(number: int, frame: FrameType | None) -> NoReturn:
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)


def refuse(text: str, status: int = BAD_START) -> NoReturn:
    """End the program before it has begun.

    Raises:
        SystemExit: Always, with the status.
    """
    sys.stderr.write(f"main.py: {text}\n")
    raise SystemExit(status)


def refuse_missing_kernels(flags: Any) -> None:
    """End the program if a flag asks for an attention kernel whose package is not installed.

    Args:
        flags: The parsed command line.

    Raises:
        SystemExit: If it does.
    """
    for name, package in _KERNEL_PACKAGES.items():
        if getattr(flags, name) and importlib.util.find_spec(package) is None:
            flag = f"--{name.replace('_', '-')}"
            refuse(f"{flag} needs the package '{package}'. Install it, or leave the flag out.")


def prepare(parser: Any, flags: Any) -> None:
    """Do all that comes before torch, but for the packs' own scripts.

    Args:
        parser: Of the command line.
        flags: What it made of it.

    Raises:
        SystemExit: If a file of folders cannot be used, or a flag cannot be honoured.
    """
    # Pages show what the terminal shows; a single workflow has no page.
    setup_logger(flags.verbose, flags.log_stdout, keep_writes=flags.run is None)
    for sentence in explanations(parser, flags, has_server=flags.run is None):
        logger.warning("%s", sentence)
    refuse_missing_kernels(flags)
    set_environment(flags)
    try:
        set_folders(flags)
    except (OSError, ValueError, yaml.YAMLError) as err:
        refuse(f"the folders could not be set up: {err}")
