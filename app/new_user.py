"""What a new user finds: the example workflows in the list, one of them open, nothing to click away."""

from __future__ import annotations

import logging
import os

import folder_paths
from app.app_settings import settings_path
from app.json_files import write_json, write_whole
from app.package_versions import PAGE, installed_version

logger = logging.getLogger(__name__)

EXAMPLES = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples", "page"
)
OPEN_AT_START = "OneCopy.Welcome.OpenAtStart"
"""Setting: name of the workflow that opens in a browser which has none of its own."""

FIRST = "text_to_image"


def welcome_default() -> None:
    """Welcome the user of a program with one user."""
    welcome(os.path.join(folder_paths.get_user_directory(), "default"))


def welcome(folder: str) -> None:
    """Fill the folder of a user who has neither workflows nor settings; leave every other alone.

    What cannot be written is told in the log: the program serves without it, too.

    Args:
        folder: The user's; need not exist.
    """
    workflows = os.path.join(folder, "workflows")
    settings = settings_path(folder)
    if os.path.lexists(workflows) or os.path.lexists(settings):
        return
    try:
        os.makedirs(workflows)
        for name in sorted(os.listdir(EXAMPLES)):
            with open(os.path.join(EXAMPLES, name), "rb") as stream:
                write_whole(os.path.join(workflows, name), stream.read())
        write_json(settings, _first_settings())
    except OSError as err:
        logger.warning("The example workflows could not be put in %s: %s", workflows, err)


def _first_settings() -> dict[str, object]:
    settings: dict[str, object] = {
        # Else the page shows its gallery of templates, whose models are not here.
        "Comfy.TutorialCompleted": True,
        OPEN_AT_START: FIRST,
    }
    version = installed_version(PAGE)
    if version is not None:
        # A page that takes its user for an old one chooses older defaults.
        settings["Comfy.InstalledVersion"] = version
    return settings
