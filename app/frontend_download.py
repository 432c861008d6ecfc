"""Releases of frontends on GitHub, and downloads of them; used only when the user asks for one."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

RELEASES_URL = "https://api.github.com/repos/{owner}/{repo}/releases"
"""Where a repository tells its releases."""

_ASSET = "dist.zip"
_TIMEOUT_S = 30
_PAGE_LENGTH = 100
_PIECE_BYTES = 1 << 20


class Asset(TypedDict):
    """A file of a release."""

    url: str
    name: str


class Release(TypedDict):
    """What GitHub tells of a release."""

    id: int
    tag_name: str
    name: str
    prerelease: bool
    created_at: str
    published_at: str
    body: str
    assets: list[Asset]


def _get(url: str, **settings: Any) -> Any:
    """Ask a server.

    Raises:
        requests.exceptions.RequestException: It cannot be reached, or answers with an error.
    """
    # Its import would take 40 ms of every start.
    requests = importlib.import_module("requests")
    response = requests.get(url, timeout=_TIMEOUT_S, **settings)
    response.raise_for_status()
    return response


@dataclass
class FrontEndProvider:
    """A repository that releases frontends.

    Attributes:
        owner: Who has it.
        repo: Its name.
    """

    owner: str
    repo: str

    @property
    def folder_name(self) -> str:
        """Where its releases are kept, below the folder of custom frontends."""
        return f"{self.owner}_{self.repo}"

    @property
    def release_url(self) -> str:
        """Where it tells its releases."""
        return RELEASES_URL.format(owner=self.owner, repo=self.repo)

    @cached_property
    def all_releases(self) -> list[Release]:
        """All releases, newest first; asked for once."""
        found: list[Release] = []
        while True:
            page = 1 + len(found) // _PAGE_LENGTH
            query = {"per_page": _PAGE_LENGTH, "page": page}
            some = _get(self.release_url, params=query).json()
            found += some
            if len(some) < _PAGE_LENGTH:
                return found

    @cached_property
    def latest_release(self) -> Release:
        """The newest one that is no prerelease; asked for once."""
        release: Release = _get(f"{self.release_url}/latest").json()
        return release

    @cached_property
    def latest_prerelease(self) -> Release:
        """The newest prerelease.

        Raises:
            ValueError: There is none.
        """
        for release in self.all_releases:
            if release["prerelease"]:
                return release
        raise ValueError(f"{self.owner}/{self.repo} has no prerelease.")

    def get_release(self, version: str) -> Release:
        """Find a release.

        Args:
            version: "latest", "prerelease", or a number with or without "v".

        Raises:
            ValueError: There is no such release.
        """
        if version == "latest":
            return self.latest_release
        if version == "prerelease":
            return self.latest_prerelease
        for release in self.all_releases:
            if release["tag_name"].removeprefix("v") == version.removeprefix("v"):
                return release
        raise ValueError(
            f"{self.owner}/{self.repo} has no release {version}; see {self.release_url}."
        )


def unpack_release(release: Release, destination_path: str) -> None:
    """Download a release's page and put it in a folder, whole or not at all.

    Args:
        release: Has a file ``dist.zip``.
        destination_path: A folder that is empty or not there yet; its parent must exist.

    Raises:
        ValueError: The release has no such file.
        zipfile.BadZipFile: The file is damaged.
        OSError: It cannot be written.
        requests.exceptions.RequestException: It cannot be downloaded.
    """
    urls = [asset["url"] for asset in release["assets"] if asset["name"] == _ASSET]
    if not urls:
        raise ValueError(f"The release {release['tag_name']} has no file {_ASSET}.")
    parent = os.path.dirname(os.path.abspath(destination_path))
    unfinished = tempfile.mkdtemp(".unfinished", dir=parent)
    try:
        _download(urls[0], unfinished)
        # Only an empty folder can be removed: what is there already stays.
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(destination_path)
        os.replace(unfinished, destination_path)
        os.chmod(destination_path, 0o755)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _download(url: str, folder: str) -> None:
    headers = {"Accept": "application/octet-stream"}
    with tempfile.TemporaryFile() as archive:
        with contextlib.closing(_get(url, headers=headers, stream=True)) as response:
            for piece in response.iter_content(_PIECE_BYTES):
                archive.write(piece)
        with zipfile.ZipFile(archive) as packed:
            # It drops leading slashes, drives and ".." from names.
            packed.extractall(folder)
