"""Put this package into an existing stock ComfyUI: its files, and a few marked lines that call it.

The lines rest unless --load-strategy or --disable-mmap is given, or CPU and GPU share their memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comfy.loading.commands.graft_anchors import GraftRefused
from comfy.loading.commands.graft_diff import commit, unified
from comfy.loading.commands.graft_edits import MARK, Edit, edits
from comfy.loading.commands.graft_trees import Checkout, apply, edition, package_files, undo
from comfy.loading.commands.tables import facts, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("path", metavar="PATH", help="the folder of a ComfyUI")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="tell whether it would fit, and where; change nothing"
    )
    what.add_argument("--undo", action="store_true", help="take everything out again")
    what.add_argument(
        "--branch",
        metavar="NAME",
        help="commit it to a new branch in reviewable steps; the files stay as they are",
    )
    parser.add_argument(
        "--diff", metavar="FILE", help="write it as a unified diff; the files stay as they are"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="go on although the checkout has changes that are not committed, or, with --undo, "
        "although files of the package were changed",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked, all of it or nothing.

    Returns:
        0.

    Raises:
        FileNotFoundError: If there is no such folder.
        GraftRefused: With the reason; nothing was changed then.
    """
    checkout = Checkout.at(arguments.path)
    known = checkout.manifest()
    if arguments.undo:
        return _undo(checkout, known, arguments.force)
    package = package_files()
    if known is not None:
        return _is_there(checkout, known, package)
    if not arguments.check:
        _refuse_changes(checkout, arguments.force)
    found = edits(checkout.root)
    if arguments.check:
        print("\n".join(_report(checkout, found)))
        return 0
    if arguments.diff is not None or arguments.branch is not None:
        return _for_review(checkout, found, package, arguments)
    apply(checkout, found, package)
    lines = sum(one.lines for one in found)
    print(
        f"ComfyUI {checkout.version} in {checkout.root}: put in comfy/loading and {lines} lines, "
        f"each marked '{MARK.strip()}', in {len(found)} files. --undo takes them out."
    )
    return 0


def _for_review(
    checkout: Checkout,
    found: Sequence[Edit],
    package: Mapping[str, bytes],
    arguments: argparse.Namespace,
) -> int:
    if arguments.branch is not None:
        subjects = commit(checkout, arguments.branch, package)
        print(f"Branch {arguments.branch} in {checkout.root}, {len(subjects)} commits:")
        print("\n".join(f"  {subject}" for subject in subjects))
    if arguments.diff is not None:
        try:
            Path(arguments.diff).write_bytes(unified(found, package))
        except OSError as err:
            raise GraftRefused(f"{arguments.diff} cannot be written: {err}.") from err
        print(f"Wrote {arguments.diff}; {checkout.root} is as it was.")
    return 0


def _is_there(checkout: Checkout, known: Mapping[str, Any], package: Mapping[str, bytes]) -> int:
    """Judge a checkout that has a graft already."""
    here = edition(package)
    if known["edition"] != here:
        raise GraftRefused(
            f"{checkout.root} has a graft of another version already ({known['edition']}; this is "
            f"{here}).",
            hint="Give --undo first; nothing was changed.",
        )
    mark = MARK.strip().encode()
    bare = [name for name in known["files"] if mark not in (checkout.root / name).read_bytes()]
    if bare:
        raise GraftRefused(
            f"{checkout.root} has this graft, but {', '.join(bare)} lost its lines: an update "
            "replaced the file.",
            hint="Give --undo first, and graft again; nothing was changed.",
        )
    print(f"ComfyUI {checkout.version} in {checkout.root} has this graft already.")
    return 0


def _refuse_changes(checkout: Checkout, force: bool) -> None:
    changed = [] if force else checkout.changed_files()
    if changed:
        some = ", ".join(changed[:5]) + (" and more" if len(changed) > 5 else "")
        raise GraftRefused(
            f"{checkout.root} has changes that are not committed: {some}.",
            hint="Commit them, or give --force; nothing was changed.",
        )


def _undo(checkout: Checkout, known: Mapping[str, Any] | None, force: bool) -> int:
    if known is None:
        print(f"ComfyUI {checkout.version} in {checkout.root} has no graft: nothing to undo.")
        return 0
    notes = undo(checkout, known, force)
    print(f"ComfyUI {checkout.version} in {checkout.root} is as it was before the graft.")
    print("".join(f"  {note}\n" for note in notes), end="")
    return 0


def _report(checkout: Checkout, found: Sequence[Edit]) -> list[str]:
    rows = []
    for one in found:
        for anchor in one.found:
            line = "not in this version" if anchor.line is None else str(anchor.line)
            rows.append((anchor.file, anchor.what, line))
    changed = checkout.changed_files()
    total = sum(one.lines for one in found)
    pairs = [
        ("checkout", str(checkout.root)),
        ("version", checkout.version),
        ("would fit", f"yes: {total} lines in {len(found)} files, and comfy/loading"),
        ("not committed", ", ".join(changed) if changed else "nothing"),
    ]
    return [*facts(pairs), "", *table(("file", "anchor", "line"), rows, right="lll")]
