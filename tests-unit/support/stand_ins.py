"""Small trees with the shapes of three generations of ComfyUI, that load files and move modules.

Written for the tests of the graft: ComfyUI's names, signatures and calls, and bodies of our own.
They run: they read real files, have a parser, and a patcher that moves modules to a device.
"""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support import stand_in_parts as parts

FILES = (
    "comfy/cli_args.py",
    "comfy/utils.py",
    "comfy/model_base.py",
    "comfy/model_patcher.py",
    "comfy/model_management.py",
)

_FULL_SIGNATURE = "ckpt, safe_load=False, device=None, return_metadata=False"
_BOTH = "return (sd, metadata) if return_metadata else sd"
_PARSING = """\
if comfy.options.args_parsing:
    args = parser.parse_args()
else:
    args = parser.parse_args([])"""
_DISABLE_MMAP = 'parser.add_argument("--disable-mmap", action="store_true", help="Copy tensors.")'
_COPYING = "missing, _ = self.diffusion_model.load_state_dict(to_load, strict=False)"
_ASSIGNING = (
    "missing, _ = self.diffusion_model.load_state_dict(to_load, strict=False, assign=assign)"
)
_SHORT_ENTRY = ("(module_size, n, m, params)", "1", "4", "2")
_LONG_ENTRY = ("(module_size, module_size, n, m, params)", "2", "5", "3")


@dataclass(frozen=True)
class Generation:
    """What differs between versions.

    Attributes:
        version: That it tells.
        places: Placeholder of `stand_in_parts` to text.
        pyproject: Whether the version stands in pyproject.toml alone.
        has_slices: Whether there is a module for tagged storages.
    """

    version: str
    places: Mapping[str, str] = field(default_factory=dict)
    pyproject: bool = False
    has_slices: bool = False


def _places(**given: str) -> dict[str, str]:
    entry, first, last, module = _SHORT_ENTRY
    usual = {
        "DISABLE_MMAP_FLAG": _DISABLE_MMAP,
        "PARSING": _PARSING,
        "EXTRA_IMPORTS": "import logging",
        "SAFETENSORS_READER": "",
        "FREE_SIGNATURE": "dev=None, torch_free_too=False",
        "FREE_RETURN": "return (free, cached) if torch_free_too else free",
        "SIGNATURE": _FULL_SIGNATURE,
        "FIRST_LINES": "if device is None:\n    device = torch.device('cpu')",
        "READING": parts.LOOP,
        "COPIED": "f.get_tensor(key)",
        "RETURNING": _BOTH,
        "ASSIGN_PARAMETER": "",
        "LOADING": _COPYING,
        "ENTRY_FIRST": first,
        "ENTRY_LAST": last,
        "ENTRY_MODULE": module,
        "ENTRY": entry.replace("module_size", "comfy.model_management.module_size(m)"),
        "PINNING": parts.PINNING,
    }
    assert given.keys() <= usual.keys()
    return {**usual, **given}


_COPY = "f.get_tensor(key).to(device=device, copy=True) if DISABLE_MMAP else f.get_tensor(key)"
_entry, _first, _last, _module = _LONG_ENTRY

GENERATIONS = {
    "loop": Generation(
        "0.3.60",
        _places(
            SIGNATURE="ckpt, safe_load=False, device=None",
            RETURNING='logging.debug("metadata: %s", metadata)\nreturn sd',
            DISABLE_MMAP_FLAG="",
            PINNING=parts.NO_PINNING,
            PARSING="args = parser.parse_args() if comfy.options.args_parsing else "
            "parser.parse_args([])",
            FIRST_LINES='"""Load."""',
        ),
        pyproject=True,
    ),
    "copying": Generation("0.8.0", _places(COPIED=_COPY, EXTRA_IMPORTS="")),
    "tagged": Generation(
        "0.33.0",
        _places(
            EXTRA_IMPORTS="import json\nimport comfy.memory_management",
            SAFETENSORS_READER=parts.TAGGED_READER,
            READING="        sd, metadata = load_safetensors(ckpt)\n",
            ASSIGN_PARAMETER=", assign=False",
            LOADING=_ASSIGNING,
            ENTRY=_entry.replace("module_size", "comfy.model_management.module_size(m)"),
            ENTRY_FIRST=_first,
            ENTRY_LAST=_last,
            ENTRY_MODULE=_module,
        ),
        has_slices=True,
    ),
}


def plant(root: Path, generation: str, *, line_end: str = "\n", git: bool = False) -> Path:
    """Write a tree.

    Args:
        root: A folder that does not exist yet.
        generation: Of `GENERATIONS`.
        line_end: Of every file.
        git: Make it a git checkout with one commit.

    Returns:
        The folder.
    """
    chosen = GENERATIONS[generation]
    files = {
        "main.py": parts.MAIN,
        "comfy/cli_args.py": parts.CLI_ARGS,
        "comfy/options.py": parts.OPTIONS,
        "comfy/utils.py": parts.UTILS,
        "comfy/ops.py": parts.OPS,
        "comfy/model_base.py": parts.MODEL_BASE,
        "comfy/model_patcher.py": parts.MODEL_PATCHER,
        "comfy/model_management.py": parts.MODEL_MANAGEMENT,
    }
    if chosen.has_slices:
        files["comfy/memory_management.py"] = parts.MEMORY_MANAGEMENT
    version = f'__version__ = "{chosen.version}"\n'
    if chosen.pyproject:
        files["pyproject.toml"] = f'[project]\nname = "ComfyUI"\nversion = "{chosen.version}"\n'
    else:
        files["comfyui_version.py"] = version
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_filled(text, chosen.places).replace("\n", line_end).encode())
    if git:
        make_checkout(root)
    return root


def make_checkout(root: Path) -> None:
    """Make a folder a git checkout, and commit all of it."""
    (root / ".gitignore").write_text("__pycache__/\n")
    for arguments in (
        ("init", "-q", "-b", "main"),
        ("config", "user.email", "someone@example.org"),
        ("config", "user.name", "Someone"),
        ("add", "-A"),
        ("commit", "-q", "-m", "As it was"),
    ):
        subprocess.run(["git", "-C", str(root), *arguments], check=True)


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a tree; caches of compiled code and git's own are left out."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not {"__pycache__", ".git"} & set(path.parts)
    }


def _filled(text: str, places: Mapping[str, str]) -> str:
    """Put in what stands for the placeholders, each at its own depth."""
    for name, value in places.items():
        lines = []
        for line in text.split("\n"):
            if line.strip() == name:
                depth = line[: len(line) - len(line.lstrip())]
                if not value:
                    continue
                lines.append(textwrap.indent(textwrap.dedent(value), depth).rstrip("\n"))
                if value.endswith("\n\n\n"):
                    lines += ["", ""]
            else:
                lines.append(line.replace(name, value) if name in line.split('"""')[0] else line)
        text = "\n".join(lines)
    return text
