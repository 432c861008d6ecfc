"""The files that loaders are compared on: made once, kept in a cache folder, reused.

A is one file like a diffusion model's, B the same tensors in four shards, C very many small
tensors, P the tensors of A as ``torch.save`` writes them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import safetensors
import torch

from comfy.loading.commands.bench import target_of
from comfy.loading.commands.runs import Target
from support.files import GIB, make_file_set

Letter = Literal["A", "B", "C", "P"]

LETTERS: tuple[Letter, ...] = ("A", "B", "C", "P")
TITLES = {
    "A": "one file, sized like a diffusion model",
    "B": "the same tensors in 4 shards",
    "C": "very many small tensors",
    "P": "the tensors of A as a .pt file",
}

_SEED = 0
_FULL_BYTES = 6 * GIB
# Set C has its full 20,000 tensors beside a set A of this size.
_FULL_SMALL_BYTES = 2 * GIB
_MARKER = "made.json"


def cache_folder() -> Path:
    """Where files that can be made again are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "comfyui-onecopy"


def make_targets(letters: Sequence[Letter], nbytes: int, folder: Path) -> dict[Letter, Target]:
    """Make or find the files.

    Args:
        letters: Which sets.
        nbytes: Size of set A; the others follow.
        folder: Where to keep them.

    Raises:
        OSError: If there is not enough space.
    """
    return {letter: target_of(str(_make(letter, nbytes, folder))) for letter in letters}


def _make(letter: Letter, nbytes: int, folder: Path) -> Path:
    home = folder / f"{letter}-{nbytes}"
    wanted: dict[str, object] = {"letter": letter, "bytes": nbytes, "seed": _SEED}
    known = _known(home, wanted)
    if known is not None:
        return known
    _check_space(folder, nbytes)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    if letter == "P":
        path = _pickle(_make("A", nbytes, folder), home / "set_p.pt")
    else:
        factor = nbytes / (_FULL_SMALL_BYTES if letter == "C" else _FULL_BYTES)
        path = make_file_set(letter, home, factor=factor, seed=_SEED).path
    # Written last, so that files of an interrupted run are not taken for whole ones.
    sizes = {one.name: one.stat().st_size for one in home.iterdir()}
    (home / _MARKER).write_text(json.dumps({**wanted, "path": path.name, "sizes": sizes}))
    return path


def _known(home: Path, wanted: dict[str, object]) -> Path | None:
    """The path of a set that was made before, if its files are still as they were."""
    try:
        told = json.loads((home / _MARKER).read_text())
        sizes = {name: (home / name).stat().st_size for name in told["sizes"]}
    except (OSError, ValueError, KeyError):
        return None
    is_same = sizes == told["sizes"] and all(told.get(key) == wanted[key] for key in wanted)
    return home / str(told["path"]) if is_same else None


def _check_space(folder: Path, nbytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < nbytes + GIB // 4:
        raise OSError(
            f"{folder} has {free / GIB:.1f} GiB free, and files of {nbytes / GIB:.1f} GiB are to be "
            f"made there. Free some space, or give --folder or a smaller --size-mib."
        )


def _pickle(source: Path, path: Path) -> Path:
    with safetensors.safe_open(source, "pt") as file:
        torch.save({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
    return path
