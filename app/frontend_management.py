"""The page: which one is served, from where, and whether it fits this program."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from aiohttp import web

from app.frontend_download import FrontEndProvider as FrontEndProvider
from app.frontend_download import Release as Release
from app.frontend_download import unpack_release
from app.package_versions import PAGE, TEMPLATES, installed_version, required_versions
from app.web_files import add_web_files
from comfy.cli_args import DEFAULT_VERSION_STRING
from utils.install_util import get_missing_requirements_message, requirements_path
from utils.safe_paths import inside

logger = logging.getLogger(__name__)

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_NUMBERED = re.compile(r"\d+\.\d+\.\d+")
_WANTED = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9-]{0,38})/([\w.-]+)@(v?\d+\.\d+\.\d+[-.\w]*|latest|prerelease)",
    re.ASCII,
)


def download_release_asset_zip(release: Release, destination_path: str) -> None:
    """Make a folder of a release's page; see `unpack_release`."""
    unpack_release(release, destination_path)


def _pinned(package: str) -> str | None:
    """The version of a package that the list of requirements asks for; None if it tells none."""
    number = required_versions(requirements_path).get(package)
    if number is None or _NUMBERED.fullmatch(number):
        return number
    logger.error(
        "%s asks for %s %r, which is no version of three numbers.",
        requirements_path,
        package,
        number,
    )
    return None


def get_installed_frontend_version() -> str | None:
    """The version of the page that is installed; None if there is none."""
    return installed_version(PAGE, version)


def get_required_frontend_version() -> str | None:
    """The version of the page that this program was tested with."""
    return _pinned(PAGE)


def check_frontend_version() -> None:
    """Warn if the page that is installed is older than the one this program was tested with."""
    installed, required = get_installed_frontend_version(), get_required_frontend_version()
    if installed is None or required is None:
        return
    if not _NUMBERED.match(installed) or _numbers(installed) >= _numbers(required):
        return
    logger.warning(
        "The installed page is version %s; this program was tested with %s. %s",
        installed,
        required,
        get_missing_requirements_message(),
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(".")[:3] if number.isdigit())


def _package_folder(module: str, name: str) -> str | None:
    """A folder in an installed package, without importing it."""
    found = importlib.util.find_spec(module)
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        folder = os.path.join(place, name)
        if os.path.isdir(folder):
            return folder
    return None


def _templates() -> Iterator[tuple[str, str]]:
    """Names and paths of the files of all templates that are installed."""
    package = importlib.import_module("comfyui_workflow_templates")
    for template in package.iter_templates():
        for asset in template.assets:
            # Workflows and their pictures come in packages of their own; some may be missing.
            with contextlib.suppress(FileNotFoundError):
                path = package.get_asset_path(template.template_id, asset.filename)
                yield asset.filename, str(path)


