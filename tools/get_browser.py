"""A browser for the tests of the web page: finds one, or installs Debian's Chromium.

``make test`` calls it. Where nothing can be installed the tests of the page are skipped, unless
``ONECOPY_NEEDS_BROWSER=1`` says that they must run, as `.ci/run` does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NEEDED = "ONECOPY_NEEDS_BROWSER"
"""Environment variable: "1" makes it an error that there is no browser."""

CHOSEN = "ONECOPY_BROWSER"
"""Environment variable: the path of a Chromium to use."""

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_APT = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")
_INSTALL = (*_APT, "install", "-y", "--no-install-recommends", "chromium")


class NoBrowser(Exception):
    """There is no browser, and none could be installed; the text says why and what to do."""


def find() -> str | None:
    """The path of a Chromium or Chrome on this machine; None if there is none."""
    chosen = os.environ.get(CHOSEN)
    names = (chosen,) if chosen else _NAMES
    return next((path for name in names if (path := shutil.which(name))), None)


def is_needed() -> bool:
    """Whether tests without a browser are failed ones."""
    return os.environ.get(NEEDED, "") not in ("", "0")


def install() -> str:
    """Install Chromium with apt-get; its path.

    Raises:
        NoBrowser: This is no Debian, or not the user who may, or the installation failed.
    """
    if shutil.which("apt-get") is None:
        raise NoBrowser(f"There is no apt-get here. Install Chromium, or name one with {CHOSEN}.")
    if os.geteuid() != 0:
        raise NoBrowser("Only root may install it: sudo apt-get install chromium")
    quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ((*_APT, "update"), _INSTALL):
        ended = subprocess.run(command, env=quietly, capture_output=True, text=True, check=False)
        # Lists that are older than wished for may be new enough for the installation.
        if ended.returncode and command is _INSTALL:
            raise NoBrowser(f"'{' '.join(command)}' failed:\n{ended.stderr.strip()[-2000:]}")
    path = find()
    if path is None:
        raise NoBrowser("Chromium was installed, but is not found on the PATH.")
    return path


def main() -> int:
    """Find or install a browser, and say which.

    Returns:
        0; 1 if there is none and `NEEDED` is set.
    """
    try:
        print(f"Browser for the tests of the page: {find() or install()}")
    except NoBrowser as err:
        print(f"No browser for the tests of the page. {err}", file=sys.stderr)
        return int(is_needed())
    return 0


if __name__ == "__main__":
    sys.exit(main())
