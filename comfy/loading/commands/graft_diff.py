"""The graft as something to review: a unified diff, or a branch of small commits."""

from __future__ import annotations

import difflib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comfy.loading.commands.graft_anchors import GraftRefused, Source
from comfy.loading.commands.graft_edits import HOOKS, Edit, edit
from comfy.loading.commands.graft_trees import PACKAGE, Checkout

_CONTEXT_LINES = 3


def unified(edits: Sequence[Edit], package: Mapping[str, bytes]) -> bytes:
    """The whole graft as a diff that ``git apply`` and ``patch -p1`` take."""
    parts = [_one_file(one.file, one.before, one.after) for one in edits]
    parts += [_one_file(name, None, content) for name, content in package.items()]
    return b"".join(parts)


def _one_file(name: str, before: bytes | None, after: bytes) -> bytes:
    header = f"diff --git a/{name} b/{name}\n"
    if before is None:
        header += "new file mode 100644\n"
    old = "/dev/null" if before is None else f"a/{name}"
    # One character for each byte: whatever encoding and line ends a file has, it keeps.
    lines = difflib.unified_diff(
        _lines(before or b""),
        _lines(after),
        old,
        f"b/{name}",
        n=_CONTEXT_LINES,
    )
    body = "".join(line if line.endswith("\n") else f"{line}\n{_NO_END}" for line in lines)
    return header.encode() + body.encode("latin-1")


_NO_END = "\\ No newline at end of file\n"


def _lines(content: bytes) -> list[str]:
    r"""Lines that end with ``\n`` and nothing else: other line breaks of Unicode are text."""
    pieces = content.decode("latin-1").split("\n")
    lines = [piece + "\n" for piece in pieces[:-1]]
    return [*lines, pieces[-1]] if pieces[-1] else lines


