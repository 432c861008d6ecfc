"""What the page is told about a node, in the form of the tables in `tests-unit/data`.

A table is {module: {node: facts}}, facts are {display, category, flags, required, optional, hidden,
outputs}. An input is its type or list of choices, and its options; ``{NAME}`` stands for a list of
`comfy.samplers`, ``<...>`` for names of files. An output is its type, its name where it has one of
its own, and "[]" in the type if it is a list.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import comfy.samplers

DATA = Path(__file__).resolve().parent.parent / "data"

_FLAGS = {"output_node": "OUTPUT_NODE", "deprecated": "DEPRECATED", "experimental": "EXPERIMENTAL"}
_LISTS = {
    "{SAMPLERS}": comfy.samplers.SAMPLER_NAMES,
    "{SCHEDULERS}": comfy.samplers.SCHEDULER_NAMES,
}
# What the tables leave out: texts for people, and what says the same for every node.
_NOT_TOLD = ("tooltip", "options", "multiselect")

Facts = dict[str, Any]


def table(name: str) -> dict[str, dict[str, Facts]]:
    """Read a table, such as "extras_nodes_sampling.json"."""
    read: dict[str, dict[str, Facts]] = json.loads((DATA / name).read_text())
    return read


def tables() -> list[dict[str, dict[str, Facts]]]:
    """All tables of `comfy_extras`."""
    return [table(f"extras_nodes_{name}.json") for name in ("images", "merging", "sampling")]


def nodes_of(module: str) -> dict[str, tuple[Any, str]]:
    """The nodes that a file of `comfy_extras` brings: class and name on the page, by node id."""
    file = importlib.import_module(f"comfy_extras.{module}")
    if getattr(file, "NODE_CLASS_MAPPINGS", None) is not None:
        names = getattr(file, "NODE_DISPLAY_NAME_MAPPINGS", {})
        return {
            node: (kind, names.get(node, node)) for node, kind in file.NODE_CLASS_MAPPINGS.items()
        }

    async def from_extension() -> list[Any]:
        extension = await file.comfy_entrypoint()
        found: list[Any] = await extension.get_node_list()
        return found

    schemas = [(kind, kind.GET_SCHEMA()) for kind in asyncio.run(from_extension())]
    return {
        schema.node_id: (kind, schema.display_name or schema.node_id) for kind, schema in schemas
    }


def as_sent(facts: Facts) -> Facts:
    """What is left of it in JSON: rows and lists are the same there."""
    sent: Facts = json.loads(json.dumps(facts))
    return sent


def told(kind: Any, display: str) -> Facts:
    """What a node tells of itself, as a table has it.

    Args:
        kind: Its class, classic or with a schema.
        display: Its name on the page.
    """
    sections = kind.INPUT_TYPES()
    facts: Facts = {
        "display": display,
        "category": kind.CATEGORY,
        "flags": sorted(flag for flag, name in _FLAGS.items() if getattr(kind, name, False)),
        "outputs": _outputs(kind),
    }
    for section in ("required", "optional"):
        facts[section] = [(name, _input(spec)) for name, spec in sections.get(section, {}).items()]
    facts["hidden"] = sorted(sections.get("hidden", {}))
    return facts


def wanted(facts: Facts, shown: Facts) -> Facts:
    """The facts of a table in the form of `told`; files are taken over from what is shown."""
    result: Facts = {"display": facts["display"], "category": facts["category"]}
    result["flags"] = sorted(facts["flags"])
    result["outputs"] = [list(output) for output in facts["outputs"]]
    result["hidden"] = sorted(facts.get("hidden", ()))
    for section in ("required", "optional"):
        given = dict(shown[section])
        result[section] = [
            (name, _resolved(spec, given.get(name)))
            for name, spec in facts.get(section, {}).items()
        ]
    return result


def takes_its_inputs(kind: Any) -> bool:
    """Whether the function that is called for a node has all inputs as arguments."""
    is_classic = not hasattr(kind, "GET_SCHEMA")
    function = getattr(kind, kind.FUNCTION if is_classic else "execute")
    code = function.__code__
    taken = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    sections = kind.INPUT_TYPES()
    names = {name for part in ("required", "optional") for name in sections.get(part, {})}
    return names <= set(taken)


def _input(spec: Any) -> list[Any]:
    kind, options = spec[0], dict((spec[1:] or ({},))[0])
    if kind == "COMBO":
        # The page asks the server for the choices of one that has none.
        kind = options.get("options", kind)
    kept = {key: value for key, value in options.items() if key not in _NOT_TOLD}
    # A text of one line is one that says nothing about lines.
    if kept.get("multiline") is False:
        del kept["multiline"]
    kind = list(kind) if isinstance(kind, (list, tuple)) else kind
    return [kind, kept] if kept else [kind]


def _resolved(spec: list[Any], shown: list[Any] | None) -> list[Any]:
    first = spec[0]
    if isinstance(first, str) and first.startswith("<") and shown is not None:
        assert isinstance(shown[0], list)
        first = shown[0]
    return [_LISTS.get(str(first), first), *spec[1:]]


def _outputs(kind: Any) -> list[list[str]]:
    names = list(getattr(kind, "RETURN_NAMES", None) or kind.RETURN_TYPES)
    is_list = list(getattr(kind, "OUTPUT_IS_LIST", None) or [False] * len(names))
    types = [
        f"{one}[]" if many else one for one, many in zip(kind.RETURN_TYPES, is_list, strict=True)
    ]
    return [
        [shown] if name == plain else [shown, name]
        for shown, plain, name in zip(types, kind.RETURN_TYPES, names, strict=True)
    ]
