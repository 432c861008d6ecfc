"""Listings of folders: their names, when they were made, and whether they still hold."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

Listing = tuple[list[str], dict[str, float], float]
"""Names, the folders with the time of their last change, and when it was made."""


class CacheHelper:
    """Keeps listings for as long as it is entered, without looking at the disk again."""

    def __init__(self) -> None:
        self.cache: dict[str, Listing] = {}
        self.active = False

    def get(self, key: str, default: Any = None) -> Any:
        """A listing, or the default if there is none or nobody entered."""
        return self.cache.get(key, default) if self.active else default

    def set(self, key: str, value: Listing) -> None:
        """Keep a listing; nothing if nobody entered."""
        if self.active:
            self.cache[key] = value

    def clear(self) -> None:
        """Forget all."""
        self.cache.clear()

    def __enter__(self) -> CacheHelper:
        # A thread that listed a folder while another left may have come too late.
        self.clear()
        self.active = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.active = False
        self.clear()


def still_holds(listing: Listing, folders: Iterable[str]) -> bool:
    """Whether a listing is what would be found now.

    Args:
        listing: Made earlier.
        folders: Where it was made, and perhaps some that did not exist then.
    """
    _, times, _ = listing
    if any(_changed(folder) != before for folder, before in times.items()):
        return False
    return all(folder in times or not os.path.isdir(folder) for folder in folders)


def _changed(folder: str) -> float | None:
    """When a folder was changed last; None if it is gone."""
    try:
        return os.path.getmtime(folder)
    except OSError:
        return None


def without_circles(directory: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk through links as `os.walk` does, but never back to where it came from.

    Two links to one folder show it twice; only a way back up has no end.

    Args:
        directory: Where to begin; one that is missing is empty.

    Yields:
        A folder, names of folders in it, and of files; folders whose names are taken out are not
        entered.
    """
    above: dict[str, frozenset[str]] = {}
    for root, names, here in os.walk(directory, followlinks=True):
        real = os.path.realpath(root)
        way = above.pop(root, frozenset())
        if real in way:
            names.clear()
            continue
        yield root, names, here
        above.update((os.path.join(root, name), way | {real}) for name in names)


def walk(directory: str, excluded: Collection[str]) -> tuple[list[str], dict[str, float]]:
    """List a folder and all below it, through links but not in circles.

    Args:
        directory: Where to begin; one that is missing is empty.
        excluded: Names of folders that are left out.

    Returns:
        Relative names of files, and each folder with the time of its last change.
    """
    files: list[str] = []
    times: dict[str, float] = {}
    for root, names, here in without_circles(directory):
        names[:] = [name for name in names if name not in excluded]
        try:
            times[root] = os.path.getmtime(root)
        except FileNotFoundError:
            logger.warning("The folder %s went away while it was listed", root)
            continue
        files.extend(os.path.relpath(os.path.join(root, name), directory) for name in here)
    return files, times


def with_extensions(files: Iterable[str], extensions: Collection[str]) -> list[str]:
    """Sort names, and keep those with one of the extensions; with no extension given, all."""
    return sorted(
        name for name in files if not extensions or os.path.splitext(name)[-1].lower() in extensions
    )


def below(folder: str, filename: str) -> str:
    """Join a name to a folder so that it cannot lead out of it."""
    return os.path.join(folder, os.path.relpath(os.path.join("/", filename), "/"))