# -- commits -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """One commit.

    Attributes:
        message: Subject, empty line, body.
        names: Units of `comfy.loading` (files without suffix, or folders) or hooked files.
    """

    message: str
    names: tuple[str, ...]


_READING = (
    "errors",
    "options",
    "reader",
    "weight_file",
    "weight_slice",
    "storage",
    "mounts",
    "pages",
    "page_cache",
    "encodings",
    "strict_json",
    "header_table",
    "header",
    "pickle_machine",
    "pickle_names",
    "pickle_zip",
    "pickles",
    "shards",
    "contents",
)
_PLANNING = ("signals", "hardware", "cgroups", "usage", "memory", "decision_table", "plan")
_MOVING = (
    "homes",
    "writes",
    "file_tensor",
    "deferred",
    "sources",
    "devices",
    "staging",
    "rings",
    "windows",
    "destinations",
    "transfer",
    "placing",
    "mover",
)

STEPS = (
    _Step(
        "loading: read checkpoints without mapping them\n\n"
        "Positional reads, a strict check of safetensors headers before anything is allocated, and\n"
        "pickled checkpoints without running code. Nothing calls it yet.",
        _READING,
    ),
    _Step(
        "loading: tell what the machine is, and plan a load by it\n\n"
        "Unified memory by what drivers report, memory limits of containers, one table that\n"
        "decides how a file is loaded and says why. Nothing calls it yet.",
        _PLANNING,
    ),
    _Step(
        "loading: weights that stay in their file until a device takes them\n\n"
        "A tensor of full shape and dtype without bytes, and one way from file to device through a\n"
        "staging ring of fixed size. Nothing calls it yet.",
        _MOVING,
    ),
    _Step(
        "loading: strategies, the loader, hooks and command line\n\n"
        "mmap, readinto and file-slice behind one protocol; python -m comfy.loading doctor,\n"
        "inspect and bench. Nothing in ComfyUI calls it yet.",
        (),
    ),
    _Step(
        "cli: flags for loading\n\n"
        "--load-strategy and its companions; --disable-mmap keeps its name. Without them nothing\n"
        "changes where host and device have memories of their own.",
        ("comfy/cli_args.py",),
    ),
    _Step(
        "utils: load_torch_file honours --load-strategy and --disable-mmap\n\n"
        "--disable-mmap now maps nothing, instead of copying what was mapped.",
        ("comfy/utils.py",),
    ),
    _Step(
        "models: weights come from their file and return to it\n\n"
        "A model that is unloaded costs no host memory if its weights are in a file, and a\n"
        "patched weight keeps no copy of the unpatched one.",
        ("comfy/model_base.py", "comfy/model_patcher.py"),
    ),
    _Step(
        "memory: free memory where CPU and GPU share it\n\n"
        "The driver counts page cache as used there. What the system has available is asked\n"
        "instead. Mapped weights are not page-locked.",
        ("comfy/model_management.py",),
    ),
)


def _files_of(step: _Step, left: Mapping[str, bytes]) -> list[str]:
    if not step.names:
        return [name for name in left if name.startswith(f"{PACKAGE}/")]
    found = []
    for name in left:
        unit = name.removeprefix(f"{PACKAGE}/").removesuffix(".py").split("/")[0]
        if name in step.names or (name.startswith(f"{PACKAGE}/") and unit in step.names):
            found.append(name)
    return found


def commit(checkout: Checkout, branch: str, package: Mapping[str, bytes]) -> list[str]:
    """Make a branch with the graft on top of the last commit, in reviewable steps.

    The working tree, the index and the current branch stay as they are.

    Args:
        checkout: A git checkout.
        branch: A new name.
        package: Of `graft_trees.package_files`.

    Returns:
        Subjects of the commits.

    Raises:
        GraftRefused: If there is no git checkout, the branch exists, git fails, or an anchor is
            missing in what was committed.
    """
    git = _Git(checkout.root)
    if not checkout.is_git:
        # Git says why where it knows: no checkout at all, or one of somebody whom it does not trust.
        top = git("rev-parse", "--show-toplevel").decode().strip()
        raise GraftRefused(
            f"{checkout.root} is not the top of a git checkout: {top} is.",
            hint="--branch needs one; nothing was changed.",
        )
    git("check-ref-format", "--branch", branch)
    if git("for-each-ref", f"refs/heads/{branch}"):
        raise GraftRefused(
            f"{checkout.root} has a branch {branch} already.",
            hint="Give another name. No branch was made.",
        )
    head = git("rev-parse", "HEAD").decode().strip()
    sources = [Source(name, git("show", f"HEAD:{name}")) for name in HOOKS]
    modes = {name: git("ls-tree", "HEAD", name).decode()[:6] for name in HOOKS}
    left = {**package, **{one.file: one.after for one in map(edit, sources)}}
    who = git("var", "GIT_COMMITTER_IDENT").strip()
    stream: list[bytes] = []
    for step in STEPS:
        files = {name: left.pop(name) for name in _files_of(step, left)}
        stream.append(
            _as_commit(branch, who, step.message, head if not stream else "", files, modes)
        )
    git("fast-import", "--quiet", given=b"".join(stream))
    return [step.message.splitlines()[0] for step in STEPS]


def _as_commit(
    branch: str,
    who: bytes,
    message: str,
    parent: str,
    files: Mapping[str, bytes],
    modes: Mapping[str, str],
) -> bytes:
    """One commit as ``git fast-import`` reads it: contents go in as they are, without filters."""
    parts = [f"commit refs/heads/{branch}\n".encode(), b"committer ", who, b"\n", _data(message)]
    if parent:
        parts.append(f"from {parent}\n".encode())
    for name, content in files.items():
        parts += [f"M {modes.get(name, '100644')} inline {name}\n".encode(), _data(content)]
    return b"".join(parts)


def _data(content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return b"data %d\n%b\n" % (len(raw), raw)


class _Git:
    """Git on one repository."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, *arguments: str, given: bytes | None = None) -> bytes:
        """Run a command; what it prints.

        Raises:
            GraftRefused: If it fails, with its words.
        """
        done = subprocess.run(
            ["git", "-C", str(self._root), *arguments],
            input=given,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            complaint = done.stderr.decode("utf-8", "replace").strip()
            raise GraftRefused(
                f"git {arguments[0]} failed: {complaint}", hint="No branch was made."
            )
        return done.stdout
