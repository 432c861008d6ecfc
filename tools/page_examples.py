"""Lay the examples out as the page saves workflows: examples/workflows/ -> examples/page/.

``.venv/bin/python tools/page_examples.py`` writes them anew; a test tells when they are out of date.
New users find them in the page's list of workflows.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# This is a script, and the package is not installed.
sys.path.insert(0, str(ROOT))

import nodes as node_classes  # noqa: E402
from app.headless.node_inputs import inputs_of  # noqa: E402
from app.headless.run import load_nodes  # noqa: E402

EXAMPLES = ROOT / "examples" / "workflows"
PAGES = ROOT / "examples" / "page"

Prompt = Mapping[str, Mapping[str, Any]]
"""Node id to {"class_type", "inputs", "_meta"}."""

# In the page's pixels. Ids of workflows must stay from one writing to the next.
_WIDTH, _GAP_X, _GAP_Y, _TITLE = 300, 50, 60, 36
_ROW, _LINES, _PICTURE = 26, 90, 300
_NOTE_HEIGHT = 120
_IDS = uuid.UUID("5a2f8f0e-6d0f-4f0a-9d0c-3f3b5c1e7a42")
_KNOWS = (
    "The checkpoint knows the shapes circle, square, triangle, star, cross and ring in ten colours,"
    " on a white, black, beige or navy background. Press Run."
)


def descriptions() -> dict[str, str]:
    """What each example shows, from the list for readers."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", (ROOT / "examples/README.md").read_text(), re.M)
    return {name: f"{text[:1].upper()}{text[1:]}." for name, text in rows}


def is_link(value: Any) -> bool:
    """Whether an input's value names an output of another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def depths(prompt: Prompt) -> dict[str, int]:
    """How many nodes at most come before each; nodes in the order in which they can run."""
    found: dict[str, int] = {}

    def depth(node: str) -> int:
        if node not in found:
            sources = [value[0] for value in prompt[node]["inputs"].values() if is_link(value)]
            found[node] = max((depth(source) + 1 for source in sources), default=0)
        return found[node]

    for node in prompt:
        depth(node)
    return found


def page_workflow(
    name: str, text: str, prompt: Prompt, classes: Mapping[str, Any]
) -> dict[str, Any]:
    """The page's form of a prompt.

    Args:
        name: Of the example.
        text: What it shows, for a note above.
        prompt: Its ids are numbers.
        classes: Node classes by name.
    """
    nodes = {node: _page_node(node, prompt[node], classes) for node in prompt}
    links: list[list[Any]] = []
    for target in prompt:
        for slot, socket in enumerate(nodes[target]["inputs"]):
            source, output = prompt[target]["inputs"][socket["name"]]
            socket["link"] = len(links) + 1
            given = nodes[source]["outputs"][output]
            given["links"].append(socket["link"])
            links.append([socket["link"], int(source), output, int(target), slot, given["type"]])
    _lay_out(nodes, depths(prompt))
    note = _note(max(map(int, prompt)) + 1, f"{text} {_KNOWS}")
    return {
        "id": str(uuid.uuid5(_IDS, name)),
        "revision": 0,
        "last_node_id": note["id"],
        "last_link_id": len(links),
        "nodes": [*nodes.values(), note],
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _page_node(number: str, node: Mapping[str, Any], classes: Mapping[str, Any]) -> dict[str, Any]:
    kind = classes[node["class_type"]]
    sockets: list[dict[str, Any]] = []
    widgets: list[Any] = []
    height = 0
    for one in inputs_of(kind):
        value = node["inputs"].get(one.name, one.default)
        if is_link(value):
            sockets.append({"name": one.name, "type": one.kind, "link": None})
        elif one.has_widget:
            widgets.append(value)
            height += _LINES if one.options.get("multiline") else _ROW
            if one.has_control:
                # A second press of Run draws another picture.
                widgets.append("randomize")
                height += _ROW
    names = getattr(kind, "RETURN_NAMES", None) or kind.RETURN_TYPES
    outputs = [
        {"name": name, "type": output, "links": [], "slot_index": slot}
        for slot, (name, output) in enumerate(zip(names, kind.RETURN_TYPES, strict=True))
    ]
    height += _ROW * max(len(sockets), len(outputs)) + (
        _PICTURE if getattr(kind, "OUTPUT_NODE", False) else 0
    )
    return {
        "id": int(number),
        "type": node["class_type"],
        "pos": [0, 0],
        "size": [_WIDTH, height],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": sockets,
        "outputs": outputs,
        "title": node["_meta"]["title"],
        "properties": {"Node name for S&R": node["class_type"]},
        "widgets_values": widgets,
    }


def _lay_out(nodes: Mapping[str, dict[str, Any]], depth: Mapping[str, int]) -> None:
    """Put nodes in columns, each to the right of those it takes from."""
    bottom: dict[int, int] = {}
    for order, (number, column) in enumerate(sorted(depth.items(), key=lambda item: item[1])):
        node = nodes[number]
        node["order"] = order
        top = bottom.get(column, 0)
        node["pos"] = [column * (_WIDTH + _GAP_X), top]
        bottom[column] = top + node["size"][1] + _GAP_Y


def _note(number: int, text: str) -> dict[str, Any]:
    return {
        "id": number,
        "type": "Note",
        "pos": [0, -_NOTE_HEIGHT - _GAP_Y],
        "size": [2 * _WIDTH + _GAP_X, _NOTE_HEIGHT],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [text],
    }


def all_pages(classes: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the files to be written, by name of the example.

    Args:
        classes: Node classes by name.
    """
    shows = descriptions()
    found = {}
    for path in sorted(EXAMPLES.glob("*.json")):
        prompt = json.loads(path.read_text())
        # One is in the page's form already.
        if "nodes" not in prompt:
            page = page_workflow(path.stem, shows[path.stem], prompt, classes)
            found[path.stem] = json.dumps(page, indent=1) + "\n"
    return found


def main() -> None:
    """Write the files."""
    load_nodes()
    PAGES.mkdir(exist_ok=True)
    for name, text in all_pages(node_classes.NODE_CLASS_MAPPINGS).items():
        (PAGES / f"{name}.json").write_text(text)
        print(PAGES / f"{name}.json")


if __name__ == "__main__":
    main()
