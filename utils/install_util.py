"""What has to be installed, and how to install it."""

from __future__ import annotations

import sys
from pathlib import Path

requirements_path = Path(__file__).resolve().parent.parent / "requirements.txt"
"""The list of packages that this program needs."""


def get_missing_requirements_message() -> str:
    """What to do about a package that is missing or too old."""
    return (
        f"Install what is listed in {requirements_path}, with the Python that runs this program:\n"
        f"{sys.executable} -s -m pip install -r {requirements_path}"
    )
