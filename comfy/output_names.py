"""Names of files that are about to be saved: from a prefix to folder, name and number."""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple

_TIMES = {
    "%year%": "%Y",
    "%month%": "%m",
    "%day%": "%d",
    "%hour%": "%H",
    "%minute%": "%M",
    "%second%": "%S",
}


_BATCH_NUMBER = "%batch_num%"


class OutputName(NamedTuple):
    """Where a picture goes; the file is called ``{filename}_{counter:05}_.png``.

    Attributes:
        full_output_folder: Exists.
        filename: Without number and extension.
        counter: One more than the highest in the folder.
        subfolder: Of the output folder; "" is that itself.
        filename_prefix: With its variables replaced.
    """

    full_output_folder: str
    filename: str
    counter: int
    subfolder: str
    filename_prefix: str


def expand(prefix: str, width: int, height: int, now: time.struct_time) -> str:
    """Replace ``%width%``, ``%height%`` and the parts of the local time in a prefix."""
    if "%" not in prefix:
        return prefix
    values = {"%width%": str(width), "%height%": str(height)}
    values |= {word: time.strftime(form, now) for word, form in _TIMES.items()}
    for word, value in values.items():
        prefix = prefix.replace(word, value)
    return prefix


def of_batch(filename: str, index: int) -> str:
    """The name of one picture of a batch: its place there stands for ``%batch_num%``."""
    return filename.replace(_BATCH_NUMBER, str(index))


def next_counter(folder: str, filename: str) -> int:
    """One more than the highest number among ``<filename>_<digits>_...`` in a folder.

    Names that `of_batch` makes of the name count as well: they must not be written over.
    """
    parts = map(re.escape, os.path.normcase(filename).split(_BATCH_NUMBER))
    taken = re.compile(rf"(?:\d+|{_BATCH_NUMBER})".join(parts) + r"_(\d+)_")
    found = (taken.match(os.path.normcase(name)) for name in os.listdir(folder))
    return 1 + max((int(one[1]) for one in found if one), default=0)


def output_name(prefix: str, output_dir: str, width: int, height: int) -> OutputName:
    """Choose where a picture is saved, and make the folder.

    Args:
        prefix: May begin with folders, and hold variables; see `expand`.
        output_dir: Where outputs are.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.

    Raises:
        ValueError: If the prefix leads out of the output folder.
    """
    prefix = expand(prefix, width, height, time.localtime())
    subfolder, filename = os.path.split(os.path.normpath(prefix))
    top = os.path.abspath(output_dir)
    folder = os.path.abspath(os.path.join(top, subfolder))
    if folder != top and not folder.startswith(os.path.join(top, "")):
        raise ValueError(
            f"Saving outside the output folder is not allowed: '{prefix}' leads to {folder}, "
            f"which is not in {top}."
        )
    full = os.path.join(output_dir, subfolder)
    os.makedirs(full, exist_ok=True)
    return OutputName(full, filename, next_counter(full, filename), subfolder, prefix)
