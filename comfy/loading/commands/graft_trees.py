"""Checkouts of ComfyUI: what one is, and changing it all at once or not at all.

New files are written beside those that they replace, and moved over them when all of them are
there. A manifest, which goes first and is taken away last, says what there was before: every step
in between leaves a tree that runs, and one that can be undone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy.loading.commands.graft_anchors import GraftRefused
from comfy.loading.commands.graft_edits import HOOKS, Edit, without_marked_lines

PACKAGE = "comfy/loading"
MANIFEST = f"{PACKAGE}/grafted.json"
_NEW = ".onecopy-new"
_OWN = Path(__file__).resolve().parent.parent
_VERSION = re.compile(r"""^\s*(?:__version__|version)\s*=\s*["']([^"']+)["']""", re.MULTILINE)


def package_files() -> dict[str, bytes]:
    """What is grafted of this package: relative to a checkout, with contents."""
    found = {}
    for path in sorted(_OWN.rglob("*.py")):
        inside = path.relative_to(_OWN)
        if not path.name.startswith("graft"):
            found[f"{PACKAGE}/{inside.as_posix()}"] = path.read_bytes()
    return found


def digest(content: bytes) -> str:
    """Name a content."""
    return hashlib.sha256(content).hexdigest()


def edition(package: Mapping[str, bytes]) -> str:
    """Name a whole package: the same for the same files."""
    parts = "".join(f"{name} {digest(content)}\n" for name, content in sorted(package.items()))
    return digest(parts.encode())[:12]


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder with a ComfyUI in it.

    Attributes:
        root: The folder.
        version: As its files tell; "of unknown version" if they do not.
    """

    root: Path
    version: str

    @classmethod
    def at(cls, path: str | Path) -> Checkout:
        """Look at a folder.

        Raises:
            FileNotFoundError: If there is none.
            GraftRefused: If it is no ComfyUI, or is this project itself.
        """
        root = Path(path).resolve()
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder.")
        missing = [name for name in HOOKS if not (root / name).is_file()]
        if len(missing) > 2 or not (root / "comfy").is_dir():
            raise GraftRefused(
                f"{root} is not a ComfyUI: it has no {', no '.join(missing)}.",
                hint="Give the folder in which ComfyUI's main.py lies; nothing was changed.",
            )
        if (root / PACKAGE / "commands" / "graft.py").exists():
            raise GraftRefused(
                f"{root} is OneCopy itself, not a stock ComfyUI.", hint="Nothing was changed."
            )
        return cls(root, _version(root))

    def manifest(self) -> dict[str, Any] | None:
        """What a graft wrote down here; None if there was none.

        Raises:
            GraftRefused: If there is a `comfy/loading` that no graft made.
        """
        path = self.root / MANIFEST
        if not path.exists():
            if (self.root / PACKAGE).exists():
                raise GraftRefused(
                    f"{self.root / PACKAGE} is there already, and no graft made it.",
                    hint="Move it away; nothing was changed.",
                )
            return None
        try:
            known: dict[str, Any] = json.loads(path.read_text())
            return {key: known[key] for key in ("edition", "version", "files", "package")}
        except (ValueError, KeyError, TypeError) as err:
            raise GraftRefused(
                f"{path} cannot be read: {err!r}.",
                hint=f"Take the lines marked 'onecopy' out and remove {PACKAGE} by hand.",
            ) from err

    @property
    def is_git(self) -> bool:
        """Whether the folder is the top of a git checkout."""
        top = self._git("rev-parse", "--show-toplevel")
        return top is not None and Path(top.strip()).resolve() == self.root

    def changed_files(self) -> list[str]:
        """Files that git follows and that differ from the last commit."""
        status = self._git("status", "--porcelain", "--untracked-files=no") if self.is_git else None
        return [line[3:] for line in (status or "").splitlines()]

    def _git(self, *arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *arguments],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            return None
        return done.stdout if done.returncode == 0 else None


def _version(root: Path) -> str:
    for name in ("comfyui_version.py", "pyproject.toml"):
        with contextlib.suppress(OSError):
            found = _VERSION.search((root / name).read_text(encoding="utf-8", errors="replace"))
            if found:
                return found.group(1)
    return "of unknown version"


