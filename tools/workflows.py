"""Graphs of the demo: in the form that is run, and in the form that the web page opens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Graph = dict[str, dict[str, Any]]
"""Node id to {"class_type", "inputs"}; an input that is [node id, output] is a link."""

_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")
_COLUMN_PIXELS, _ROW_PIXELS = 340, 220
_ROWS = 3


def text_to_image(
    checkpoint: str, prompt: str, seed: int, *, pixels: int, steps: int, cfg: float, prefix: str
) -> Graph:
    """The default graph: checkpoint, two prompts, empty latent, sampler, decoder, file."""
    sampler = {
        "seed": seed,
        "steps": steps,
        "cfg": cfg,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "model": ["1", 0],
        "positive": ["2", 0],
        "negative": ["3", 0],
        "latent_image": ["4", 0],
    }
    size = {"width": pixels, "height": pixels, "batch_size": 1}
    made: list[tuple[str, dict[str, Any]]] = [
        ("CheckpointLoaderSimple", {"ckpt_name": checkpoint}),
        ("CLIPTextEncode", {"text": prompt, "clip": ["1", 1]}),
        ("CLIPTextEncode", {"text": "", "clip": ["1", 1]}),
        ("EmptyLatentImage", size),
        ("KSampler", sampler),
        ("VAEDecode", {"samples": ["5", 0], "vae": ["1", 2]}),
        ("SaveImage", {"filename_prefix": prefix, "images": ["6", 0]}),
    ]
    return {
        str(number): {"class_type": kind, "inputs": inputs}
        for number, (kind, inputs) in enumerate(made, start=1)
    }


def is_link(value: Any) -> bool:
    """Whether an input's value names an output of another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def page_workflow(graph: Graph, classes: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The workflow that the web page shows for a graph.

    Args:
        graph: Ids are numbers.
        classes: Node classes by name; they tell the order of inputs and the types of outputs.
    """
    nodes = {node: _page_node(node, graph[node], classes) for node in graph}
    links: list[list[Any]] = []
    for target, node in graph.items():
        for slot, given in enumerate(nodes[target]["inputs"]):
            source, output = node["inputs"][given["name"]]
            given["link"] = len(links) + 1
            links.append([given["link"], int(source), output, int(target), slot, given["type"]])
            nodes[source]["outputs"][output]["links"].append(given["link"])
    return {
        "last_node_id": max(int(node) for node in graph),
        "last_link_id": len(links),
        "nodes": list(nodes.values()),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _page_node(
    number: str, node: dict[str, Any], classes: Mapping[str, type[Any]]
) -> dict[str, Any]:
    kind = classes[node["class_type"]]
    column, row = divmod(int(number) - 1, _ROWS)
    sockets, widgets = [], []
    for name, (accepts, *settings) in kind.INPUT_TYPES()["required"].items():
        value = node["inputs"][name]
        if is_link(value):
            sockets.append({"name": name, "type": accepts, "link": None})
        elif accepts in _WIDGETS or isinstance(accepts, list):
            widgets.append(value)
            if settings and settings[0].get("control_after_generate"):
                widgets.append("fixed")
    names = getattr(kind, "RETURN_NAMES", kind.RETURN_TYPES)
    outputs = [
        {"name": name, "type": output, "links": [], "slot_index": slot}
        for slot, (name, output) in enumerate(zip(names, kind.RETURN_TYPES, strict=True))
    ]
    return {
        "id": int(number),
        "type": node["class_type"],
        "pos": [40 + column * _COLUMN_PIXELS, 60 + row * _ROW_PIXELS],
        "size": [300, 180],
        "flags": {},
        "order": int(number) - 1,
        "mode": 0,
        "inputs": sockets,
        "outputs": outputs,
        "properties": {"Node name for S&R": node["class_type"]},
        "widgets_values": widgets,
    }


def run(
    graph: Graph, classes: Mapping[str, type[Any]], cache: dict[str, Any]
) -> list[dict[str, Any]]:
    """Run the nodes of a graph in the order of their ids.

    Args:
        graph: Each node links to nodes before it only.
        classes: Node classes by name.
        cache: Results of nodes by class and inputs, links included; what is in it is not run again.

    Returns:
        What the output nodes say of their files.
    """
    results: dict[str, Any] = {}
    keys: dict[str, str] = {}
    files: list[dict[str, Any]] = []
    hidden = {"PROMPT": graph, "EXTRA_PNGINFO": {"workflow": page_workflow(graph, classes)}}
    for number, node in graph.items():
        kind = classes[node["class_type"]]
        links = {name: value for name, value in node["inputs"].items() if is_link(value)}
        plain = {name: value for name, value in node["inputs"].items() if name not in links}
        sources = {name: (keys[source], slot) for name, (source, slot) in links.items()}
        keys[number] = repr((node["class_type"], sorted(plain.items()), sorted(sources.items())))
        if keys[number] not in cache:
            arguments = {name: results[source][slot] for name, (source, slot) in links.items()}
            for name, wanted in kind.INPUT_TYPES().get("hidden", {}).items():
                arguments[name] = hidden[wanted]
            cache[keys[number]] = getattr(kind(), kind.FUNCTION)(**plain, **arguments)
        results[number] = cache[keys[number]]
        if getattr(kind, "OUTPUT_NODE", False):
            files += results[number]["ui"]["images"]
    return files
