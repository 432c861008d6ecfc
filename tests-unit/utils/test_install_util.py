"""What is needed is listed in one file, and how to install it can be said."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import comfyui_version
import protocol
from utils.install_util import get_missing_requirements_message, requirements_path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_list_of_packages_is_the_one_in_the_root() -> None:
    assert requirements_path == ROOT / "requirements.txt"
    assert requirements_path.is_file()


def test_the_message_is_a_command_of_this_python() -> None:
    command = get_missing_requirements_message().splitlines()[-1]
    assert command == f"{sys.executable} -s -m pip install -r {requirements_path}"


def test_packs_can_compare_the_version_they_run_on() -> None:
    version = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", comfyui_version.__version__)
    assert version is not None
    assert tuple(map(int, version.groups())) >= (0, 8, 0)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("PREVIEW_IMAGE", 1),
        ("UNENCODED_PREVIEW_IMAGE", 2),
        ("TEXT", 3),
        ("PREVIEW_IMAGE_WITH_METADATA", 4),
    ],
)
def test_binary_messages_have_their_numbers(name: str, number: int) -> None:
    assert getattr(protocol.BinaryEventTypes, name) == number