class FrontendManager:
    """Chooses the page; see `init_frontend`."""

    CUSTOM_FRONTENDS_ROOT = os.path.join(_ROOT, "web_custom_versions")

    @classmethod
    def get_required_frontend_version(cls) -> str | None:
        """The version of the page that this program was tested with."""
        return get_required_frontend_version()

    @classmethod
    def get_installed_templates_version(cls) -> str | None:
        """The version of the templates that are installed; None if there are none."""
        return installed_version(TEMPLATES, version)

    @classmethod
    def get_required_templates_version(cls) -> str | None:
        """The version of the templates that is asked for; None if none is."""
        return _pinned(TEMPLATES)

    @classmethod
    def default_frontend_path(cls) -> str:
        """Folder of the installed page; without one, of a page that tells how to install it."""
        folder = _package_folder("comfyui_frontend_package", "static")
        if folder is not None:
            return folder
        logger.error(
            "The page is missing: the package %s is not installed. Programs can use the server "
            "meanwhile. %s",
            PAGE,
            get_missing_requirements_message(),
        )
        return os.path.join(_ROOT, "app", "no_frontend")

    @classmethod
    def legacy_templates_path(cls) -> str | None:
        """Folder of the templates in older packages of them; None if there is none."""
        return _package_folder("comfyui_workflow_templates", "templates")

    @classmethod
    def template_asset_map(cls) -> dict[str, str] | None:
        """Paths of the files of templates by name; None if no package tells them."""
        try:
            return dict(_templates())
        except ModuleNotFoundError:
            return None
        except Exception:
            logger.exception("The workflow templates cannot be listed, and are left out.")
            return None

    @classmethod
    def embedded_docs_path(cls) -> str | None:
        """Folder of the nodes' documentation; None if it is not installed."""
        return _package_folder("comfyui_embedded_docs", "docs")

    @classmethod
    def parse_version_string(cls, value: str) -> tuple[str, str, str]:
        """Take ``owner/repo@version`` apart.

        Raises:
            argparse.ArgumentTypeError: It has not that form.
        """
        match = _WANTED.fullmatch(value)
        if match is None:
            raise argparse.ArgumentTypeError(
                f"{value!r} is no frontend: write owner/repo@version, where the version is three "
                "numbers, 'latest' or 'prerelease'."
            )
        owner, repo, wanted = match.groups()
        return owner, repo, wanted

    @classmethod
    def init_frontend_unsafe(
        cls, version_string: str, provider: FrontEndProvider | None = None
    ) -> str:
        """Find the page that is wanted; download it if it is not here.

        Args:
            version_string: See `parse_version_string`; by default the installed one.
            provider: Tells releases; by default the repository that is named.

        Returns:
            Its folder.

        Raises:
            argparse.ArgumentTypeError: The version has not the right form.
            ValueError: There is no such release, or it has no page.
            requests.exceptions.RequestException: It cannot be downloaded.
            OSError: It cannot be written.
        """
        if version_string == DEFAULT_VERSION_STRING:
            check_frontend_version()
            return cls.default_frontend_path()
        owner, repo, wanted = cls.parse_version_string(version_string)
        source = provider or FrontEndProvider(owner, repo)
        if wanted not in ("latest", "prerelease"):
            folder = cls._folder(f"{owner}_{repo}", wanted)
            if os.path.exists(folder):
                logger.info("The page %s was downloaded before: %s", version_string, folder)
                return folder
        release = source.get_release(wanted)
        folder = cls._folder(source.folder_name, release["tag_name"])
        if not os.path.exists(folder):
            cls._fill(folder, release)
        return folder

    @classmethod
    def _folder(cls, repository: str, number: str) -> str:
        name = number.removeprefix("v")
        folder = inside(cls.CUSTOM_FRONTENDS_ROOT, repository, name)
        # Tags are others' words, and may have slashes in them.
        if folder is None or os.path.basename(folder) != name:
            raise ValueError(f"The release {number!r} has a name that is no folder's.")
        return folder

    @classmethod
    def _fill(cls, folder: str, release: Release) -> None:
        # Not the folder itself: after a kill the next start would take an empty one for a page.
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        logger.info("The page %s is downloaded to %s", release["tag_name"], folder)
        try:
            download_release_asset_zip(release, destination_path=folder)
        except BaseException:
            # Others that take the function's place may make it.
            with contextlib.suppress(FileNotFoundError):
                if not os.listdir(folder):
                    os.rmdir(folder)
            raise

    @classmethod
    def init_frontend(cls, version_string: str) -> str:
        """Find the page that is wanted, or tell why not and take the installed one.

        Args:
            version_string: See `init_frontend_unsafe`.

        Returns:
            Its folder.
        """
        try:
            return cls.init_frontend_unsafe(version_string)
        except Exception as err:
            logger.exception(
                "The page %s cannot be served (%s); the installed one takes its place.",
                version_string,
                err,
            )
            check_frontend_version()
            return cls.default_frontend_path()


def choose_web_root(flags: Any) -> str:
    """Folder of the page that the command line asks for.

    Args:
        flags: The parsed command line.
    """
    if flags.front_end_root:
        return os.path.abspath(str(flags.front_end_root))
    return FrontendManager.init_frontend(flags.front_end_version)


def add_static_routes(app: web.Application, web_root: str | None) -> None:
    """Serve files: of packs, templates, documentation, and last the page's own.

    Args:
        app: Has all other routes already.
        web_root: Folder of the page; None to serve none.
    """
    add_web_files(
        app,
        web_root,
        find_templates=FrontendManager.template_asset_map,
        old_templates=FrontendManager.legacy_templates_path(),
        docs=FrontendManager.embedded_docs_path(),
    )
