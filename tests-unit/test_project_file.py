"""What pyproject.toml says: its lists of files name what they are meant to name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_a_package_carries_the_licence_and_the_notices_and_nothing_else_as_such(
    project: dict[str, Any],
) -> None:
    licences = set(project["project"]["license-files"])
    assert licences == {"LICENSE", *(path.relative_to(ROOT).as_posix() for path in _notices())}


def _notices() -> list[Path]:
    return [path for folder in ROOT.glob("comfy*") for path in folder.glob("**/NOTICE")]


def test_every_module_and_package_of_the_root_is_type_checked(project: dict[str, Any]) -> None:
    checked = set(project["tool"]["mypy"]["files"])
    modules = {path.name for path in ROOT.glob("*.py")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {"server.py", "main.py"} <= modules
    assert {"app", "api_server", "middleware"} <= packages
    assert modules | packages | {"comfy", "comfy_extras", "tools"} <= checked


def test_everything_that_is_to_be_type_checked_is_there(project: dict[str, Any]) -> None:
    missing = [name for name in project["tool"]["mypy"]["files"] if not (ROOT / name).exists()]
    assert missing == []