def apply(checkout: Checkout, edits: Sequence[Edit], package: Mapping[str, bytes]) -> None:
    """Put the graft in, all of it or nothing.

    Args:
        checkout: Without a graft.
        edits: Of its files.
        package: Of `package_files`.

    Raises:
        GraftRefused: If the folder cannot be written to; nothing is changed then.
    """
    manifest = {
        "edition": edition(package),
        "version": checkout.version,
        "files": {
            one.file: {"before": digest(one.before), "after": digest(one.after)} for one in edits
        },
        "package": {name: digest(content) for name, content in package.items()},
    }
    new = {name.removeprefix(f"{PACKAGE}/"): content for name, content in package.items()}
    new[MANIFEST.removeprefix(f"{PACKAGE}/")] = json.dumps(manifest, indent=1).encode()
    _replace(checkout.root, {one.file: one.after for one in edits}, new)


def _replace(root: Path, files: Mapping[str, bytes], package: Mapping[str, bytes]) -> None:
    """Write everything beside its place, then move it there; on any failure, back."""
    folder, fresh = root / PACKAGE, root / f"{PACKAGE}{_NEW}"
    before = {name: (root / name).read_bytes() for name in files}
    moved: list[str] = []
    # Of a graft that was killed.
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        for name, content in package.items():
            target = fresh / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for name, content in files.items():
            _write_beside(root / name, content)
        if package:
            os.rename(fresh, folder)
        for name in files:
            os.replace(root / f"{name}{_NEW}", root / name)
            moved.append(name)
    except BaseException as err:
        for name in moved:
            _write_beside(root / name, before[name])
            os.replace(root / f"{name}{_NEW}", root / name)
        if package:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(err, OSError):
            raise GraftRefused(
                f"{root} cannot be changed: {err}.", hint="Nothing was changed."
            ) from err
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        for name in files:
            with contextlib.suppress(OSError):
                (root / f"{name}{_NEW}").unlink()


def _write_beside(path: Path, content: bytes) -> None:
    beside = path.with_name(path.name + _NEW)
    beside.write_bytes(content)
    shutil.copymode(path, beside)


def undo(checkout: Checkout, manifest: Mapping[str, Any], force: bool) -> list[str]:
    """Take the graft out.

    Args:
        checkout: With a graft.
        manifest: Its.
        force: Remove files of the package that somebody has changed.

    Returns:
        What is worth telling: files that are not as they were before the graft, because somebody
        has changed them since. Of those only the graft's lines are taken out.

    Raises:
        GraftRefused: If a file of the package was changed, or the folder cannot be written to.
    """
    root = checkout.root
    changed = [
        name
        for name, known in manifest["package"].items()
        if (root / name).exists() and digest((root / name).read_bytes()) != known
    ]
    if changed and not force:
        raise GraftRefused(
            f"{', '.join(changed)} changed since the graft.",
            hint="Save what you need of it and give --force; nothing was changed.",
        )
    restored, notes = {}, []
    for name, known in manifest["files"].items():
        content = (root / name).read_bytes()
        restored[name] = without_marked_lines(name, content)
        if digest(restored[name]) != known["before"]:
            notes.append(f"{name} has changed since the graft: only its lines were taken out")
    _replace(root, restored, {})
    try:
        return notes + _remove_package(root, manifest)
    except OSError as err:
        raise GraftRefused(
            f"{root / PACKAGE} cannot be removed: {err}.",
            hint="Its lines are out of the other files; mend this and give --undo again.",
        ) from err


def _remove_package(root: Path, manifest: Mapping[str, Any]) -> list[str]:
    for cache in (root / PACKAGE).rglob("__pycache__"):
        shutil.rmtree(cache)
    for name in manifest["package"]:
        (root / name).unlink(missing_ok=True)
    (root / MANIFEST).unlink()
    folders = sorted((one for one in (root / PACKAGE).rglob("*") if one.is_dir()), reverse=True)
    for folder in [*folders, root / PACKAGE]:
        if not any(folder.iterdir()):
            folder.rmdir()
    left = [str(one.relative_to(root)) for one in (root / PACKAGE).rglob("*") if one.is_file()]
    return [f"{name} is not the graft's and was left" for name in left]
