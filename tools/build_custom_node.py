"""Build the drop-in for an unchanged ComfyUI: a zip to be unpacked into its `custom_nodes`.

It holds the loading subsystem under a name of its own, so that it needs no `comfy.loading` in the
tree and cannot be taken for one.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from comfy.loading.commands.graft_trees import PACKAGE, package_files  # noqa: E402 - by the path

FOLDER = "onecopy-loader"
PRIVATE = "onecopy_loading"
PARTS = ("__init__.py", "prestartup_script.py", "README.md", "pyproject.toml")
# Tools for people and for tests; they are run from a checkout of this project.
LEFT_OUT = (f"{PACKAGE}/commands/", f"{PACKAGE}/__main__.py", f"{PACKAGE}/testing.py")
# The same input gives the same zip.
_TIME = (2026, 1, 1, 0, 0, 0)


def contents() -> dict[str, bytes]:
    """What goes into the zip, by name."""
    source = ROOT / "tools" / "custom_node"
    files = {f"{FOLDER}/{name}": (source / name).read_bytes() for name in PARTS}
    files[f"{FOLDER}/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    old, new = PACKAGE.replace("/", ".").encode(), PRIVATE.encode()
    for name, content in package_files().items():
        if not name.startswith(LEFT_OUT):
            inside = name.removeprefix(f"{PACKAGE}/")
            files[f"{FOLDER}/{PRIVATE}/{inside}"] = content.replace(old, new)
    return files


def build(target: Path) -> None:
    """Write the zip.

    Args:
        target: A file; its folder is made if there is none.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents().items():
            info = zipfile.ZipInfo(name, _TIME)
            info.external_attr = 0o644 << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)


def main() -> None:
    """Build, and tell where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "target", nargs="?", type=Path, default=ROOT / "dist" / "onecopy-loader.zip"
    )
    target = parser.parse_args().target
    build(target)
    print(f"{target}: {target.stat().st_size / 1024:,.0f} KiB")


if __name__ == "__main__":
    main()
