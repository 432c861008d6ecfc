"""Versions of packages beside ours: what is installed, and what requirements.txt asks for."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
from collections.abc import Callable

from utils.install_util import requirements_path

logger = logging.getLogger(__name__)

_PINNED = re.compile(r"^\s*([A-Za-z0-9._-]+)\s*==\s*([^\s;#]+)")

PAGE = "comfyui-frontend-package"
TEMPLATES = "comfyui-workflow-templates"
DOCS = "comfyui-embedded-docs"

SHOWN = (PAGE, TEMPLATES, DOCS)
"""The packages that the page has an opinion on."""


def installed_version(
    package: str, version: Callable[[str], str] = importlib.metadata.version
) -> str | None:
    """The version that is installed; None if it is not, or if its metadata are damaged.

    Args:
        package: Its name.
        version: What to ask.
    """
    try:
        return version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    except Exception as err:  # noqa: BLE001 - damaged metadata raise all kinds; it is told
        logger.warning("The version of %s cannot be told: %r", package, err)
        return None


def required_versions(path: str | os.PathLike[str] = requirements_path) -> dict[str, str]:
    """The pinned versions by name of the package, in lower case with "-".

    Args:
        path: Of the requirements; a file that cannot be read pins nothing, and is told of.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = [match for line in file if (match := _PINNED.match(line))]
    except OSError as err:
        logger.error("The list of requirements cannot be read: %s", err)
        return {}
    return {re.sub(r"[-_.]+", "-", one[1]).lower(): one[2] for one in found}
